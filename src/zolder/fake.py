"""A SAN in memory: a model with state that passes the same contract suite as the real one.

For tests of what stands above the storage contract. It knows no ZFS commands and no times; what it answers
is held to real ZFS by tests/contract. Thread-safe: each verb is one critical section.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

from zolder.errors import AlreadyExists, Busy, InvalidRequest, NotFound, NotPermitted
from zolder.fake_contents import FakeContents
from zolder.fake_copies import FakeCopies
from zolder.fake_moving import FakeMoving
from zolder.fake_state import DEFAULT_BLOCK_SIZE, verb
from zolder.model import Change, PoolFigures, PutAside, Zvol, ZvolSnapshot
from zolder.names import (
    DatasetName,
    SnapshotName,
    VolumeId,
    ZvolName,
    snapshot_dataset,
    zvol_dataset,
)
from zolder.properties import INHERITED, BlockSize, ZvolProperties, check_reservable


class FakeStorage(FakeMoving, FakeContents, FakeCopies):
    """Zvols as records. ``imported`` set to False makes every zpool unavailable."""

    @verb
    def get_figures(self, parent: DatasetName) -> PoolFigures:
        """See ``Storage``."""
        zvols = self.list_zvols(parent)
        available = self._available(parent)
        return PoolFigures(
            parent=parent,
            available_bytes=available,
            used_bytes=self._capacity_bytes - available,
            provisioned_bytes=sum(zvol.volsize_bytes for zvol in zvols),
            zvol_count=len(zvols),
        )

    @verb
    def get_guid(self, parent: DatasetName) -> str:
        """See ``Storage``; it follows from the name and from which SAN this is."""
        return f"{zlib.crc32(f'{self.san} {parent}'.encode()):016x}"

    @verb
    def list_zvols(self, parent: DatasetName) -> tuple[Zvol, ...]:
        """See ``Storage``."""
        return tuple(zvol for _, zvol in sorted(self._zvols.items()) if zvol.parent == parent)

    @verb
    def create_zvol(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        *,
        volume_id: VolumeId,
        volsize_bytes: int,
        sparse: bool,
        properties: ZvolProperties = INHERITED,
        volblocksize: BlockSize | None = None,
    ) -> Change[Zvol]:
        """See ``Storage``."""
        check_reservable(properties, sparse=sparse)
        wanted = Zvol(parent, zvol, volume_id, volsize_bytes, sparse, properties=properties)
        existing = self._find(parent, zvol)
        if existing is None:
            self._reserve(wanted, volsize_bytes)
            self._block_sizes[zvol_dataset(parent, zvol)] = volblocksize or DEFAULT_BLOCK_SIZE
            self._zvols[zvol_dataset(parent, zvol)] = wanted
            self._blocks[zvol_dataset(parent, zvol)] = {}
        elif existing != wanted:
            message = f"{zvol_dataset(parent, zvol)} exists and is another volume or of another size or kind"
            raise AlreadyExists(message)
        else:
            self._require_block_size(wanted, volblocksize)
        return Change(existing is None, wanted)

    @verb
    def grow_zvol(self, parent: DatasetName, zvol: ZvolName, *, volsize_bytes: int) -> Change[Zvol]:
        """See ``Storage``."""
        found = self.get_zvol(parent, zvol)
        if volsize_bytes < found.volsize_bytes:
            message = f"{zvol_dataset(parent, zvol)} is never shrunk"
            raise InvalidRequest(message)
        self._reserve(found, volsize_bytes - found.volsize_bytes)
        grown = replace(found, volsize_bytes=volsize_bytes)
        self._zvols[zvol_dataset(parent, zvol)] = grown
        return Change(grown != found, grown)

    @verb
    def set_zvol_properties(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        *,
        sparse: bool,
        properties: ZvolProperties,
        volblocksize: BlockSize | None,
    ) -> Change[Zvol]:
        """See ``Storage``."""
        check_reservable(properties, sparse=sparse)
        found = self.get_zvol(parent, zvol)
        self._require_block_size(found, volblocksize)
        wanted = replace(found, sparse=sparse, properties=properties)
        if found.sparse:
            self._reserve(wanted, wanted.volsize_bytes)
        self._zvols[zvol_dataset(parent, zvol)] = wanted
        return Change(wanted != found, wanted)

    @verb
    def delete_zvol(self, parent: DatasetName, zvol: ZvolName) -> Change[None]:
        """See ``Storage``."""
        dataset = zvol_dataset(parent, zvol)
        found = self._find(parent, zvol)
        if found is None:
            return Change(changed=False, value=None)
        alive = sorted(name for name in self._own_snapshots(dataset) if not self._snapshots[name].deferred)
        if alive:
            message = f"{dataset} has snapshots that must go first: {', '.join(alive)}"
            raise Busy(message, holders=alive)
        self._exports.close(parent, zvol, None, None)
        del self._zvols[dataset], self._blocks[dataset]
        if snapshots := self._own_snapshots(dataset):
            self._put_aside(found, only=snapshots, origin=found.origin)
        else:
            self._collect(found.origin)
        return Change(changed=True, value=None)

    @verb
    def revert_zvol(
        self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName, *, volsize_bytes: int
    ) -> Change[Zvol]:
        """See ``Storage``; it knows no operations, so a repeat reverts once more."""
        found, name = self.get_zvol(parent, zvol), snapshot_dataset(parent, zvol, snapshot)
        dataset, target = zvol_dataset(parent, zvol), self._snapshots.get(name)
        if target is None or target.deferred:
            message = f"{name} does not exist"
            raise NotFound(message)
        if not target.ours:
            message = f"{name} exists and bears no mark of Zolder"
            raise NotPermitted(message)
        if initiators := {each.initiator for each in self._exports.attachments(parent) if each.zvol == zvol}:
            message = f"{dataset} is exported: detach it first"
            raise Busy(message, holders=sorted(initiators))
        later = [each for each in self._own_snapshots(dataset) if self._snapshots[each].taken > target.taken]
        alive = sorted(each for each in later if not self._snapshots[each].deferred)
        if alive:
            message = f"{dataset} has snapshots after {name} that must go first: {', '.join(alive)}"
            raise Busy(message, holders=alive)
        self._check_larger(name, target.volsize_bytes, volsize_bytes)
        self._reserve(found, volsize_bytes - found.volsize_bytes)
        if later:
            self._put_aside(found, only=later, origin=name, reverted=True)
        reverted = replace(found, volsize_bytes=volsize_bytes)
        self._zvols[dataset], self._blocks[dataset] = reverted, dict(target.blocks)
        return Change(changed=True, value=reverted)

    @verb
    def list_put_aside(self, parent: DatasetName) -> tuple[PutAside, ...]:
        """See ``Storage``."""
        return tuple(
            PutAside(
                parent,
                zvol.name,
                zvol.volume_id,
                reverted=dataset in self._before_revert,
                deleted_at="1970-01-01T00:00:00Z",
                used_bytes=0,
                holders=tuple(sorted(c for name in self._own_snapshots(dataset) for c in self._clones(name))),
            )
            for dataset, zvol in sorted(self._aside.items())
            if zvol.parent == parent
        )

    @verb
    def create_snapshot(
        self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName
    ) -> Change[ZvolSnapshot]:
        """See ``Storage``."""
        name = snapshot_dataset(parent, zvol, snapshot)
        source = self.get_zvol(parent, zvol)
        existing = self._snapshots.get(name)
        if existing is not None and (not existing.ours or existing.deferred):
            message = f"{name} exists and is not a client's snapshot"
            raise AlreadyExists(message)
        if existing is None:
            self._snapshots[name] = self._take(source)
        return Change(existing is None, ZvolSnapshot(parent, zvol, snapshot))

    @verb
    def delete_snapshot(self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName) -> Change[None]:
        """See ``Storage``."""
        name = snapshot_dataset(parent, zvol, snapshot)
        found = self._snapshots.get(name)
        if found is not None and not found.ours:
            message = f"{name} exists and bears no mark of Zolder"
            raise NotPermitted(message)
        if found is None or found.deferred:
            return Change(changed=False, value=None)
        for view in [view for view, origin in self._views.items() if origin == name]:
            self._exports.close(parent, ZvolName(view.rpartition("/")[2]), None, None)
            del self._views[view]
        found.deferred = True
        self._collect(name)
        return Change(changed=True, value=None)

    @verb
    def list_snapshots(self, parent: DatasetName) -> tuple[ZvolSnapshot, ...]:
        """See ``Storage``."""
        found = []
        for name, snapshot in sorted(self._snapshots.items()):
            dataset, _, leaf = name.partition("@")
            if snapshot.ours and not snapshot.deferred and dataset.rpartition("/")[0] == parent:
                zvol = ZvolName(dataset.rpartition("/")[2])
                found.append(ZvolSnapshot(parent, zvol, SnapshotName(leaf)))
        return tuple(found)
