"""A machine that does what Cinder may do to volumes and snapshots, in any order.

It knows what is to be there afterwards: a dictionary of blocks for each volume and snapshot. It has no idea
of clones: every copy is its own, which is what Cinder's users are promised.
"""

from __future__ import annotations

import itertools
import uuid
from dataclasses import dataclass, field
from typing import Final, Protocol

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.contract.ground import MIB, PARENT
from zolder.api import Storage
from zolder.errors import Busy
from zolder.model import ZvolCopy, ZvolSnapshot
from zolder.names import SnapshotName, VolumeId, ZvolName

Blocks = dict[int, str]
SMALLEST: Final = 2 * MIB
# Where blocks are written: beside each other, across a record's border, and at the end of the smallest.
PLACES: Final = (0, 1, 3, 4, 5, 255, 256, 511)


class Disks(Protocol):
    """How a zvol is written and read, past everything that Zolder does."""

    def write(self, dataset: str, number: int, text: str) -> None:
        """Write a block whose content follows from a text."""

    def read(self, dataset: str) -> Blocks:
        """Return what every block holds that is not all zeros, in the form of `expected`."""

    def expected(self, text: str) -> str:
        """Return what `read` has for a block that was written with a text."""


@dataclass
class Snapshot:
    """What a snapshot must hold."""

    name: SnapshotName
    size: int
    blocks: Blocks


@dataclass
class Volume:
    """What a volume must hold, and its snapshots, oldest first."""

    name: ZvolName
    volume_id: VolumeId
    size: int
    sparse: bool
    blocks: Blocks = field(default_factory=dict)
    snapshots: list[Snapshot] = field(default_factory=list)


