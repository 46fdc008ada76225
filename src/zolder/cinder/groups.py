"""Generic groups: consistent ones natively, others on Cinder's own path wherever that path tells the truth.

A consistent group (group type spec ``consistent_group_snapshot_enabled = <is> True``) is snapshotted by one
request at one moment. Of another group Cinder's manager (29) does three things well by itself, which these
hooks leave to it by NotImplementedError: create, update, snapshot one by one. Three it does not:
it forgets a member that is busy when a group or a group's snapshot is deleted, and calls a member available
whose copy has failed (_delete_group_generic, _delete_group_snapshot_generic, create_group_from_src). So those
are done here for every group.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from cinder import exception
from cinder.volume import volume_utils

from zolder.cinder.objects import Group, GroupSnapshot, Snapshot, Volume
from zolder.cinder.translate import snapshot_of, translated, zvol_of
from zolder.cinder.volumes import VolumeVerbs
from zolder.errors import Error, NotFound
from zolder.model import ZvolSnapshot
from zolder.names import DatasetName, SnapshotName

LOG = logging.getLogger(__name__)

Update: TypeAlias = dict[str, Any]
ERROR: Final = "error"
_AVAILABLE: Final = "available"
_DELETED: Final = "deleted"


class GroupVerbs(VolumeVerbs):
    """Groups of volumes, and their snapshots."""

    def create_group(self, context: object, group: Group) -> Update:  # noqa: ARG002 - Cinder's interface
        """Agree to a group, which is Cinder's record alone: the SAN knows volumes."""
        _require_consistent(group)
        return {"status": _AVAILABLE}

    def update_group(
        self,
        context: object,  # noqa: ARG002 - Cinder's interface
        group: Group,
        add_volumes: Sequence[Volume] | None = None,
        remove_volumes: Sequence[Volume] | None = None,
    ) -> tuple[None, None, None]:
        """Agree to a group's new members.

        :raises InvalidInput: they would not all be in one zpool, and could not be snapshotted at one moment.
        """
        _require_consistent(group)
        leaving = {volume.id for volume in remove_volumes or ()}
        staying = [volume for volume in group.volumes if volume.id not in leaving]
        self._require_one_zpool([*staying, *(add_volumes or ())])
        return None, None, None

    def delete_group(
        self,
        context: object,  # noqa: ARG002 - Cinder's interface
        group: Group,
        volumes: Sequence[Volume],
    ) -> tuple[Update, list[Update]]:
        """Delete a group's volumes; one that cannot be deleted stays on Cinder's record, as does the group.

        :return: the group's and each volume's status; Cinder keeps a busy volume as available.
        """
        LOG.debug("Group %s: deleting %d volumes", group.id, len(volumes))
        return _one_by_one(volumes, self.delete_volume, exception.VolumeIsBusy)

    def create_group_snapshot(
        self,
        context: object,  # noqa: ARG002 - Cinder's interface
        group_snapshot: GroupSnapshot,
        snapshots: Sequence[Snapshot],
    ) -> tuple[Update, list[Update]]:
        """Snapshot all members at one moment: all of them or none, so an error is every member's.

        :raises InvalidInput: they are not all in one zpool.
        """
        _require_consistent(group_snapshot)
        members = [(snapshot.volume, snapshot_of(snapshot)) for snapshot in snapshots]
        self._snapshot_together(members)
        return {"status": _AVAILABLE}, [{"id": one.id, "status": _AVAILABLE} for one in snapshots]

    def delete_group_snapshot(
        self,
        context: object,  # noqa: ARG002 - Cinder's interface
        group_snapshot: GroupSnapshot,
        snapshots: Sequence[Snapshot],
    ) -> tuple[Update, list[Update]]:
        """Delete the members; one that cannot be deleted stays in Cinder's record, as with `delete_group`."""
        LOG.debug("Group snapshot %s: deleting %d snapshots", group_snapshot.id, len(snapshots))
        return _one_by_one(snapshots, self.delete_snapshot, exception.SnapshotIsBusy)

    def create_group_from_src(
        self,
        context: object,  # noqa: ARG002 - Cinder's interface
        group: Group,
        volumes: Sequence[Volume],
        group_snapshot: GroupSnapshot | None = None,
        snapshots: Sequence[Snapshot] | None = None,
        source_group: Group | None = None,
        source_vols: Sequence[Volume] | None = None,
    ) -> tuple[Update, list[Update]]:
        """Clone every member, all of them or none: Cinder calls each available unless this raises.

        :raises SnapshotNotFound, VolumeNotFound: a source is proven absent.
        :raises InvalidInput: a consistent group would not be in one zpool.
        """
        origins = (
            [each.volume for each in snapshots or ()] if group_snapshot is not None else source_vols or ()
        )
        if volume_utils.is_group_a_cg_snapshot_type(group):
            self._require_one_zpool(origins)
        for volume, origin in zip(volumes, origins, strict=True):
            # The scheduler places a whole group in one pool, and a clone is where its source is.
            volume.host = origin.host
        if group_snapshot is not None:
            copies = [
                _copying(self.create_volume_from_snapshot, volume, snapshot)
                for volume, snapshot in zip(volumes, snapshots or (), strict=True)
            ]
            return self._all_or_none(volumes, copies)
        sources = list(source_vols or ())
        if source_group is None or not volume_utils.is_group_a_cg_snapshot_type(source_group):
            copies = [
                _copying(self.create_cloned_volume, volume, source)
                for volume, source in zip(volumes, sources, strict=True)
            ]
            return self._all_or_none(volumes, copies)
        return self._clone_together(group, volumes, sources)

    def _clone_together(
        self, group: Group, volumes: Sequence[Volume], sources: Sequence[Volume]
    ) -> tuple[Update, list[Update]]:
        """Clone volumes as they are at one moment, through snapshots that go with the clones."""
        name = SnapshotName(f"group-{group.id}")
        with ExitStack() as leave:
            # Before they are taken: where the answer is lost they may have been.
            for source in sources:
                leave.callback(self._drop, source, name)
            self._snapshot_together([(source, name) for source in sources])
            copies = [
                _copying(
                    self.create_volume_from_snapshot, volume, _Passing(group.id, name, source.name, source)
                )
                for volume, source in zip(volumes, sources, strict=True)
            ]
            return self._all_or_none(volumes, copies)

    def _drop(self, source: Volume, name: SnapshotName) -> None:
        """Delete a snapshot that served its purpose; ZFS keeps it, hidden, until its clone goes."""
        try:
            self._san.storage.delete_snapshot(self._parent_of(source), zvol_of(source), name)
        except Error:
            # The clones are whole or undone, whatever becomes of it.
            LOG.exception("Snapshot %s of volume %s is left: 'zolder orphans' shows it", name, source.id)

    def _all_or_none(
        self, volumes: Sequence[Volume], copies: Sequence[Callable[[], Update]]
    ) -> tuple[Update, list[Update]]:
        updates = []
        with ExitStack() as undo:
            for volume, copy in zip(volumes, copies, strict=True):
                undo.callback(self._undo, volume)
                updates.append({**copy(), "id": volume.id, "status": _AVAILABLE, "host": volume.host})
            undo.pop_all()
        return {"status": _AVAILABLE}, updates

    def _undo(self, volume: Volume) -> None:
        """Take away the copy of a member of a group that failed; Cinder's user deletes what is left."""
        try:
            self.delete_volume(volume)
        except exception.CinderException:
            # The error that led here must reach Cinder; the volume is in its record, in error.
            LOG.exception("Could not delete volume %s of a group that failed", volume.id)

    def _snapshot_together(self, members: Sequence[tuple[Volume, SnapshotName]]) -> None:
        parent = self._require_one_zpool([volume for volume, _ in members])
        wanted = tuple(
            ZvolSnapshot(self._parent_of(volume), zvol_of(volume), name) for volume, name in members
        )
        with translated(NotFound, to=lambda err: exception.InvalidVolume(reason=err.message)):
            self._san.storage.create_snapshots(parent, wanted)

    def _require_one_zpool(self, volumes: Iterable[Volume]) -> DatasetName:
        """Return the parent of a consistent group's first member.

        :raises InvalidInput: the members are in several zpools.
        """
        with translated():
            parents = {self._parent_of(volume): volume.id for volume in volumes}
        zpools = sorted({parent.zpool for parent in parents})
        if len(zpools) > 1:
            places = ", ".join(f"volume {member} in {parent}" for parent, member in parents.items())
            reason = (
                f"ZFS snapshots volumes at one moment in one zpool only, and these are in {len(zpools)}:"
                f" {places}. Migrate them to one pool, or use a group type without"
                " consistent_group_snapshot_enabled."
            )
            raise exception.InvalidInput(reason=reason)
        return next(iter(parents), self._settings.parents[0])


