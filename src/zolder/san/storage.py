"""The storage contract on real ZFS: each verb whole, under its zvol's lock, with its steps undone on failure.

Implements zolder.api.Storage for one operation of one identity, from steps in zolder.san.zvols, snapshots
and exports. Takes checked names only, which the policy has allowed before.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Final

from zolder.errors import InvalidRequest
from zolder.model import Change, PoolFigures, Zvol, ZvolSnapshot
from zolder.names import (
    DatasetName,
    SnapshotName,
    VolumeId,
    ZvolName,
    snapshot_dataset,
    zvol_dataset,
)
from zolder.properties import INHERITED, BlockSize, ZvolProperties, check_reservable
from zolder.san import lzc
from zolder.san.adoption import ZfsAdoption
from zolder.san.contents import ZfsContents
from zolder.san.copies import ZfsCopies
from zolder.san.counting import sizes_in
from zolder.san.libzfs import EXPORT_RECORD, Properties
from zolder.san.moving import ZfsMoving
from zolder.san.properties import require_block_size
from zolder.san.reshaping import reshape_zvol
from zolder.san.secrets import count_missing
from zolder.san.settling import settling
from zolder.san.snapshots import list_snapshots, take_snapshot
from zolder.san.zpool import local, number, zvols_in
from zolder.san.zvols import create_zvol, look_at, owner_of, shape_zvol

LOG = logging.getLogger(__name__)

_VERSION: Final = Path("/sys/module/zfs/version")


def zfs_version() -> str:
    """Return the version of the ZFS module.

    :raises BackendError: there is no working OpenZFS on this SAN.
    """
    lzc.library()
    return _VERSION.read_text().strip()


class ZfsStorage(ZfsMoving, ZfsContents, ZfsCopies, ZfsAdoption):
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
