"""The storage contract on real ZFS: each verb whole, under its zvol's lock, with its steps undone on failure.

Implements zolder.api.Storage for one operation of one identity, from steps in zolder.san.zvols, snapshots
and exports. Takes checked names only, which the policy has allowed before.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from zolder.errors import AlreadyExists, Error, InvalidRequest
from zolder.model import Change, PoolFigures, PutAside, Zvol, ZvolSnapshot
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
from zolder.san import libzfs, lzc
from zolder.san.aside import (
    collect,
    describe,
    finish_putting_aside,
    put_aside,
    put_aside_in,
    zvol_behind,
)
from zolder.san.attachments import Attachments
from zolder.san.exporting import ZfsExports
from zolder.san.index import Index
from zolder.san.libzfs import EXPORT_RECORD, Properties
from zolder.san.parents import recorded_guid
from zolder.san.secrets import count_missing
from zolder.san.snapshots import (
    clone_snapshot,
    clone_zvol,
    list_snapshots,
    remove_snapshot,
    remove_uncloned,
    take_snapshot,
)
from zolder.san.views import views_of
from zolder.san.zpool import Zpool, is_deleted, local, number, require_zvol, text, zvol_in, zvols_in
from zolder.san.zvols import create_zvol, destroy_zvol, look_at, owner_of, shape_zvol

LOG = logging.getLogger(__name__)

_VERSION: Final = Path("/sys/module/zfs/version")


def zfs_version() -> str:
    """Return the version of the ZFS module.

    :raises BackendError: there is no working OpenZFS on this SAN.
    """
    lzc.library()
    return _VERSION.read_text().strip()


class ZfsStorage(ZfsExports):
    """What one operation of one identity may do on this SAN."""

    def get_figures(self, parent: DatasetName) -> PoolFigures:
        """See ``Storage``; the first call for a parent is its set-up and records its guid."""
        found = self._zpool(parent).set_up()
        listed: dict[str, Properties] = {}

        def list_sizes() -> dict[ZvolName, int]:
            listed.update(self._zpool(parent).children())
            return _sizes(listed, parent)

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

    def get_zvol(self, parent: DatasetName, zvol: ZvolName) -> Zvol:
        """See ``Storage``."""
        return look_at(self._zpool(parent), zvol)[0]

    def list_zvols(self, parent: DatasetName) -> tuple[Zvol, ...]:
        """See ``Storage``."""
        return zvols_in(self._zpool(parent).children(), parent)

    def create_zvol(
        self, parent: DatasetName, zvol: ZvolName, *, volume_id: VolumeId, volsize_bytes: int, sparse: bool
    ) -> Change[Zvol]:
        """See ``Storage``."""
        wanted = Zvol(parent, zvol, volume_id, volsize_bytes, sparse)
        with self._changing(parent, zvol) as zpool, self._counting(parent, zvol, volsize_bytes):
            changed = create_zvol(zpool, wanted)
        return Change(changed, wanted)

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
    ) -> Change[Zvol]:
        """See ``Storage``; without a snapshot one of our own is made, which goes with the clone."""
        if snapshot is None:
            origin = clone_origin(parent, source, volume_id)
        else:
            origin = snapshot_dataset(parent, source, snapshot)
        wanted = Zvol(parent, zvol, volume_id, volsize_bytes, sparse, origin)
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
            elif snapshot is not None:
                clone_snapshot(zpool, found.get(origin), wanted)
            else:
                if source_dataset not in found:
                    zpool.prove()
                require_zvol(found, source_dataset)
                clone_zvol(zpool, number(found[source_dataset], "volsize"), wanted)
        return Change(existing is None, wanted)

    def grow_zvol(self, parent: DatasetName, zvol: ZvolName, *, volsize_bytes: int) -> Change[Zvol]:
        """See ``Storage``."""
        with self._changing(parent, zvol) as zpool:
            found, properties = look_at(zpool, zvol)
            if volsize_bytes < found.volsize_bytes:
                message = f"{parent}/{zvol} has {found.volsize_bytes} bytes and is never shrunk"
                raise InvalidRequest(message)
            wanted = Zvol(parent, zvol, found.volume_id, volsize_bytes, found.sparse, found.origin)
            with self._counting(parent, zvol, volsize_bytes):
                shape_zvol(zpool, found, wanted)
            if local(properties, EXPORT_RECORD, zvol_dataset(parent, zvol)):
                self._privileged.grow_export(parent, zvol)
        return Change(wanted != found, wanted)

    def delete_zvol(self, parent: DatasetName, zvol: ZvolName) -> Change[None]:
        """See ``Storage``."""
        dataset, origin = zvol_dataset(parent, zvol), None
        with self._changing(parent, zvol) as zpool:
            found = zpool.look(dataset)
            if found and is_deleted(found[dataset], dataset):
                finish_putting_aside(zpool, zvol, self._operation)  # cut short before
                found, origin = {}, None
            elif found:
                volume_id, origin = require_zvol(found, dataset), text(found[dataset], "origin")
                attachments = Attachments(self._policy, zpool, zvol)
                if local(found[dataset], EXPORT_RECORD, dataset):
                    attachments.close_recorded()
                if not destroy_zvol(zpool, zvol, self._operation, release=attachments.close_all):
                    attachments.close_all()
                    put_aside(zpool, zvol, self._operation)
                if origin and origin.endswith(f"@{clone_origin_leaf(volume_id)}"):
                    remove_snapshot(zpool, origin)  # left where the clone was cut short
            self._index(parent).remove(zvol)
        self._collect(parent, origin)
        return Change(bool(found), None)

    def list_put_aside(self, parent: DatasetName) -> tuple[PutAside, ...]:
        """See ``Storage``."""
        children = self._zpool(parent).children()
        each = (describe(parent, dataset, children) for dataset in put_aside_in(children))
        return tuple(item for item in each if item is not None)

    def create_snapshot(
        self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName
    ) -> Change[ZvolSnapshot]:
        """See ``Storage``."""
        with self._changing(parent, zvol) as zpool:
            owner_of(zpool, zvol)
            changed = take_snapshot(zpool, snapshot_dataset(parent, zvol, snapshot))
        return Change(changed, ZvolSnapshot(parent, zvol, snapshot))

    def delete_snapshot(self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName) -> Change[None]:
        """See ``Storage``; ZFS's deferred destroy, so clones keep what they need, but for views."""
        name = snapshot_dataset(parent, zvol, snapshot)
        with self._changing(parent, zvol) as zpool:
            changed = remove_uncloned(zpool, name)
            if changed is not None:
                return Change(changed, None)
            views = views_of(zpool, name)
        # Each under its own lock, and none is waited for while another is held (zolder.san.locks).
        for view_id in views:
            self.withdraw_snapshot(parent, view_id, None, attachment=None)
        with self._changing(parent, zvol) as zpool:
            changed = remove_snapshot(zpool, name)
        return Change(changed, None)

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
        if existing.volume_id != wanted.volume_id or (existing.origin or "").partition("@")[2] != leaf:
            message = (
                f"{zvol_dataset(wanted.parent, wanted.name)} exists and is not the clone that was asked for"
            )
            raise AlreadyExists(message)
        shape_zvol(zpool, existing, wanted)
        if existing.origin and leaf == clone_origin_leaf(wanted.volume_id):
            remove_snapshot(zpool, existing.origin)

    def _collect(self, parent: DatasetName, origin: str | None) -> None:
        """Destroy what was put aside for a clone that is gone now, and what that was cloned from in turn.

        The clone's own end is done and is what was asked for. What is left here is found by the next figures
        that list the parent.
        """
        try:
            while zvol := zvol_behind(parent, origin):
                with self._changing(parent, zvol) as zpool:
                    origin = collect(zpool, zvol, self._operation)
        except Error as err:
            LOG.warning("%s stays although its clone has gone: %s", origin, err.message)

    def _sweep(self, parent: DatasetName, children: Mapping[str, Properties]) -> None:
        """Destroy what was put aside and nothing needs any more: what a cut kept `_collect` from doing."""
        if self._policy.allows("delete_zvol"):
            for dataset in put_aside_in(children):
                if not libzfs.library().snapshots(dataset):
                    self._collect(parent, f"{dataset}@")

    @contextmanager
    def _counting(self, parent: DatasetName, zvol: ZvolName, volsize_bytes: int) -> Iterator[None]:
        """Count a zvol with its new size while it is made or grown, within the policy's limits.

        Two at once each count the other: at the edge of a limit both may be refused, never both let in.
        """
        if self._policy.limits_sum:
            self._sum(parent)  # renewed here if it is too old: it would forget what ZFS does not have yet
        with self._index(parent).changing(zvol, volsize_bytes):
            if self._policy.limits_sum:
                provisioned, count = self._sum(parent)
                self._policy.check_sum(count, provisioned)
            yield

    def _sum(self, parent: DatasetName) -> tuple[int, int]:
        return self._index(parent).sum(lambda: _sizes(self._zpool(parent).children(), parent))

    def _index(self, parent: DatasetName) -> Index:
        return Index(self._site.run, parent, recorded_guid(self._site, parent))


def _sizes(children: Mapping[str, Properties], parent: DatasetName) -> dict[ZvolName, int]:
    return {zvol.name: zvol.volsize_bytes for zvol in zvols_in(children, parent)}
