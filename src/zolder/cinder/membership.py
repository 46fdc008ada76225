"""Where the members of a consistent group may be: in one zpool, for one moment of ZFS spans no more.

Cinder's scheduler puts a new member into the group's back end, and into any pool of it
(cinder/volume/flows/api/create_volume.py: extract_host of the group's resource_backend). So each verb that
makes a member looks first; what is refused here Cinder offers to another pool.
"""

from __future__ import annotations

from collections.abc import Iterable

from cinder import exception
from cinder.volume import volume_utils

from zolder.cinder.objects import Snapshot, Volume
from zolder.cinder.translate import translated
from zolder.cinder.volumes import VolumeVerbs
from zolder.names import DatasetName

_CREATING = "creating"
# It has no zvol, or one that nobody may use: Cinder snapshots no group that has such a volume.
_FAILED = "error"


class MembershipVerbs(VolumeVerbs):
    """The verbs that make a volume, of which each may be one of a group's."""

    def create_volume(self, volume: Volume) -> dict[str, str]:
        """See ``VolumeVerbs``.

        :raises InvalidInput: it is to be in a consistent group, and would be in another zpool.
        """
        self._require_beside_members(volume)
        return super().create_volume(volume)

    def create_volume_from_snapshot(self, volume: Volume, snapshot: Snapshot) -> dict[str, str]:
        """See ``VolumeVerbs``.

        :raises InvalidInput: as `create_volume`.
        """
        self._require_beside_members(volume)
        return super().create_volume_from_snapshot(volume, snapshot)

    def create_cloned_volume(self, volume: Volume, src_vref: Volume) -> dict[str, str]:
        """See ``VolumeVerbs``.

        :raises InvalidInput: as `create_volume`.
        """
        self._require_beside_members(volume)
        return super().create_cloned_volume(volume, src_vref)

    def _require_beside_members(self, volume: Volume) -> None:
        if volume.group_id is None or not volume_utils.is_group_a_cg_snapshot_type(volume.group):
            return
        self._require_one_zpool([*_standing(volume), volume])

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
                f" {places}. Have them in one pool, by migration or by a volume type that names it, or use a"
                " group type without consistent_group_snapshot_enabled."
            )
            raise exception.InvalidInput(reason=reason)
        return next(iter(parents), self._settings.parents[0])


def _standing(volume: Volume) -> list[Volume]:
    """Return the other members of a volume's group that stand, or are being made and were asked for before.

    Of two that are made at once the later one gives way, so they never both stay, nor both go.
    """
    asked = (volume.created_at, volume.id)
    return [
        member
        for member in volume.group.volumes
        if member.id != volume.id
        and member.host
        and member.status != _FAILED
        and (member.status != _CREATING or (member.created_at, member.id) < asked)
    ]
