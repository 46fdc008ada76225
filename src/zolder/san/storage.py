"""The storage contract on real ZFS: each verb whole, with its steps undone where it fails.

Implements zolder.api.Storage for one operation. It takes checked names only, holds the zvol's lock while it
acts, tries the cheap way first and looks closer only where the kernel refuses. It never destroys what does
not bear its own mark, never recursively, and promotes nothing.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from zolder.api import Storage
from zolder.errors import AlreadyExists, Busy, InvalidRequest, NotFound
from zolder.model import Change, Chap, Export, PoolFigures, Zvol, ZvolSnapshot
from zolder.names import (
    DatasetName,
    InitiatorName,
    Portal,
    SnapshotName,
    TargetPrefix,
    VolumeId,
    ZvolName,
    clone_snapshot,
    snapshot_dataset,
    zvol_dataset,
)
from zolder.san import lzc, zfs
from zolder.san.exports import Exports
from zolder.san.holders import holders_of
from zolder.san.index import Index
from zolder.san.locks import Locks
from zolder.san.lzc import ZfsError
from zolder.san.operation import Operation
from zolder.san.parents import Site, recorded_guid
from zolder.san.policy import Policy
from zolder.san.zpool import (
    SNAPSHOT_MARK,
    VOLUME_MARK,
    Zpool,
    find_mark,
    local,
    number,
    refuse_foreign,
    text,
    zvol_of,
)

# How long a destroy waits for whoever holds the zvol: udev and a closing session let go within this.
BUSY_SECONDS: Final = 10
_VERSION: Final = Path("/sys/module/zfs/version")


def zfs_version() -> str:
    """Return the version of the ZFS module.

    :raises BackendError: there is no working OpenZFS on this SAN.
    """
    lzc.library()
    return _VERSION.read_text().strip()


class ZfsStorage(Storage):
    """What one operation of one identity may do on this SAN."""

    def __init__(self, policy: Policy, operation: Operation, site: Site | None = None) -> None:
        """Act for ``operation`` within ``policy``, which has been checked already."""
        self._operation = operation
        self._site = site or Site()
        self._locks = Locks(self._site.run)
        self._exports = Exports(policy)

    def get_figures(self, parent: DatasetName) -> PoolFigures:
        """See ``Storage``; the first call for a parent is its set-up and records its guid."""
        found = Zpool(self._site, parent).set_up()
        provisioned, count = self._index(parent).sum(
            lambda: {zvol.name: zvol.volsize_bytes for zvol in self.list_zvols(parent)}
        )
        return PoolFigures(
            parent=parent,
            available_bytes=number(found, "available"),
            used_bytes=number(found, "used"),
            provisioned_bytes=provisioned,
            zvol_count=count,
        )

    def get_zvol(self, parent: DatasetName, zvol: ZvolName) -> Zvol:
        """See ``Storage``."""
        found = self._find(Zpool(self._site, parent), zvol)
        if found is None:
            message = f"{zvol_dataset(parent, zvol)} does not exist"
            raise NotFound(message)
        return found

    def list_zvols(self, parent: DatasetName) -> tuple[Zvol, ...]:
        """See ``Storage``."""
        children = Zpool(self._site, parent).children()
        return tuple(
            zvol_of(parent, ZvolName(dataset.rpartition("/")[2]), found)
            for dataset, found in sorted(children.items())
            if find_mark(dataset, found) is not None
        )

    def create_zvol(
        self, parent: DatasetName, zvol: ZvolName, *, volume_id: VolumeId, volsize_bytes: int, sparse: bool
    ) -> Change[Zvol]:
        """See ``Storage``; one request to the kernel where nothing is in the way."""
        wanted = Zvol(parent, zvol, volume_id, volsize_bytes, sparse)
        dataset = zvol_dataset(parent, zvol)
        create = self._library().create_zvol if sparse else zfs.create_thick_zvol
        with self._changing(parent, zvol) as zpool:
            try:
                create(dataset, volsize_bytes, {VOLUME_MARK: volume_id})
            except ZfsError as err:
                if err.errno != errno.EEXIST:
                    zpool.explain(err, needed_bytes=volsize_bytes)
                return Change(changed=False, value=self._same(zpool, wanted))
            self._index(parent).put(zvol, volsize_bytes)
        return Change(changed=True, value=wanted)

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
        origin = (
            clone_snapshot(parent, source, volume_id)
            if snapshot is None
            else snapshot_dataset(parent, source, snapshot)
        )
        wanted = Zvol(parent, zvol, volume_id, volsize_bytes, sparse, origin)
        with self._changing(parent, zvol) as zpool:
            existing = self._find(zpool, zvol)
            if existing is None:
                if snapshot is None:
                    self._snapshot(zpool, source, origin)
                self._clone(zpool, wanted, origin)
            elif not self._is_same_clone(existing, wanted):
                message = f"{zvol_dataset(parent, zvol)} exists and is not the clone that was asked for"
                raise AlreadyExists(message)
            if snapshot is None:
                self._destroy_snapshot(zpool, origin)
            self._index(parent).put(zvol, volsize_bytes)
        return Change(changed=existing is None, value=wanted)

    def grow_zvol(self, parent: DatasetName, zvol: ZvolName, *, volsize_bytes: int) -> Change[Zvol]:
        """See ``Storage``."""
        dataset = zvol_dataset(parent, zvol)
        with self._changing(parent, zvol) as zpool:
            found = self._get(zpool, zvol)
            if volsize_bytes < found.volsize_bytes:
                message = f"{dataset} has {found.volsize_bytes} bytes and is never shrunk to {volsize_bytes}"
                raise InvalidRequest(message)
            grows = volsize_bytes > found.volsize_bytes
            if grows:
                try:
                    zfs.set_volsize(dataset, volsize_bytes)
                except ZfsError as err:
                    zpool.explain(err, needed_bytes=volsize_bytes - found.volsize_bytes)
                self._index(parent).put(zvol, volsize_bytes)
        return Change(grows, Zvol(parent, zvol, found.volume_id, volsize_bytes, found.sparse, found.origin))

    def delete_zvol(self, parent: DatasetName, zvol: ZvolName) -> Change[None]:
        """See ``Storage``."""
        dataset = zvol_dataset(parent, zvol)
        with self._changing(parent, zvol) as zpool:
            found = self._find(zpool, zvol)
            if found is not None:
                self._exports.withdraw_all(parent, zvol)
                self._destroy(zpool, dataset)
                if found.origin and found.origin.endswith(f"@zolder-clone-{found.volume_id}"):
                    # Left only where the clone was cut short before its snapshot was marked to go with it.
                    self._destroy_snapshot(zpool, found.origin)
            self._index(parent).remove(zvol)
        return Change(found is not None, None)

    def create_snapshot(
        self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName
    ) -> Change[ZvolSnapshot]:
        """See ``Storage``."""
        with self._changing(parent, zvol) as zpool:
            changed = self._snapshot(zpool, zvol, snapshot_dataset(parent, zvol, snapshot))
        return Change(changed, ZvolSnapshot(parent, zvol, snapshot))

    def delete_snapshot(self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName) -> Change[None]:
        """See ``Storage``; ZFS's deferred destroy, so clones keep what they need."""
        name = snapshot_dataset(parent, zvol, snapshot)
        with self._changing(parent, zvol) as zpool:
            found = zpool.look(name).get(name)
            if found is not None and local(found, SNAPSHOT_MARK, name) is None:
                refuse_foreign(name)
            present = found is not None and text(found, "defer_destroy") != "on"
            if present:
                self._destroy_snapshot(zpool, name)
        return Change(present, None)

    def export_zvol(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        initiator: InitiatorName,
        *,
        prefix: TargetPrefix,
        portals: tuple[Portal, ...],
        chap: Chap | None,
    ) -> Change[Export]:
        """See ``Storage``."""
        with self._changing(parent, zvol) as zpool:
            found = self._get(zpool, zvol)
            return self._exports.ensure(found, initiator, prefix, portals, chap, self._operation)

    def withdraw_zvol(
        self, parent: DatasetName, zvol: ZvolName, initiator: InitiatorName | None
    ) -> Change[tuple[InitiatorName, ...]]:
        """See ``Storage``; needs no zpool: a target is closed whatever became of its zvol."""
        with self._locks.hold(zvol_dataset(parent, zvol), self._operation):
            if initiator is None:
                return Change(self._exports.withdraw_all(parent, zvol), ())
            return self._exports.withdraw(parent, zvol, initiator)

    def list_exports(self, parent: DatasetName) -> tuple[Export, ...]:
        """See ``Storage``."""
        return self._exports.list(parent)

    # Steps, under the zvol's lock.

    @contextmanager
    def _changing(self, parent: DatasetName, zvol: ZvolName) -> Iterator[Zpool]:
        with self._locks.hold(zvol_dataset(parent, zvol), self._operation):
            yield Zpool(self._site, parent)

    def _find(self, zpool: Zpool, zvol: ZvolName) -> Zvol | None:
        dataset = zvol_dataset(zpool.parent, zvol)
        found = zpool.look(dataset).get(dataset)
        return None if found is None else zvol_of(zpool.parent, zvol, found)

    def _get(self, zpool: Zpool, zvol: ZvolName) -> Zvol:
        found = self._find(zpool, zvol)
        if found is None:
            message = f"{zvol_dataset(zpool.parent, zvol)} does not exist"
            raise NotFound(message)
        return found

    def _same(self, zpool: Zpool, wanted: Zvol) -> Zvol:
        existing = self._get(zpool, wanted.name)
        if existing != wanted:
            message = (
                f"{wanted.parent}/{wanted.name} exists: volume {existing.volume_id}, "
                f"{existing.volsize_bytes} bytes; asked for was {wanted.volume_id}, {wanted.volsize_bytes}"
            )
            raise AlreadyExists(message)
        return existing

    def _is_same_clone(self, existing: Zvol, wanted: Zvol) -> bool:
        return (existing.volume_id, existing.origin) == (wanted.volume_id, wanted.origin)

    def _snapshot(self, zpool: Zpool, zvol: ZvolName, name: str) -> bool:
        self._get(zpool, zvol)
        try:
            zpool.library.snapshot([name], {SNAPSHOT_MARK: name.partition("@")[2]})
        except ZfsError as err:
            if err.errno != errno.EEXIST:
                zpool.explain(err)
            found = zpool.look(name).get(name)
            if found is None or local(found, SNAPSHOT_MARK, name) is None:
                message = f"{name} exists and was not made by Zolder"
                raise AlreadyExists(message) from err
            if text(found, "defer_destroy") == "on":
                message = f"{name} was deleted and still waits for its last clone to go"
                raise AlreadyExists(message) from err
            return False
        return True

    def _clone(self, zpool: Zpool, wanted: Zvol, origin: str) -> None:
        found = zpool.look(origin).get(origin)
        if found is None or text(found, "defer_destroy") == "on":
            message = f"{origin} does not exist"
            raise NotFound(message)
        if local(found, SNAPSHOT_MARK, origin) is None:
            refuse_foreign(origin)
        if wanted.volsize_bytes < number(found, "volsize"):
            message = f"a clone of {origin} needs at least {number(found, 'volsize')} bytes"
            raise InvalidRequest(message)
        dataset = zvol_dataset(wanted.parent, wanted.name)
        try:
            with ExitStack() as undo:
                zpool.library.clone(dataset, origin, {VOLUME_MARK: wanted.volume_id})
                undo.callback(zpool.library.destroy, dataset)
                if wanted.volsize_bytes > number(found, "volsize"):
                    zfs.set_volsize(dataset, wanted.volsize_bytes)
                if not wanted.sparse:
                    zfs.reserve(dataset)
                undo.pop_all()
        except ZfsError as err:
            zpool.explain(err, needed_bytes=wanted.volsize_bytes)

    def _destroy(self, zpool: Zpool, dataset: str) -> None:
        def attempt() -> bool | None:
            try:
                zpool.library.destroy(dataset)
            except ZfsError as err:
                if err.errno not in {errno.EBUSY, errno.EEXIST}:
                    zpool.explain(err)
                self._refuse_snapshots(zpool, dataset)
                return None
            return True

        if attempt() or self._operation.wait_for(
            attempt, seconds=BUSY_SECONDS, announce=f"{dataset} is busy: waiting up to {BUSY_SECONDS} s"
        ):
            return
        holders = holders_of(dataset, None)
        message = f"{dataset} is held by {', '.join(holders) or 'somebody unknown'}"
        raise Busy(message, holders=holders)

    def _refuse_snapshots(self, zpool: Zpool, dataset: str) -> None:
        snapshots = zpool.clones(dataset)
        if snapshots:
            holders = [clone for clones in snapshots.values() for clone in clones] or sorted(snapshots)
            message = f"{dataset} has snapshots that must go first: it is held by {', '.join(holders[:8])}"
            raise Busy(message, holders=holders)

    def _destroy_snapshot(self, zpool: Zpool, name: str) -> None:
        try:
            zpool.library.destroy_snapshot(name)
        except ZfsError as err:
            zpool.explain(err)

    def _index(self, parent: DatasetName) -> Index:
        return Index(self._site.run, parent, recorded_guid(self._site, parent))

    @staticmethod
    def _library() -> lzc.ZfsLibrary:
        return lzc.library()
