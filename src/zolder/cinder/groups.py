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
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Final, TypeAlias

from cinder import exception
from cinder.volume import volume_utils

from zolder.cinder.membership import MembershipVerbs
from zolder.cinder.objects import Group, GroupSnapshot, Snapshot, Volume
from zolder.cinder.translate import size_bytes, snapshot_of, translated, volume_id_of, zvol_of
from zolder.cinder.volumes import VolumeVerbs
from zolder.errors import NotFound
from zolder.model import ZvolCopy, ZvolSnapshot
from zolder.names import SnapshotName, VolumeId

LOG = logging.getLogger(__name__)

Update: TypeAlias = dict[str, Any]
ERROR: Final = "error"
_AVAILABLE: Final = "available"
_DELETED: Final = "deleted"


class GroupVerbs(MembershipVerbs):
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
        if source_group is not None and volume_utils.is_group_a_cg_snapshot_type(source_group):
            return self._clone_together(group, volumes, origins)
        # Past MembershipVerbs: it would look at where Cinder's record has the members that are not made yet.
        if group_snapshot is None:
            return self._all_or_none(volumes, origins, partial(VolumeVerbs.create_cloned_volume, self))
        copy = partial(VolumeVerbs.create_volume_from_snapshot, self)
        return self._all_or_none(volumes, snapshots or (), copy)

    def _clone_together(
        self, group: Group, volumes: Sequence[Volume], sources: Sequence[Volume]
    ) -> tuple[Update, list[Update]]:
        """Clone volumes as they are at one moment, by one request; its snapshots go with the clones."""
        parent = self._require_one_zpool(sources)
        copies = []
        for volume, source in zip(volumes, sources, strict=True):
            kind = self._kind_of(volume)
            with translated():
                copies.append(
                    ZvolCopy(
                        self._parent_beside(volume, source),
                        zvol_of(source),
                        zvol_of(volume),
                        volume_id_of(volume),
                        size_bytes(volume.size),
                        kind.sparse,
                        kind.properties,
                        kind.volblocksize,
                    )
                )
        with translated(NotFound, to=lambda err: exception.InvalidVolume(reason=err.message)):
            self._san.storage.clone_zvols(parent, tuple(copies), moment=VolumeId(group.id))
            return self._available(volumes, [self._exports.describe(volume) for volume in volumes])

    def _all_or_none(
        self, volumes: Sequence[Volume], sources: Sequence[Any], copy: Callable[[Volume, Any], Update]
    ) -> tuple[Update, list[Update]]:
        updates = []
        with ExitStack() as undo:
            for volume, source in zip(volumes, sources, strict=True):
                undo.callback(self._undo, volume)
                updates.append(copy(volume, source))
            undo.pop_all()
        return self._available(volumes, updates)

    @staticmethod
    def _available(volumes: Sequence[Volume], updates: Sequence[Update]) -> tuple[Update, list[Update]]:
        """Return what Cinder is to have on record of a group's new members."""
        return {"status": _AVAILABLE}, [
            {**update, "id": volume.id, "status": _AVAILABLE, "host": volume.host}
            for volume, update in zip(volumes, updates, strict=True)
        ]

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
