"""Contents of zvols on real ZFS: written under the zvol's lock for as long as that takes, read without one.

Which operation has begun to write a zvol, and whether it has ended, stands on the zvol (``zolder:contents``):
a repeat goes on where the line was lost and clears nothing, one that had ended already changes nothing, and
one that has been overtaken by another writes nothing (docs/design.md, 5). A zvol is cleared before its first
byte is written, however new it is: of one without data that frees nothing and costs nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from typing import Final, NamedTuple

from zolder.errors import Busy, InvalidRequest
from zolder.frames import Sink, Source
from zolder.model import Change
from zolder.names import DatasetName, OperationId, ZvolName, zvol_dataset
from zolder.san.blocks import Blocks
from zolder.san.exporting import ZfsExports
from zolder.san.libzfs import CONTENTS_NOTE, Properties
from zolder.san.settling import settling
from zolder.san.zpool import Zpool, local
from zolder.san.zvols import look_at, set_mark

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
        """See ``Contents``; the open device keeps the zvol from being destroyed, and nothing else waits."""
        with ExitStack() as open_meanwhile:
            with self._changing(parent, zvol) as zpool:
                found, _ = look_at(zpool, zvol)
                descriptor = open_meanwhile.enter_context(self._opened(parent, zvol, to_write=False))
            Blocks(descriptor, zvol_dataset(parent, zvol), found.volsize_bytes).read(sink)
        return found.volsize_bytes

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


def read_note(found: Properties, dataset: str) -> Note | None:
    """Return what stands on a zvol itself; None where that is nothing, or nothing that Zolder wrote."""
    operation, _, state = (local(found, CONTENTS_NOTE, dataset) or "").partition(" ")
    try:
        return Note(OperationId(operation), State(state))
    except (InvalidRequest, ValueError):
        return None
