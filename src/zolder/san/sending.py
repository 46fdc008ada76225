"""The copy of a zvol in another zpool that is to take its place.

It is made under a name of the agent's own, from a snapshot of the agent's own, and bears a mark from before
its first block (``zolder:move``): how far it is, which operation makes it, and of what. What a cut leaves is
taken up by the same operation; any other begins anew, for its client says that the zvol is where it was, and
may have been written to since. The caller holds both locks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import NoReturn, Self

from zolder.errors import AlreadyExists, Busy, ConnectionLost, Error, InvalidRequest, NoSpace
from zolder.model import Zvol
from zolder.names import OperationId, ZvolName, arriving_name, is_own_snapshot, sent_leaf, zvol_dataset
from zolder.properties import given
from zolder.san import libzfs
from zolder.san.libzfs import ARRIVING, EXPORT_RECORD, MOVE_MARK, SNAPSHOT_MARK, VOLUME_MARK, Properties
from zolder.san.lzc import ZfsError
from zolder.san.operation import Operation
from zolder.san.snapshots import remove_snapshot, take_snapshot
from zolder.san.streams import Unfinished, bytes_written_since, estimate_bytes, find_unfinished, send_snapshot
from zolder.san.zpool import Zpool, is_full, local, number, refuse_foreign
from zolder.san.zvols import alive_snapshots, destroy_zvol, remove_own_snapshots, set_mark, shape_zvol

LOG = logging.getLogger(__name__)


class State(Enum):
    """How far a copy is: under way, or in the zvol's place, which may not have ended yet."""

    ARRIVING = ARRIVING
    ARRIVED = "arrived"


@dataclass(frozen=True, slots=True)
class Note:
    """What stands on a copy: how far it is, which operation makes it, and of which dataset."""

    state: State
    operation: OperationId
    guid: int
    source: str

    @classmethod
    def read(cls, found: Properties, dataset: str) -> Self | None:
        """Return what stands on a dataset itself; None where that is nothing, or nothing of ours."""
        words = (local(found, MOVE_MARK, dataset) or "").split(" ")
        try:
            state, operation, guid, source = words
            return cls(State(state), OperationId(operation), int(guid, 16), source)
        except (InvalidRequest, ValueError):
            return None

    def __str__(self) -> str:
        """Return it as it stands there."""
        return f"{self.state.value} {self.operation} {self.guid:016x} {self.source}"


