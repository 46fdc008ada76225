"""What others made becomes ours, and is given back, on a SAN in memory."""

from __future__ import annotations

from dataclasses import replace

from zolder.errors import AlreadyExists, Busy, InvalidRequest, NotFound, NotPermitted
from zolder.fake_groups import FakeGroups
from zolder.fake_state import verb
from zolder.model import Change, FoundSnapshot, FoundZvol, Zvol, ZvolSnapshot
from zolder.names import (
    DatasetName,
    SnapshotName,
    VolumeId,
    ZvolName,
    is_own_snapshot,
    snapshot_dataset,
    zvol_dataset,
)


class FakeAdoption(FakeGroups):
    """Zvols and snapshots that change hands."""

    @verb
    def find_zvol(self, parent: DatasetName, zvol: ZvolName) -> FoundZvol | None:
        """See ``Storage``."""
        return next((found for found in self.list_found_zvols(parent) if found.name == zvol), None)

    @verb
    def list_found_zvols(self, parent: DatasetName) -> tuple[FoundZvol, ...]:
        """See ``Storage``."""
        every = {**self._foreign, **self._zvols}
        sizes = {name: zvol.volsize_bytes for name, zvol in every.items()}
        sizes |= {view: self._snapshots[origin].volsize_bytes for view, origin in self._views.items()}
        return tuple(
            FoundZvol(
                parent,
                name.rpartition("/")[2],
                size,
                self._zvols[name].volume_id if name in self._zvols else None,
                self._obstacle(parent, name),
            )
            for name, size in sorted(sizes.items())
            if name.rpartition("/")[0] == parent
        )

    @verb
    def adopt_zvol(
        self,
        parent: DatasetName,
        source: ZvolName,
        zvol: ZvolName,
        *,
        volume_id: VolumeId,
        former: VolumeId | None,
        volsize_bytes: int,
    ) -> Change[Zvol]:
        """See ``Storage``."""
        old, new = zvol_dataset(parent, source), zvol_dataset(parent, zvol)
        here = [name for name in dict.fromkeys((old, new)) if self.find_zvol(*_parts(name)) is not None]
        if len(here) > 1:
            message = f"{new} exists: {old} cannot have its name"
            raise AlreadyExists(message)
        if not here:
            message = f"{old} does not exist"
            raise NotFound(message)
        [place] = here
        ours = self._zvols.get(place)
        if place == new and ours is not None and ours.volume_id == volume_id:
            return Change(changed=False, value=ours)
        if place in self._views or (ours.volume_id if ours else None) != former:
            message = f"{place} is marked as {ours.volume_id if ours else 'no volume'}"
            raise NotPermitted(message)
        if obstacle := self._obstacle(parent, place):
            raise Busy(obstacle, holders=[obstacle])
        now = ours or self._foreign[place]
        if volsize_bytes < now.volsize_bytes:
            message = f"{place} is never shrunk"
            raise InvalidRequest(message)
        self._reserve(now, volsize_bytes - now.volsize_bytes)
        self._zvols.pop(place, None)
        self._foreign.pop(place, None)
        self._move(place, new)
        adopted = replace(now, name=zvol, volume_id=volume_id, volsize_bytes=volsize_bytes)
        self._zvols[new] = adopted
        return Change(changed=True, value=adopted)

    @verb
    def release_zvol(self, parent: DatasetName, zvol: ZvolName) -> Change[None]:
        """See ``Storage``."""
        dataset = zvol_dataset(parent, zvol)
        found = self._zvols.get(dataset)
        if found is None:
            return Change(changed=False, value=None)
        holders = [f"{dataset}@{one.name}" for one in self.list_found_snapshots(parent, zvol) if one.managed]
        if holders:
            message = f"{dataset} has snapshots that go first: {', '.join(holders)}"
            raise Busy(message, holders=holders)
        self._exports.close(parent, zvol, None, None)
        self._foreign[dataset] = self._zvols.pop(dataset)
        return Change(changed=True, value=None)

    @verb
    def list_found_snapshots(self, parent: DatasetName, zvol: ZvolName | None) -> tuple[FoundSnapshot, ...]:
        """See ``Storage``."""
        if zvol is not None:
            self.get_zvol(parent, zvol)
        names = [zvol] if zvol is not None else [one.name for one in self.list_zvols(parent)]
        return tuple(
            FoundSnapshot(parent, name, snapshot.partition("@")[2], found.volsize_bytes, found.ours)
            for name in names
            for snapshot, found in sorted(self._snapshots.items())
            if snapshot.startswith(f"{zvol_dataset(parent, name)}@")
            and not found.deferred
            and not is_own_snapshot(snapshot)
        )

    @verb
    def adopt_snapshot(
        self, parent: DatasetName, zvol: ZvolName, source: SnapshotName, snapshot: SnapshotName
    ) -> Change[ZvolSnapshot]:
        """See ``Storage``."""
        self.get_zvol(parent, zvol)
        old, new = snapshot_dataset(parent, zvol, source), snapshot_dataset(parent, zvol, snapshot)
        here = [name for name in dict.fromkeys((old, new)) if name in self._snapshots]
        if not here:
            message = f"{old} does not exist"
            raise NotFound(message)
        [place, *others] = here
        found = self._snapshots[place]
        if others or found.deferred:
            message = f"{new} exists, or {old} was deleted"
            raise AlreadyExists(message)
        if found.ours and place != new:
            message = f"{place} was taken through Zolder"
            raise NotPermitted(message)
        changed = not found.ours
        found.ours = True
        self._rename_snapshot(place, new)
        return Change(changed, ZvolSnapshot(parent, zvol, snapshot))

    @verb
    def release_snapshot(self, parent: DatasetName, zvol: ZvolName, snapshot: SnapshotName) -> Change[None]:
        """See ``Storage``."""
        found = self._snapshots.get(snapshot_dataset(parent, zvol, snapshot))
        if found is None or not found.ours or found.deferred:
            return Change(changed=False, value=None)
        found.ours = False
        return Change(changed=True, value=None)

    def _obstacle(self, parent: DatasetName, dataset: str) -> str | None:
        if dataset in self._views:
            return f"{dataset} is Zolder's own"
        exported = any(
            zvol_dataset(parent, access.zvol) == dataset for access in self.list_attachments(parent)
        )
        return f"{dataset} is exported: detach it first" if exported else None

    def _move(self, old: str, new: str) -> None:
        self._blocks[new] = self._blocks.pop(old)
        for name in [name for name in self._snapshots if name.startswith(f"{old}@")]:
            self._rename_snapshot(name, f"{new}@{name.partition('@')[2]}")

    def _rename_snapshot(self, old: str, new: str) -> None:
        self._snapshots[new] = self._snapshots.pop(old)
        for zvols in (self._zvols, self._foreign):
            zvols.update({name: replace(one, origin=new) for name, one in zvols.items() if one.origin == old})
        self._views.update({view: new for view, origin in self._views.items() if origin == old})


def _parts(dataset: str) -> tuple[DatasetName, ZvolName]:
    parent, _, leaf = dataset.rpartition("/")
    return DatasetName(parent), ZvolName(leaf)
