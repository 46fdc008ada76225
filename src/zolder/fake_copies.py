"""Clones on a SAN in memory: of a snapshot, of a zvol as it is, and of several at one moment."""

from __future__ import annotations

from dataclasses import replace

from zolder.api import check_copies, check_volsize
from zolder.errors import AlreadyExists, Error, NotFound, NotPermitted
from zolder.fake_state import FakeState, verb
from zolder.model import Change, Zvol, ZvolCopy
from zolder.names import (
    DatasetName,
    SnapshotName,
    VolumeId,
    ZvolName,
    clone_origin,
    snapshot_dataset,
    zvol_dataset,
)
from zolder.properties import INHERITED, BlockSize, ZvolProperties, check_reservable


class FakeCopies(FakeState):
    """What makes zvols from others."""

    @verb
    def clone_zvol(
        self,
        parent: DatasetName,
        source: ZvolName,
        snapshot: SnapshotName | None,
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
        copy = ZvolCopy(parent, source, zvol, volume_id, volsize_bytes, sparse, properties, volblocksize)
        if snapshot is None:
            return self._clone(copy, clone_origin(parent, source, volume_id), as_it_is=True)
        return self._clone(copy, snapshot_dataset(parent, source, snapshot), as_it_is=False)

    @verb
    def clone_zvols(
        self, parent: DatasetName, copies: tuple[ZvolCopy, ...], *, moment: VolumeId
    ) -> Change[tuple[Zvol, ...]]:
        """See ``Storage``."""
        for copy in copies:
            if copy.parent not in self._parents:
                message = f"parent {copy.parent} is not this identity's"
                raise NotPermitted(message)
            check_volsize(copy.volsize_bytes)
        check_copies(parent, copies)
        standing = [self._find(copy.parent, copy.zvol) is not None for copy in copies]
        origins = [clone_origin(copy.parent, copy.source, moment) for copy in copies]
        if any(standing) is not all(standing) or (
            not any(standing) and self._snapshots.keys() & set(origins)
        ):
            message = "clones of this moment were made before, and not all"
            raise AlreadyExists(message)
        before = dict(self._zvols), dict(self._blocks), dict(self._block_sizes), dict(self._snapshots)
        try:
            made = [
                self._clone(copy, origin, as_it_is=True) for copy, origin in zip(copies, origins, strict=True)
            ]
        except Error:
            self._zvols, self._blocks, self._block_sizes, self._snapshots = before
            raise
        return Change(not all(standing), tuple(change.value for change in made))

    def _clone(self, copy: ZvolCopy, origin: str, *, as_it_is: bool) -> Change[Zvol]:
        """Make one clone of a snapshot, or of a zvol as it is through a snapshot of that name."""
        dataset = zvol_dataset(copy.parent, copy.zvol)
        wanted = Zvol(
            copy.parent, copy.zvol, copy.volume_id, copy.volsize_bytes, copy.sparse, origin, copy.properties
        )
        existing = self._find(copy.parent, copy.zvol)
        if existing is not None:
            self._require_block_size(existing, copy.volblocksize)
            # By its leaf: the source may have been put aside since, under another name.
            has, wants = (
                (zvol.volume_id, (zvol.origin or "").partition("@")[2], zvol.properties)
                for zvol in (existing, wanted)
            )
            if has != wants:
                message = f"{dataset} exists and is not the clone that was asked for"
                raise AlreadyExists(message)
            return Change(changed=False, value=wanted)
        source = self.get_zvol(copy.parent, copy.source)
        if as_it_is:
            self._check_larger(origin, source.volsize_bytes, copy.volsize_bytes)
            self._check_blocks(origin, source, copy.volblocksize)
        found = self._take(source) if as_it_is else self._snapshots.get(origin)
        if found is None or found.deferred:
            message = f"{origin} does not exist"
            raise NotFound(message)
        if not found.ours:
            message = f"{origin} exists and bears no mark of Zolder"
            raise NotPermitted(message)
        self._check_larger(origin, found.volsize_bytes, copy.volsize_bytes)
        self._check_blocks(origin, source, copy.volblocksize)
        self._reserve(wanted, copy.volsize_bytes)
        self._block_sizes[dataset] = self._block_size_of(source)
        self._zvols[dataset] = wanted
        self._blocks[dataset] = dict(found.blocks)
        if as_it_is:
            self._snapshots[origin] = replace(found, deferred=True)
        return Change(changed=True, value=wanted)