class Copy:
    """One zvol's copy, and the zvol that it is of."""

    def __init__(self, here: Zpool, there: Zpool, source: Zvol, wanted: Zvol, operation: Operation) -> None:
        """Nothing is done yet.

        :param source: the zvol as it was found.
        :param wanted: what the copy is to be.
        """
        self.here, self.there = here, there
        self.source, self.wanted = source, wanted
        self.old = zvol_dataset(source.parent, source.name)
        self.new = zvol_dataset(wanted.parent, wanted.name)
        self._operation = operation
        self._name = arriving_name(wanted.name)
        self._arriving = zvol_dataset(wanted.parent, self._name)
        self._snapshot = f"{self.old}@{sent_leaf(operation.id)}"
        self._guid = number(here.glance(self.old).get(self.old, {}), "guid")

    def is_in_place(self, seen: Mapping[str, Properties]) -> bool:
        """Say whether this operation had the copy whole before; what another has left there goes.

        :param seen: what a look at the new place has shown.
        :raises AlreadyExists: something has the place that is no copy of this zvol.
        :raises Busy: what another left is in use.
        """
        if self.new not in seen:
            return False
        note = Note.read(seen[self.new], self.new)
        if note is None or note.guid != self._guid:
            refuse_taken(self.old, self.new)
        if note.operation == self._operation.id and self._is_current():
            self._mark(self.new, State.ARRIVED)
            return True
        if local(seen[self.new], EXPORT_RECORD, self.new) is not None:
            message = f"{self.new}, which a move has left, is exported: detach it first"
            raise Busy(message, holders=["an export of Zolder"])
        self._destroy(self.wanted.name)
        return False

    def send(self, held: int, tell: Callable[[int, int], None]) -> None:
        """Have a whole copy under a name of the agent's own; a failure leaves none, a lost line what goes on.

        :param held: the open file that the locks belong to.
        :param tell: told how many bytes have gone, of about how many; what it raises ends the sending.
        :raises Busy: the zvol has snapshots that were not deleted, or was written to meanwhile.
        :raises NoSpace: there is no room for it.
        """
        is_whole, unfinished = self._find_begun()
        remove_own_snapshots(self.here, self.old, but=self._snapshot)
        if alive := [name for name in alive_snapshots(self.old) if name != self._snapshot]:
            message = (
                f"{self.old} has snapshots, which do not go to another zpool: {', '.join(alive[:8])} must go"
                " first"
            )
            raise Busy(message, holders=alive)
        with self._or_none():
            if not is_whole:
                self._receive(unfinished, held, tell)
            self._require_current()

    def complete(self) -> None:
        """Make a copy that is whole what the zvol is, and give it its name; a failure leaves none.

        :raises NoSpace: it is to be thick, and does not fit.
        """
        leaf = self._snapshot.partition("@")[2]
        with self._or_none():
            self.there.library.destroy_snapshot(f"{self._arriving}@{leaf}", defer=False)
            libzfs.library().set_properties(
                self._arriving, {VOLUME_MARK: self.wanted.volume_id, **given(self.wanted.properties)}
            )
            wanted = replace(self.wanted, name=self._name)
            shape_zvol(self.there, replace(wanted, sparse=True), wanted)
            self.there.library.rename(self._arriving, self.new)
            self._mark(self.new, State.ARRIVED)

    def let_go(self) -> None:
        """Let nothing be in the way of the zvol's end, which is next; the copy is all that the zvol is.

        :raises Busy: it is not: the zvol was written to since it was sent, and the copy is gone.
        """
        with self._or_none():
            self._require_current()
            remove_own_snapshots(self.here, self.old)

    @contextmanager
    def _or_none(self) -> Iterator[None]:
        """Take the copy back where a block fails, but for a lost line."""
        try:
            try:
                yield
            except ZfsError as err:
                self.there.explain(err, needed_bytes=self.source.volsize_bytes if is_full(err) else 0)
        except ConnectionLost:
            raise
        except Error:
            self.discard()
            raise

    def settle(self) -> None:
        """Take the mark from the copy when the zvol has ended: it is the volume now.

        :raises Error: ZFS refused it.
        """
        set_mark(self.there, self.new, MOVE_MARK, None)

    def discard(self) -> None:
        """Take back what there is of the copy; what cannot be is found by the next move of the zvol."""
        try:
            for name in (self._name, self.wanted.name):
                dataset = zvol_dataset(self.wanted.parent, name)
                found = self.there.glance(dataset).get(dataset)
                note = Note.read(found, dataset) if found else None
                if note is not None and note.guid == self._guid:
                    self._destroy(name)
            remove_snapshot(self.here, self._snapshot)
        except Error:
            # The error that led here must reach the caller.
            LOG.exception("could not take back the copy of %s in %s", self.old, self.wanted.parent)

    def _find_begun(self) -> tuple[bool, Unfinished | None]:
        """Return whether the copy is whole, or what there is of it to go on with; of others nothing stays.

        :raises NotPermitted: something has the copy's name that is nobody's copy.
        """
        found = self.there.glance(self._arriving).get(self._arriving)
        if found is None:
            return False, None
        unfinished = find_unfinished(self._arriving)
        if self._goes_on(found, unfinished):
            return unfinished is None, unfinished
        self._destroy(self._name)
        return False, None

    def _receive(self, unfinished: Unfinished | None, held: int, tell: Callable[[int, int], None]) -> None:
        take_snapshot(self.here, self._snapshot)
        whole_bytes = estimate_bytes(self._snapshot, unfinished)
        self._require_room(whole_bytes)
        note = Note(State.ARRIVING, self._operation.id, self._guid, self.old)
        send_snapshot(
            self._snapshot,
            self._arriving,
            {MOVE_MARK: str(note)},
            unfinished=unfinished,
            held=held,
            sent=lambda sent_bytes: tell(sent_bytes, whole_bytes),
        )

    def _is_current(self) -> bool:
        """Say whether a copy has all that the zvol has: between two lines another may have had it.

        The snapshot says so that was sent, and no other: a newer one would hide what was written before it.
        """
        found = self.here.glance(self._snapshot).get(self._snapshot)
        if found is None or local(found, SNAPSHOT_MARK, self._snapshot) is None:
            return False
        self.here.library.sync(self.source.parent.zpool)
        return bytes_written_since(self.old, self._snapshot) == 0

    def _require_current(self) -> None:
        if not self._is_current():
            message = f"{self.old} was written to while it was copied: ask again while nobody uses it"
            raise Busy(message, holders=["whoever wrote to it"])

    def _goes_on(self, found: Properties, unfinished: Unfinished | None) -> bool:
        """Say whether what there is of a copy is this operation's, and can go on or is whole.

        :raises NotPermitted: it is nobody's copy.
        """
        note = Note.read(found, self._arriving)
        if note is None:
            # Cut between its beginning and its mark, which come one after the other.
            if unfinished is None or not is_own_snapshot(unfinished.snapshot or ""):
                refuse_foreign(self._arriving)
            return False
        if (note.operation, note.guid) != (self._operation.id, self._guid):
            return False
        # Of one that is not whole the kernel tells no size.
        return unfinished.snapshot == self._snapshot if unfinished else number(found, "volsize") > 0

    def _require_room(self, stream_bytes: int) -> None:
        """Make sure, before hours are spent, that the copy can become what it is to be.

        :raises NoSpace: it cannot, with the numbers.
        """
        found = self.here.glance(self.old)[self.old]
        needed = stream_bytes
        if not self.wanted.sparse:
            blocks, size = number(found, "volblocksize"), self.wanted.volsize_bytes
            needed = max(needed, libzfs.library().reservation_for(self.wanted.parent, size, blocks))
        available = number(self.there.glance(self.wanted.parent)[self.wanted.parent], "available")
        if needed > available:
            message = f"{self.new}: {needed} bytes are needed and {available} available"
            raise NoSpace(message, needed_bytes=needed, available_bytes=available)

    def _destroy(self, name: ZvolName) -> None:
        destroy_copy(self.there, name, self._operation)

    def _mark(self, dataset: str, state: State) -> None:
        note = Note(state, self._operation.id, self._guid, self.old)
        set_mark(self.there, dataset, MOVE_MARK, str(note))


def destroy_copy(there: Zpool, name: ZvolName, operation: Operation) -> None:
    """Destroy a copy that was found to be one, and the agent's own snapshot that it came with.

    :raises Busy: somebody has its device open.
    """
    dataset = zvol_dataset(there.parent, name)
    try:
        for snapshot in libzfs.library().snapshots(dataset):
            if is_own_snapshot(snapshot):
                there.library.destroy_snapshot(snapshot, defer=False)
    except ZfsError as err:
        there.explain(err)
    destroy_zvol(there, name, operation, release=lambda: None)


def refuse_taken(old: str, new: str) -> NoReturn:
    """Raise that something has the new name.

    :raises AlreadyExists: always.
    """
    message = f"{new} exists: {old} cannot have its place"
    raise AlreadyExists(message)


def arriving_in(children: Mapping[str, Properties]) -> Iterator[tuple[str, Note]]:
    """Yield the copies among a parent's datasets that are not whole, or were not when they were cut."""
    for dataset, found in sorted(children.items()):
        note = Note.read(found, dataset)
        if note is not None and note.state is State.ARRIVING:
            yield dataset, note
