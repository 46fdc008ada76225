"""A SAN in memory: a model with state that passes the same contract suite as the real one.

For tests of what stands above the storage contract. It knows no ZFS commands and no times; what it answers
is held to real ZFS by tests/contract. Thread-safe: each verb is one critical section.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from zolder.api import Storage, check_volsize
from zolder.errors import (
    AlreadyExists,
    Busy,
    InvalidRequest,
    NoSpace,
    NotFound,
    NotPermitted,
    PoolUnavailable,
)
from zolder.model import Change, Chap, Export, PoolFigures, Zvol, ZvolSnapshot
from zolder.names import (
    DatasetName,
    InitiatorName,
    Portal,
    SnapshotName,
    TargetPrefix,
    VolumeId,
    ZvolName,
    clone_origin,
    snapshot_dataset,
    target_name,
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


@dataclass
class _Export:
    target: str
    portals: tuple[Portal, ...]
    secrets: dict[InitiatorName, Chap | None] = field(default_factory=dict)


# They ask the targets and not the zpool: a target is closed whatever became of its zvol.
_TARGETS_ALONE: Final = frozenset({"withdraw_zvol", "list_exports"})


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
        self._exports: dict[str, _Export] = {}
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
        self._exports.pop(dataset, None)
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
        present = found is not None and not found.deferred
        if found is not None:
            found.deferred = True
            self._collect(name)
        return Change(present, None)

    @_verb
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
        self.get_zvol(parent, zvol)
        export = self._exports.setdefault(
            zvol_dataset(parent, zvol), _Export(target_name(prefix, zvol), portals)
        )
        changed = initiator not in export.secrets or export.secrets[initiator] != chap
        changed |= export.portals != portals
        export.secrets[initiator], export.portals = chap, portals
        return Change(changed, _export_of(zvol, export))

    @_verb
    def withdraw_zvol(
        self, parent: DatasetName, zvol: ZvolName, initiator: InitiatorName | None
    ) -> Change[tuple[InitiatorName, ...]]:
        """See ``Storage``."""
        export = self._exports.get(zvol_dataset(parent, zvol))
        if export is None:
            return Change(changed=False, value=())
        leaving = set(export.secrets) if initiator is None else {initiator} & set(export.secrets)
        for name in leaving:
            del export.secrets[name]
        if not export.secrets:
            del self._exports[zvol_dataset(parent, zvol)]
        return Change(bool(leaving), tuple(sorted(export.secrets)))

    @_verb
    def list_exports(self, parent: DatasetName) -> tuple[Export, ...]:
        """See ``Storage``."""
        return tuple(
            _export_of(ZvolName(dataset.rpartition("/")[2]), export)
            for dataset, export in sorted(self._exports.items())
            if dataset.rpartition("/")[0] == parent
        )

    def _find(self, parent: DatasetName, zvol: ZvolName) -> Zvol | None:
        dataset = zvol_dataset(parent, zvol)
        if dataset in self._foreign:
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
        return sorted(dataset for dataset, zvol in self._zvols.items() if zvol.origin == snapshot)

    def _collect(self, snapshot: str) -> None:
        found = self._snapshots.get(snapshot)
        if found is not None and found.deferred and not self._clones(snapshot):
            del self._snapshots[snapshot]

    @staticmethod
    def _check_larger(origin: str, least_bytes: int, asked_bytes: int) -> None:
        if asked_bytes < least_bytes:
            message = f"a clone of {origin} needs at least {least_bytes} bytes"
            raise InvalidRequest(message)


def _export_of(zvol: ZvolName, export: _Export) -> Export:
    return Export(zvol, export.target, export.portals, 0, tuple(sorted(export.secrets)))
