"""Zvols that get another place on a SAN in memory, within a zpool and between two."""

from __future__ import annotations

from dataclasses import replace

from zolder.errors import AlreadyExists, Busy, NotFound
from zolder.fake_adoption import FakeAdoption
from zolder.fake_state import verb
from zolder.model import Change, Zvol
from zolder.names import DatasetName, VolumeId, ZvolName, zvol_dataset


class FakeMoving(FakeAdoption):
    """What has a parent, and may get another."""

    @verb
    def move_zvol(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        *,
        to: DatasetName,
        name: ZvolName,
        volume_id: VolumeId,
        former: VolumeId | None = None,
    ) -> Change[Zvol]:
        """See ``Storage``."""
        old, new = zvol_dataset(parent, zvol), zvol_dataset(to, name)
        source = self._find(parent, zvol)
        if source is None:
            arrived = self._zvols.get(new)
            if arrived is None or arrived.volume_id != volume_id:
                message = f"{old} does not exist"
                raise NotFound(message)
            return Change(changed=False, value=arrived)
        if old != new and new in {*self._zvols, *self._foreign, *self._views}:
            message = f"{new} exists: {old} cannot have its place"
            raise AlreadyExists(message)
        if former is not None and source.volume_id not in {former, volume_id}:
            message = f"{old} is marked as volume {source.volume_id}, not {former}"
            raise AlreadyExists(message)
        moved = replace(source, parent=to, name=name, volume_id=volume_id)
        if moved == source:
            return Change(changed=False, value=source)
        self._require_idle(parent, zvol)
        if to.zpool == parent.zpool:
            del self._zvols[old]
            self._zvols[new] = moved
            self._block_sizes[new] = self._block_sizes.pop(old)
            self._move(old, new)
            return Change(changed=True, value=moved)
        alive = sorted(each for each in self._own_snapshots(old) if not self._snapshots[each].deferred)
        if alive:
            message = f"{old} has snapshots that must go first: {', '.join(alive)}"
            raise Busy(message, holders=alive)
        self._reserve(moved, moved.volsize_bytes)
        self._zvols[new] = moved = replace(moved, origin=None)
        self._blocks[new] = dict(self._blocks[old])
        self._block_sizes[new] = self._block_sizes[old]
        self.delete_zvol(parent, zvol)
        return Change(changed=True, value=moved)

    def _require_idle(self, parent: DatasetName, zvol: ZvolName) -> None:
        dataset = zvol_dataset(parent, zvol)
        users = {str(each.initiator) for each in self._exports.attachments(parent) if each.zvol == zvol}
        users |= {view for view, origin in self._views.items() if origin.startswith(f"{dataset}@")}
        if users:
            message = f"{dataset} is exported, or a snapshot of it is: detach it first"
            raise Busy(message, holders=sorted(users))
