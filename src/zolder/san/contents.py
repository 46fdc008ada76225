"""Contents of zvols on real ZFS: written under the zvol's lock for as long as that takes, read without one.

Which operation has begun to write a zvol, and whether it has ended, stands on the zvol (``zolder:contents``):
a repeat goes on where the line was lost and clears nothing, one that had ended already changes nothing, and
one that has been overtaken by another writes nothing (docs/design.md, 5). A zvol is cleared before its first
byte is written, however new it is: of one without data that frees nothing and costs nothing.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from typing import Final, NamedTuple

from zolder.errors import BackendError, Busy, Error, InvalidRequest, TransportError
from zolder.frames import Frame, Sink, Source
from zolder.model import Change
from zolder.names import DatasetName, OperationId, ZvolName, read_name, zvol_dataset
from zolder.san.blocks import Blocks
from zolder.san.exporting import ZfsExports
from zolder.san.libzfs import CONTENTS_NOTE, EXPORT_RECORD, Properties
from zolder.san.moments import ensure_moment, has_moment, remove_moment
from zolder.san.settling import settling
from zolder.san.zpool import Zpool, local
from zolder.san.zvols import look_at, set_mark

LOG = logging.getLogger(__name__)

_TOLD_EACH_SECONDS: Final = 10


class State(Enum):
    """How far an operation has come that writes a zvol."""

    BEGUN = "begun"
    WRITTEN = "written"


class Note(NamedTuple):
    """What stands on a zvol of the last operation that wrote it."""

    operation: OperationId
    state: State


class ZfsContents(ZfsExports):
    """What one operation may do about contents; zolder.san.storage adds the rest."""

    @settling()
    def write_zvol(self, parent: DatasetName, zvol: ZvolName, source: Source) -> Change[None]:
        """See ``Contents``."""
        dataset = zvol_dataset(parent, zvol)
        with self._locks.hold_for_long(self._operation, dataset):
            zpool = self._zpool(parent)
            found, seen = look_at(zpool, zvol)
            note = read_note(seen, dataset)
            is_mine = note is not None and note.operation == self._operation.id
            if is_mine and note is not None and note.state is State.WRITTEN:
                return Change(changed=False, value=None)
            if source.resumed and not is_mine:
                message = f"{dataset} has been written by another operation meanwhile: this one ends here"
                raise Busy(message, holders=["another operation of Zolder"])
            with self._opened(parent, zvol, to_write=True) as descriptor:
                blocks = Blocks(descriptor, dataset, found.volsize_bytes)
                if not is_mine:
                    blocks.clear(self._going_on())
                    self._write_note(zpool, dataset, State.BEGUN)
                blocks.write(source)
            self._write_note(zpool, dataset, State.WRITTEN)
        return Change(changed=True, value=None)

    @settling()
    def read_zvol(self, parent: DatasetName, zvol: ZvolName, sink: Sink) -> int:
        """See ``Contents``; the open device keeps the zvol from being destroyed, and nothing else waits.

        One that somebody may write to meanwhile is read as it is at one moment.
        """
        dataset, is_new = zvol_dataset(parent, zvol), None
        with ExitStack() as open_meanwhile:
            with self._changing(parent, zvol) as zpool:
                found, seen = look_at(zpool, zvol)
                source = zvol
                if local(seen, EXPORT_RECORD, dataset) is not None:
                    source, is_new = open_meanwhile.enter_context(self._moment(zpool, zvol))
                descriptor = open_meanwhile.enter_context(self._opened(parent, source, to_write=False))

            def is_same_moment() -> bool:
                return not is_new if is_new is not None else not has_moment(zpool, self._operation.id)

            Blocks(descriptor, dataset, found.volsize_bytes).read(_OfOneMoment(sink, dataset, is_same_moment))
        return found.volsize_bytes

    @contextmanager
    def _moment(self, zpool: Zpool, zvol: ZvolName) -> Iterator[tuple[ZvolName, bool]]:
        """Yield the clone of a zvol as it is now, or was when this operation began, and whether it is new."""
        clone = read_name(self._operation.id)
        with self._locks.hold_for_long(self._operation, zvol_dataset(zpool.parent, clone)):
            is_new = ensure_moment(zpool, zvol, self._operation.id)
            is_wanted = False
            try:
                yield clone, is_new
            except TransportError:
                is_wanted = True  # whoever takes the line up again goes on at the same moment
                raise
            finally:
                if not is_wanted:
                    self._end_moment(zpool, clone)

    def _end_moment(self, zpool: Zpool, clone: ZvolName) -> None:
        try:
            remove_moment(zpool, clone, self._operation)
        except Error as err:
            # What was read is whole, or has its own error; the next figures take the clone away.
            LOG.warning("%s/%s stays although nobody reads it: %s", zpool.parent, clone, err.message)

    @contextmanager
    def _opened(self, parent: DatasetName, zvol: ZvolName, *, to_write: bool) -> Iterator[int]:
        descriptor = self._privileged.open_device(parent, zvol, to_write=to_write)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _going_on(self) -> Callable[[], None]:
        """Return what tells the client now and then that it is not forgotten, while its zvol is cleared."""
        told = time.monotonic()

        def go_on() -> None:
            nonlocal told
            self._operation.line.require_listener()
            if time.monotonic() - told > _TOLD_EACH_SECONDS:
                told = time.monotonic()
                self._operation.notify("clearing what the zvol had before")

        return go_on

    def _write_note(self, zpool: Zpool, dataset: str, state: State) -> None:
        set_mark(zpool, dataset, CONTENTS_NOTE, f"{self._operation.id} {state.value}")


class _OfOneMoment(Sink):
    """A sink that goes on only with what it had its beginning from."""

    def __init__(self, sink: Sink, dataset: str, is_same: Callable[[], bool]) -> None:
        self._sink = sink
        self._dataset = dataset
        self._is_same = is_same

    def begin(self) -> int:
        begin = self._sink.begin()
        if begin and not self._is_same():
            message = (
                f"{self._dataset} has been written to since the line was lost: read it from its beginning"
            )
            raise BackendError(message)
        return begin

    def put(self, frame: Frame) -> None:
        self._sink.put(frame)


def read_note(found: Properties, dataset: str) -> Note | None:
    """Return what stands on a zvol itself; None where that is nothing, or nothing that Zolder wrote."""
    operation, _, state = (local(found, CONTENTS_NOTE, dataset) or "").partition(" ")
    try:
        return Note(OperationId(operation), State(state))
    except (InvalidRequest, ValueError):
        return None