class AnyOrder(RuleBasedStateMachine):
    """Volumes and snapshots that come and go; a subclass says where."""

    storage: Storage
    disks: Disks
    # Whether all is read after each step, or the one that was touched, and all at the end.
    thorough = True

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()
        self.volumes: list[Volume] = []
        self.touched: list[Volume] = []
        self._numbers = itertools.count()
        self._prefix = uuid.uuid4().hex[:8]

    @initialize()
    def begin(self) -> None:
        """Have one volume to begin with."""
        self._create(sparse=True)

    @rule(sparse=st.booleans())
    def create(self, *, sparse: bool) -> None:
        """Make another volume."""
        self._create(sparse=sparse)

    @precondition(lambda self: self.volumes)
    @rule(data=st.data(), place=st.sampled_from(PLACES))
    def write(self, data: st.DataObject, place: int) -> None:
        """Write a block."""
        volume, text = self._draw(data), f"{self._prefix} {next(self._numbers)}"
        self.disks.write(_dataset(volume), place, text)
        volume.blocks[place] = self.disks.expected(text)

    @precondition(lambda self: self.volumes)
    @rule(data=st.data())
    def snapshot(self, data: st.DataObject) -> None:
        """Take a snapshot, twice."""
        volume, name = self._draw(data), SnapshotName(f"snapshot-{self._prefix}-{next(self._numbers)}")
        assert self.storage.create_snapshot(PARENT, volume.name, name).changed
        assert not self.storage.create_snapshot(PARENT, volume.name, name).changed
        volume.snapshots.append(Snapshot(name, volume.size, dict(volume.blocks)))

    @precondition(lambda self: len(self.volumes) > 1)
    @rule(data=st.data())
    def snapshot_together(self, data: st.DataObject) -> None:
        """Take snapshots of two volumes at one moment, twice."""
        chosen = data.draw(st.permutations(self.volumes))[:2]
        name = SnapshotName(f"snapshot-{self._prefix}-{next(self._numbers)}")
        members = tuple(ZvolSnapshot(PARENT, volume.name, name) for volume in chosen)
        assert self.storage.create_snapshots(PARENT, members).changed
        assert not self.storage.create_snapshots(PARENT, members).changed
        for volume in chosen:
            volume.snapshots.append(Snapshot(name, volume.size, dict(volume.blocks)))

    @precondition(lambda self: self.volumes)
    @rule(data=st.data(), more=st.integers(0, 1), sparse=st.booleans())
    def copy(self, data: st.DataObject, more: int, *, sparse: bool) -> None:
        """Make a volume from another as it is now, perhaps larger."""
        source = self._draw(data)
        self._clone(source, None, source.size + more * MIB, dict(source.blocks), sparse=sparse)

    @precondition(lambda self: len(self.volumes) > 1)
    @rule(data=st.data(), more=st.integers(0, 1), sparse=st.booleans())
    def copy_together(self, data: st.DataObject, more: int, *, sparse: bool) -> None:
        """Make two volumes from two others as they are at one moment, twice."""
        sources = data.draw(st.permutations(self.volumes))[:2]
        copies = []
        for source in sources:
            size = source.size + more * MIB
            made = self._named(size, dict(source.blocks), sparse=sparse)
            copies.append(ZvolCopy(PARENT, source.name, made.name, made.volume_id, size, sparse))
        moment = VolumeId(str(uuid.uuid4()))
        for changed in (True, False):
            assert self.storage.clone_zvols(PARENT, tuple(copies), moment=moment).changed is changed

    @precondition(lambda self: any(volume.snapshots for volume in self.volumes))
    @rule(data=st.data(), more=st.integers(0, 1), sparse=st.booleans())
    def copy_snapshot(self, data: st.DataObject, more: int, *, sparse: bool) -> None:
        """Make a volume from a snapshot, perhaps larger."""
        source, snapshot = self._draw_snapshot(data)
        size = snapshot.size + more * MIB
        self._clone(source, snapshot.name, size, dict(snapshot.blocks), sparse=sparse)

    @precondition(lambda self: self.volumes)
    @rule(data=st.data())
    def grow(self, data: st.DataObject) -> None:
        """Make a volume larger."""
        volume = self._draw(data)
        volume.size += MIB
        assert self.storage.grow_zvol(PARENT, volume.name, volsize_bytes=volume.size).changed

    @precondition(lambda self: any(volume.snapshots for volume in self.volumes))
    @rule(data=st.data())
    def revert(self, data: st.DataObject) -> None:
        """Bring a volume back to its latest snapshot, which is what Cinder offers."""
        volume = data.draw(st.sampled_from([each for each in self.volumes if each.snapshots]))
        snapshot = volume.snapshots[-1]
        self.storage.revert_zvol(PARENT, volume.name, snapshot.name, volsize_bytes=volume.size)
        volume.blocks = dict(snapshot.blocks)
        self.touched.append(volume)

    @precondition(lambda self: any(volume.snapshots for volume in self.volumes))
    @rule(data=st.data())
    def delete_snapshot(self, data: st.DataObject) -> None:
        """Delete a snapshot, whatever was made from it, twice."""
        volume, snapshot = self._draw_snapshot(data)
        assert self.storage.delete_snapshot(PARENT, volume.name, snapshot.name).changed
        assert not self.storage.delete_snapshot(PARENT, volume.name, snapshot.name).changed
        volume.snapshots.remove(snapshot)

    @precondition(lambda self: any(volume.snapshots for volume in self.volumes))
    @rule(data=st.data())
    def delete_too_early(self, data: st.DataObject) -> None:
        """Ask to delete a volume that has snapshots: it stays."""
        volume = data.draw(st.sampled_from([each for each in self.volumes if each.snapshots]))
        try:
            self.storage.delete_zvol(PARENT, volume.name)
        except Busy:
            return
        message = f"{volume.name} was deleted with its snapshots"
        raise AssertionError(message)

    @precondition(lambda self: any(not volume.snapshots for volume in self.volumes))
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """Delete a volume, whatever was made from it, twice."""
        volume = data.draw(st.sampled_from([each for each in self.volumes if not each.snapshots]))
        self._delete(volume)
        self.touched = [each for each in self.touched if each is not volume]

    @invariant()
    def holds_what_was_written(self) -> None:
        """Look at what was touched, or at all."""
        for volume in self.volumes if self.thorough else self.touched[-1:]:
            self._look_at(volume)
        self.touched.clear()

    def teardown(self) -> None:
        """Look at all, then delete all, sources first, and see that nothing is left of it."""
        for volume in self.volumes:
            self._look_at(volume)
        names = {each.name for each in self.storage.list_zvols(PARENT) if self._prefix in each.name}
        assert names == {volume.name for volume in self.volumes}
        taken = {(each.zvol, each.name) for each in self.storage.list_snapshots(PARENT) if each.zvol in names}
        assert taken == {(each.name, snapshot.name) for each in self.volumes for snapshot in each.snapshots}
        for volume in list(self.volumes):
            for snapshot in volume.snapshots:
                self.storage.delete_snapshot(PARENT, volume.name, snapshot.name)
            self._delete(volume)
            for later in self.volumes if self.thorough else self.volumes[:1]:
                self._look_at(later)
        assert self.storage.list_put_aside(PARENT) == ()

    def _create(self, *, sparse: bool) -> None:
        volume = self._named(SMALLEST, {}, sparse=sparse)
        for changed in (True, False):
            change = self.storage.create_zvol(
                PARENT,
                volume.name,
                volume_id=volume.volume_id,
                volsize_bytes=volume.size,
                sparse=sparse,
            )
            assert change.changed is changed

    def _clone(
        self, source: Volume, snapshot: SnapshotName | None, size: int, blocks: Blocks, *, sparse: bool
    ) -> None:
        volume = self._named(size, blocks, sparse=sparse)
        for changed in (True, False):
            change = self.storage.clone_zvol(
                PARENT,
                source.name,
                snapshot,
                volume.name,
                volume_id=volume.volume_id,
                volsize_bytes=size,
                sparse=sparse,
            )
            assert change.changed is changed

    def _named(self, size: int, blocks: Blocks, *, sparse: bool) -> Volume:
        name = ZvolName(f"volume-{self._prefix}-{next(self._numbers)}")
        volume = Volume(name, VolumeId(str(uuid.uuid4())), size, sparse, blocks)
        self.volumes.append(volume)
        self.touched.append(volume)
        return volume

    def _delete(self, volume: Volume) -> None:
        assert self.storage.delete_zvol(PARENT, volume.name).changed
        assert not self.storage.delete_zvol(PARENT, volume.name).changed
        self.volumes.remove(volume)

    def _draw(self, data: st.DataObject) -> Volume:
        volume = data.draw(st.sampled_from(self.volumes))
        self.touched.append(volume)
        return volume

    def _draw_snapshot(self, data: st.DataObject) -> tuple[Volume, Snapshot]:
        each = [(volume, snapshot) for volume in self.volumes for snapshot in volume.snapshots]
        volume, snapshot = data.draw(st.sampled_from(each))
        self.touched.append(volume)
        return volume, snapshot

    def _look_at(self, volume: Volume) -> None:
        found = self.storage.get_zvol(PARENT, volume.name)
        assert (found.volume_id, found.volsize_bytes, found.sparse) == (
            volume.volume_id,
            volume.size,
            volume.sparse,
        )
        assert self.disks.read(_dataset(volume)) == volume.blocks


def _dataset(volume: Volume) -> str:
    return f"{PARENT}/{volume.name}"