@dataclass(frozen=True, slots=True)
class _Passing:
    """A snapshot that Cinder does not know of, as the verbs take Cinder's."""

    id: str
    name: str
    volume_name: str
    volume: Volume
    provider_auth: str | None = None
    provider_location: str | None = None


def _require_consistent(group: Group | GroupSnapshot) -> None:
    """Leave a group that is not of the consistent type to Cinder.

    :raises NotImplementedError: it is not; the manager then goes its generic way.
    """
    if not volume_utils.is_group_a_cg_snapshot_type(group):
        raise NotImplementedError


def _one_by_one(
    members: Sequence[Any], delete: Callable[[Any], None], busy: type[Exception]
) -> tuple[Update, list[Update]]:
    """Delete each member, and say of each what became of it.

    Where one is left the whole is in error: the manager destroys the record of every member otherwise.
    """
    updates, whole = [], _DELETED
    for member in members:
        status = _DELETED
        try:
            delete(member)
        except busy:
            LOG.warning("%s is busy, and stays", member.id, exc_info=True)
            status = _AVAILABLE
        except exception.CinderException:
            LOG.exception("Could not delete %s, which stays", member.id)
            status = ERROR
        if status != _DELETED:
            whole = ERROR
        updates.append({"id": member.id, "status": status})
    return {"status": whole}, updates


def _copying(copy: Callable[..., Update], *sources: object) -> Callable[[], Update]:
    return lambda: copy(*sources)
