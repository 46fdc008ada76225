"""The storage contract on real ZFS: each verb whole, under its zvol's lock, with its steps undone on failure.

Implements zolder.api.Storage for one operation of one identity, from steps in zolder.san.zvols, snapshots
and exports. Takes checked names only, which the policy has allowed before.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Final

from zolder.errors import AlreadyExists, InvalidRequest
from zolder.model import Change, PoolFigures, Zvol, ZvolSnapshot
from zolder.names import (
    DatasetName,
    SnapshotName,
    VolumeId,
    ZvolName,
    clone_origin,
    clone_origin_leaf,
    snapshot_dataset,
    zvol_dataset,
)
from zolder.properties import INHERITED, BlockSize, ZvolProperties, check_reservable
from zolder.san import lzc
from zolder.san.adoption import ZfsAdoption
from zolder.san.contents import ZfsContents
from zolder.san.counting import sizes_in
from zolder.san.libzfs import EXPORT_RECORD, Properties
from zolder.san.moving import ZfsMoving
from zolder.san.properties import require_block_size, require_origin_blocks
from zolder.san.reshaping import reshape_zvol
from zolder.san.secrets import count_missing
from zolder.san.settling import settling
from zolder.san.snapshots import clone_snapshot, clone_zvol, list_snapshots, remove_snapshot, take_snapshot
from zolder.san.zpool import Zpool, local, number, require_zvol, zvol_in, zvols_in
from zolder.san.zvols import create_zvol, look_at, owner_of, shape_zvol

LOG = logging.getLogger(__name__)

_VERSION: Final = Path("/sys/module/zfs/version")


def zfs_version() -> str:
    """Return the version of the ZFS module.

    :raises BackendError: there is no working OpenZFS on this SAN.
    """
    lzc.library()
    return _VERSION.read_text().strip()


class ZfsStorage(ZfsMoving, ZfsContents, ZfsAdoption):
    """What one operation of one identity may do on this SAN."""

    def get_figures(self, parent: DatasetName) -> PoolFigures:
        """See ``Storage``; the first call for a parent is its set-up and records its guid."""
        found = self._zpool(parent).set_up()
        listed: dict[str, Properties] = {}

        def list_sizes() -> dict[ZvolName, int]:
            listed.update(self._zpool(parent).children())
            return sizes_in(listed, parent)

        provisioned, count = self._index(parent).sum(list_sizes)
        self._sweep(parent, listed)
        return PoolFigures(
            parent=parent,
            available_bytes=number(found, "available"),
            used_bytes=number(found, "used"),
            provisioned_bytes=provisioned,
            zvol_count=count,
            secrets_missing=count_missing(parent),
        )

    def get_guid(self, parent: DatasetName) -> str:
        """See ``Storage``."""
        return f"{number(self._zpool(parent).set_up(), 'guid'):016x}"

    @settling()
    def get_zvol(self, parent: DatasetName, zvol: ZvolName) -> Zvol:
        """See ``Storage``."""
        return look_at(self._zpool(parent), zvol)[0]

    def list_zvols(self, parent: DatasetName) -> tuple[Zvol, ...]:
        """See ``Storage``."""
        return zvols_in(self._zpool(parent).children(), parent)

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
        with self._changing(parent, zvol) as zpool, self._counting(parent, zvol, volsize_bytes):
            changed = create_zvol(zpool, wanted, volblocksize)
        return Change(changed, wanted)

    @settling(of="source")
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
        """See ``Storage``; without a snapshot one of our own is made, which goes with the clone."""
        check_reservable(properties, sparse=sparse)
        if snapshot is None:
            origin = clone_origin(parent, source, volume_id)
        else:
            origin = snapshot_dataset(parent, source, snapshot)
        wanted = Zvol(parent, zvol, volume_id, volsize_bytes, sparse, origin, properties)
        clone_dataset, source_dataset = zvol_dataset(parent, zvol), zvol_dataset(parent, source)
        with (
            self._locks.hold(self._operation, clone_dataset, source_dataset),
            self._counting(parent, zvol, volsize_bytes),
        ):
            zpool = self._zpool(parent)
            found = zpool.glance(clone_dataset, source_dataset if snapshot is None else origin)
            existing = zvol_in(found, parent, zvol)
            if existing is not None:
                self._complete_clone(zpool, existing, wanted)
                require_block_size(found[clone_dataset], clone_dataset, volblocksize)
            elif snapshot is not None:
                clone_snapshot(zpool, found.get(origin), wanted, volblocksize)
            else:
                if source_dataset not in found:
                    zpool.prove()
                require_zvol(found, source_dataset)
                require_origin_blocks(found[source_dataset], source_dataset, volblocksize)
                clone_zvol(zpool, number(found[source_dataset], "volsize"), wanted)
        return Change(existing is None, wanted)

    @settling()
    def grow_zvol(self, parent: DatasetName, zvol: ZvolName, *, volsize_bytes: int) -> Change[Zvol]:
        """See ``Storage``."""
        with self._changing(parent, zvol) as zpool:
            found, properties = look_at(zpool, zvol)
            if volsize_bytes < found.volsize_bytes:
                message = f"{parent}/{zvol} has {found.volsize_bytes} bytes and is never shrunk"
                raise InvalidRequest(message)
            wanted = replace(found, volsize_bytes=volsize_bytes)
            with self._counting(parent, zvol, volsize_bytes):
                shape_zvol(zpool, found, wanted)
            if local(properties, EXPORT_RECORD, zvol_dataset(parent, zvol)):
                self._privileged.grow_export(parent, zvol)
        return Change(wanted != found, wanted)

    @settling()
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
        with self._changing(parent, zvol) as zpool:
            found, seen = look_at(zpool, zvol)
            require_block_size(seen, zvol_dataset(parent, zvol), volblocksize)
            wanted = replace(found, sparse=sparse, properties=properties)
            reshape_zvol(zpool, found, wanted)
        return Change(wanted != found, wanted)

    @settling()
    def create_snapshot(
        self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName
    ) -> Change[ZvolSnapshot]:
        """See ``Storage``."""
        with self._changing(parent, zvol) as zpool:
            owner_of(zpool, zvol)
            changed = take_snapshot(zpool, snapshot_dataset(parent, zvol, snapshot))
        return Change(changed, ZvolSnapshot(parent, zvol, snapshot))

    def list_snapshots(self, parent: DatasetName) -> tuple[ZvolSnapshot, ...]:
        """See ``Storage``."""
        zpool = self._zpool(parent)
        return tuple(
            ZvolSnapshot(parent, zvol.name, snapshot)
            for zvol in zvols_in(zpool.children(), parent)
            for snapshot in list_snapshots(zvol_dataset(parent, zvol.name))
        )

    def _complete_clone(self, zpool: Zpool, existing: Zvol, wanted: Zvol) -> None:
        """Finish what an earlier attempt at the same clone may have left undone."""
        # By its leaf: the source may have been put aside since, under another name.
        leaf = (wanted.origin or "").partition("@")[2]
        if (existing.volume_id, (existing.origin or "").partition("@")[2], existing.properties) != (
            wanted.volume_id,
            leaf,
            wanted.properties,
        ):
            message = (
                f"{zvol_dataset(wanted.parent, wanted.name)} exists and is not the clone that was asked for"
            )
            raise AlreadyExists(message)
        shape_zvol(zpool, existing, wanted)
        if existing.origin and leaf == clone_origin_leaf(wanted.volume_id):
            remove_snapshot(zpool, existing.origin)
