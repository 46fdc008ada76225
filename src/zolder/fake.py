"""A SAN in memory: a model with state that passes the same contract suite as the real one.

For tests of what stands above the storage contract. It knows no ZFS commands and no times; what it answers
is held to real ZFS by tests/contract. Thread-safe: each verb is one critical section.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from zolder.api import Storage, check_volsize
from zolder.errors import (
    AlreadyExists,
    Busy,
    Error,
    InvalidRequest,
    NoSpace,
    NotFound,
    NotPermitted,
    PoolUnavailable,
)
from zolder.fake_exports import FakeExports
from zolder.model import Access, Change, Chap, Export, PoolFigures, Refusal, Route, Zvol, ZvolSnapshot
from zolder.names import (
    AttachmentId,
    DatasetName,
    InitiatorName,
    SnapshotName,
    VolumeId,
    ZvolName,
    clone_origin,
    snapshot_dataset,
    view_name,
    viewed_id,
    zvol_dataset,
)

P = ParamSpec("P")
R = TypeVar("R")
TIB = 2**40


@dataclass
class _Snapshot:
    volsize_bytes: int
    ours: bool = True
    deferred: bool = False


# It asks the targets and not the zpool.
_TARGETS_ALONE: Final = frozenset({"list_exports"})


def _verb(method: Callable[Concatenate[FakeStorage, P], R]) -> Callable[Concatenate[FakeStorage, P], R]:
    """Make a method one critical section that checks its parent and size first."""

    def whole(self: FakeStorage, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            parent: Any = kwargs.get("parent", args[0] if args else None)
            if parent not in self._parents:
                message = f"parent {parent} is not this identity's"
                raise NotPermitted(message)
            if not self.imported and method.__name__ not in _TARGETS_ALONE:
                message = f"zpool {parent.zpool} is not imported on this SAN"
                raise PoolUnavailable(message)
            size: Any = kwargs.get("volsize_bytes")
            if size is not None:
                check_volsize(size)
            return method(self, *args, **kwargs)

    return whole


class FakeStorage(Storage):
    """Zvols as records. ``imported`` set to False makes every zpool unavailable."""

    def __init__(self, parents: tuple[DatasetName, ...], *, capacity_bytes: int = TIB) -> None:
        """Start empty, each parent with ``capacity_bytes`` of its own."""
        self._lock = threading.RLock()
        self._parents = parents
        self._capacity_bytes = capacity_bytes
        self._zvols: dict[str, Zvol] = {}
        self._foreign: set[str] = set()
        self._snapshots: dict[str, _Snapshot] = {}
        self._exports = FakeExports()
        self._views: dict[str, str] = {}
        self.imported = True

    def plant_foreign_zvol(self, parent: DatasetName, zvol: ZvolName) -> None:
        """Put there what Zolder did not make."""
        self._foreign.add(zvol_dataset(parent, zvol))

    def plant_foreign_snapshot(self, parent: DatasetName, zvol: ZvolName, name: str) -> None:
        """Take a snapshot as an administrator would."""
        dataset = zvol_dataset(parent, zvol)
        self._snapshots[f"{dataset}@{name}"] = _Snapshot(self._zvols[dataset].volsize_bytes, ours=False)

    @_verb
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

    @_verb
    def get_zvol(self, parent: DatasetName, zvol: ZvolName) -> Zvol:
        """See ``Storage``."""
        found = self._find(parent, zvol)
        if found is None:
            message = f"{zvol_dataset(parent, zvol)} does not exist"
            raise NotFound(message)
        return found

    @_verb
    def list_zvols(self, parent: DatasetName) -> tuple[Zvol, ...]:
        """See ``Storage``."""
        return tuple(zvol for _, zvol in sorted(self._zvols.items()) if zvol.parent == parent)

    @_verb
    def create_zvol(
        self, parent: DatasetName, zvol: ZvolName, *, volume_id: VolumeId, volsize_bytes: int, sparse: bool
    ) -> Change[Zvol]:
        """See ``Storage``."""
        wanted = Zvol(parent, zvol, volume_id, volsize_bytes, sparse)
        existing = self._find(parent, zvol)
        if existing is None:
            self._reserve(wanted, volsize_bytes)
            self._zvols[zvol_dataset(parent, zvol)] = wanted
        elif existing != wanted:
            message = f"{zvol_dataset(parent, zvol)} exists and is another volume or of another size"
            raise AlreadyExists(message)
        return Change(existing is None, wanted)

    @_verb
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
        """See ``Storage``."""
        origin = (
            clone_origin(parent, source, volume_id)
            if snapshot is None
            else snapshot_dataset(parent, source, snapshot)
        )
        wanted = Zvol(parent, zvol, volume_id, volsize_bytes, sparse, origin)
        existing = self._find(parent, zvol)
        if existing is not None:
            if (existing.volume_id, existing.origin) != (volume_id, origin):
                message = f"{zvol_dataset(parent, zvol)} exists and is not the clone that was asked for"
                raise AlreadyExists(message)
            return Change(changed=False, value=existing)
        source_zvol = self.get_zvol(parent, source)
        if snapshot is None:
            self._check_larger(origin, source_zvol.volsize_bytes, volsize_bytes)
        found = _Snapshot(source_zvol.volsize_bytes) if snapshot is None else self._snapshots.get(origin)
        if found is None or found.deferred:
            message = f"{origin} does not exist"
            raise NotFound(message)
        if not found.ours:
            message = f"{origin} exists and bears no mark of Zolder"
            raise NotPermitted(message)
        self._check_larger(origin, found.volsize_bytes, volsize_bytes)
        self._reserve(wanted, volsize_bytes)
        self._zvols[zvol_dataset(parent, zvol)] = wanted
        if snapshot is None:
            self._snapshots[origin] = replace(found, deferred=True)
        return Change(changed=True, value=wanted)

    @_verb
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

    @_verb
    def delete_zvol(self, parent: DatasetName, zvol: ZvolName) -> Change[None]:
        """See ``Storage``."""
        dataset = zvol_dataset(parent, zvol)
        found = self._find(parent, zvol)
        if found is None:
            return Change(changed=False, value=None)
        snapshots = sorted(name for name in self._snapshots if name.startswith(f"{dataset}@"))
        if snapshots:
            holders = [clone for name in snapshots for clone in self._clones(name)] or snapshots
            message = f"{dataset} has snapshots that must go first: it is held by {', '.join(holders)}"
            raise Busy(message, holders=holders)
        self._exports.close(parent, zvol, None, None)
        del self._zvols[dataset]
        if found.origin is not None:
            self._collect(found.origin)
        return Change(changed=True, value=None)

    @_verb
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
        self._snapshots.setdefault(name, _Snapshot(source.volsize_bytes))
        return Change(existing is None, ZvolSnapshot(parent, zvol, snapshot))

    @_verb
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

    @_verb
    def list_snapshots(self, parent: DatasetName) -> tuple[ZvolSnapshot, ...]:
        """See ``Storage``."""
        found = []
        for name, snapshot in sorted(self._snapshots.items()):
            dataset, _, leaf = name.partition("@")
            if snapshot.ours and not snapshot.deferred and dataset.rpartition("/")[0] == parent:
                zvol = ZvolName(dataset.rpartition("/")[2])
                found.append(ZvolSnapshot(parent, zvol, SnapshotName(leaf)))
        return tuple(found)

    @_verb
    def export_zvol(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        initiator: InitiatorName,
        *,
        route: Route,
        attachment: AttachmentId | None,
        chap: Chap | None,
    ) -> Change[Export]:
        """See ``Storage``."""
        self.get_zvol(parent, zvol)
        return self._exports.open(parent, Access(zvol, initiator, attachment, chap), route)

    @_verb
    def ensure_exports(
        self, parent: DatasetName, wanted: tuple[Access, ...], *, route: Route
    ) -> Change[tuple[Refusal, ...]]:
        """See ``Storage``."""
        changed, refused = False, []
        for access in wanted:
            try:
                self.get_zvol(parent, access.zvol)
                changed |= self._exports.open(parent, access, route).changed
            except Error as err:
                refused.append(Refusal(access.zvol, access.initiator, err.code, err.message))
        return Change(changed, tuple(refused))

    @_verb
    def withdraw_zvol(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        initiator: InitiatorName | None,
        *,
        attachment: AttachmentId | None,
    ) -> Change[tuple[InitiatorName, ...]]:
        """See ``Storage``."""
        return self._exports.close(parent, zvol, initiator, attachment)

    @_verb
    def export_snapshot(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        snapshot: SnapshotName,
        initiator: InitiatorName,
        *,
        view_id: VolumeId,
        route: Route,
        attachment: AttachmentId | None,
        chap: Chap | None,
    ) -> Change[Export]:
        """See ``Storage``."""
        origin = snapshot_dataset(parent, zvol, snapshot)
        found = self._snapshots.get(origin)
        if found is None or found.deferred:
            message = f"{origin} does not exist"
            raise NotFound(message)
        if not found.ours:
            message = f"{origin} exists and bears no mark of Zolder"
            raise NotPermitted(message)
        view = view_name(view_id)
        if self._views.get(zvol_dataset(parent, view), origin) != origin:
            message = f"{view} exists and shows another snapshot"
            raise AlreadyExists(message)
        opened = self._exports.open(parent, Access(view, initiator, attachment, chap), route)
        self._views[zvol_dataset(parent, view)] = origin
        return opened

    @_verb
    def withdraw_snapshot(
        self,
        parent: DatasetName,
        view_id: VolumeId,
        initiator: InitiatorName | None,
        *,
        attachment: AttachmentId | None,
    ) -> Change[tuple[InitiatorName, ...]]:
        """See ``Storage``."""
        view = view_name(view_id)
        left = self.withdraw_zvol(parent, view, initiator, attachment=attachment)
        if not left.value:
            origin = self._views.pop(zvol_dataset(parent, view), None)
            if origin is not None:
                self._collect(origin)
        return left

    @_verb
    def list_exports(self, parent: DatasetName) -> tuple[Export, ...]:
        """See ``Storage``."""
        return self._exports.exports(parent)

    @_verb
    def list_attachments(self, parent: DatasetName) -> tuple[Access, ...]:
        """See ``Storage``."""
        return self._exports.attachments(parent)

    @_verb
    def list_views(self, parent: DatasetName) -> tuple[VolumeId, ...]:
        """See ``Storage``."""
        views = [view.rpartition("/") for view in self._views]
        return tuple(sorted(id_ for above, _, leaf in views if above == parent and (id_ := viewed_id(leaf))))

    def _find(self, parent: DatasetName, zvol: ZvolName) -> Zvol | None:
        dataset = zvol_dataset(parent, zvol)
        if dataset in self._foreign or dataset in self._views:
            message = f"{dataset} exists and bears no mark of Zolder: it is left alone"
            raise NotPermitted(message)
        return self._zvols.get(dataset)

    def _available(self, parent: DatasetName) -> int:
        thick = (
            zvol.volsize_bytes for zvol in self._zvols.values() if zvol.parent == parent and not zvol.sparse
        )
        return self._capacity_bytes - sum(thick)

    def _reserve(self, zvol: Zvol, needed_bytes: int) -> None:
        available = self._available(zvol.parent)
        if not zvol.sparse and needed_bytes > available:
            message = f"{zvol.name}: {needed_bytes} bytes are needed and {available} available"
            raise NoSpace(message, needed_bytes=needed_bytes, available_bytes=available)

    def _clones(self, snapshot: str) -> list[str]:
        clones = [dataset for dataset, zvol in self._zvols.items() if zvol.origin == snapshot]
        return sorted(clones + [view for view, origin in self._views.items() if origin == snapshot])

    def _collect(self, snapshot: str) -> None:
        found = self._snapshots.get(snapshot)
        if found is not None and found.deferred and not self._clones(snapshot):
            del self._snapshots[snapshot]

    @staticmethod
    def _check_larger(origin: str, least_bytes: int, asked_bytes: int) -> None:
        if asked_bytes < least_bytes:
            message = f"a clone of {origin} needs at least {least_bytes} bytes"
            raise InvalidRequest(message)
