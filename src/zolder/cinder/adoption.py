"""Manage and unmanage: what others made on the SAN becomes Cinder's, and Cinder's is given back.

A reference is ``{"source-name": NAME}``: the zvol's name, or the snapshot's, with what stands before it or
without. What Cinder's record says of a mark is looked up here, for the SAN knows no Cinder: a zvol that is
marked as a volume is adopted only where no back end of this Cinder has such a volume any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from cinder import context as cinder_context
from cinder import exception, objects
from cinder.volume import volume_utils

from zolder.cinder.groups import GroupVerbs
from zolder.cinder.objects import Snapshot, Volume
from zolder.cinder.translate import GIB, size_bytes, snapshot_of, translated, volume_id_of, zvol_of
from zolder.cinder.volume_types import read_kind
from zolder.errors import AlreadyExists, Busy, Error, InvalidRequest, NotFound, NotPermitted
from zolder.model import FoundSnapshot, FoundZvol, Zvol
from zolder.names import SnapshotName, VolumeId, ZvolName

Reference: TypeAlias = dict[str, Any]
SOURCE: Final = "source-name"
# What of a type is about the zvol.
_TYPE_WORDS: Final = ("zolder:", "provisioning:")
# What the API makes of error_managing when it is asked to delete (cinder/volume/api.py, delete).
_FAILED_ADOPTION: Final = "error_managing_deleting"


class AdoptionVerbs(GroupVerbs):
    """Volumes and snapshots that change hands."""

    def manage_existing(self, volume: Volume, existing_ref: Reference) -> dict[str, str]:
        """Adopt a zvol: it gets Cinder's name, its size rounded up to whole GiB, and the mark.

        :raises ManageExistingInvalidReference: it is not there, or may not be adopted; what to do is said.
        """
        with _refused(existing_ref):
            found = self._find(volume, existing_ref)
            adopted = self._san.storage.adopt_zvol(
                found.parent,
                ZvolName(found.name),
                zvol_of(volume),
                volume_id=volume_id_of(volume),
                former=found.volume_id,
                volsize_bytes=size_bytes(_gib(found.volsize_bytes)),
            )
            self._give_type(volume, adopted.value)
            return self._exports.describe(volume)

    def _give_type(self, volume: Volume, adopted: Zvol) -> None:
        """Give an adopted zvol what its volume's type says; without a word of ours it keeps what it has.

        :raises ManageExistingVolumeTypeMismatch: it has other blocks than the type says.
        """
        specs = (volume.volume_type.extra_specs or {}) if volume.volume_type_id else {}
        if not any(key.startswith(_TYPE_WORDS) for key in specs):
            return
        kind = read_kind(specs, sparse=adopted.sparse)
        try:
            self._san.storage.set_zvol_properties(
                adopted.parent,
                adopted.name,
                sparse=kind.sparse,
                properties=kind.properties,
                volblocksize=kind.volblocksize,
            )
        except AlreadyExists as err:
            raise exception.ManageExistingVolumeTypeMismatch(reason=err.message) from err

    def manage_existing_get_size(self, volume: Volume, existing_ref: Reference) -> int:
        """Return a zvol's size in GiB, rounded up; it is grown to that when it is adopted.

        :raises ManageExistingInvalidReference: as `manage_existing`, before Cinder reserves its quota.
        """
        with _refused(existing_ref):
            return _gib(self._find(volume, existing_ref).volsize_bytes)

    def delete_volume(self, volume: Volume) -> None:
        """Delete a volume; one whose adoption Cinder took for failed is given back, with its data.

        Cinder (29) deletes a volume in ``error_managing`` like any other, and the zvol may well be adopted:
        its own steps after the driver's can fail, or cinder-volume dies.
        """
        if volume.status == _FAILED_ADOPTION or not volume.size:
            # A size is saved right behind the adoption: one without was never more than somebody else's zvol.
            with translated():  # never as busy, on which Cinder would call it available
                self._san.storage.release_zvol(self._parent_of(volume), zvol_of(volume))
        else:
            super().delete_volume(volume)

    def unmanage(self, volume: Volume) -> None:
        """Take our marks from a zvol; it keeps the name that Cinder gave it, and its data."""
        with translated(Busy, to=lambda err: exception.VolumeIsBusy(err.message)):
            self._san.storage.release_zvol(self._parent_of(volume), zvol_of(volume))

    def get_manageable_volumes(
        self,
        cinder_volumes: Iterable[Volume],
        marker: Any,  # noqa: ANN401 - a reference, or its JSON
        limit: int,
        offset: int,
        sort_keys: list[str],
        sort_dirs: list[str],
    ) -> list[dict[str, Any]]:
        """List the zvols below each parent, whoever made them, with why one cannot be managed."""
        mine = {volume.name: volume.id for volume in cinder_volumes}
        with translated():
            listed = [
                found
                for parent in self._settings.parents
                for found in self._san.storage.list_found_zvols(parent)
            ]
        entries = [self._entry_of(found, mine) for found in listed]
        return list(volume_utils.paginate_entries_list(entries, marker, limit, offset, sort_keys, sort_dirs))

    def manage_existing_snapshot(self, snapshot: Snapshot, existing_ref: Reference) -> dict[str, str]:
        """Adopt a snapshot of the volume that Cinder names: it gets Cinder's name and our mark.

        :raises ManageExistingInvalidReference: it is not there, is another volume's, or may not be adopted.
        """
        with _refused(existing_ref):
            found = self._find_snapshot(snapshot, existing_ref)
            self._san.storage.adopt_snapshot(
                found.parent, found.zvol, SnapshotName(found.name), snapshot_of(snapshot)
            )
            return {}

    def manage_existing_snapshot_get_size(self, snapshot: Snapshot, existing_ref: Reference) -> int:
        """Return the size that the volume had when a snapshot was taken, in GiB, rounded up.

        :raises ManageExistingInvalidReference: as `manage_existing_snapshot`.
        """
        with _refused(existing_ref):
            return _gib(self._find_snapshot(snapshot, existing_ref).volsize_bytes)

    def unmanage_snapshot(self, snapshot: Snapshot) -> None:
        """Take our mark from a snapshot; it keeps the name that Cinder gave it."""
        with translated():
            self._san.storage.release_snapshot(
                self._parent_of(snapshot.volume), ZvolName(snapshot.volume_name), snapshot_of(snapshot)
            )

    def get_manageable_snapshots(
        self,
        cinder_snapshots: Iterable[Snapshot],
        marker: Any,  # noqa: ANN401 - a reference, or its JSON
        limit: int,
        offset: int,
        sort_keys: list[str],
        sort_dirs: list[str],
    ) -> list[dict[str, Any]]:
        """List the snapshots of this back end's volumes, whoever took them."""
        mine = {(one.volume_name, one.name): one.id for one in cinder_snapshots}
        with translated():
            listed = [
                found
                for parent in self._settings.parents
                for found in self._san.storage.list_found_snapshots(parent, None)
            ]
        entries = [_snapshot_entry(found, mine.get((found.zvol, found.name))) for found in listed]
        return list(volume_utils.paginate_entries_list(entries, marker, limit, offset, sort_keys, sort_dirs))

    def _find(self, volume: Volume, existing_ref: Reference) -> FoundZvol:
        """Return the zvol that a reference means and that may be adopted.

        :raises Error: it is not there, or there is an obstacle.
        """
        above, _, leaf = _source(existing_ref).rpartition("/")
        parent = self._parent_of(volume)
        if above not in {"", str(parent)}:
            if above in self._settings.parents:
                message = f"{above}/{leaf} is in another pool: name that, as in HOST@BACKEND#{above}"
                raise InvalidRequest(message)
            message = (
                f"{above} is not that pool's parent, {parent}:"
                f" 'zfs rename {above}/{leaf} {parent}/{leaf}' first"
            )
            raise InvalidRequest(message)
        found = self._san.storage.find_zvol(parent, ZvolName(leaf))
        if found is None:
            message = f"{parent}/{leaf} does not exist"
            raise NotFound(message)
        holder = _volume_of(found.volume_id)
        if holder is not None:
            message = f"{parent}/{leaf} is volume {holder} of this Cinder: unmanage that first"
            raise InvalidRequest(message)
        if found.obstacle is not None:
            raise InvalidRequest(found.obstacle)
        return found

    def _find_snapshot(self, snapshot: Snapshot, existing_ref: Reference) -> FoundSnapshot:
        """Return the snapshot that a reference means, of the volume that Cinder says.

        :raises Error: it is not there, is another volume's, or there is an obstacle.
        """
        place, _, leaf = _source(existing_ref).rpartition("@")
        parent, zvol = self._parent_of(snapshot.volume), ZvolName(snapshot.volume_name)
        if place not in {"", zvol, f"{parent}/{zvol}"}:
            message = f"{place} is not the volume that was named, {parent}/{zvol}"
            raise InvalidRequest(message)
        listed = self._san.storage.list_found_snapshots(parent, zvol)
        found = next((one for one in listed if one.name == leaf), None)
        if found is None:
            message = f"{parent}/{zvol}@{leaf} does not exist"
            raise NotFound(message)
        if found.managed:
            message = f"{parent}/{zvol}@{leaf} is a snapshot of Cinder's already"
            raise InvalidRequest(message)
        if found.obstacle is not None:
            raise InvalidRequest(found.obstacle)
        return found

    def _entry_of(self, found: FoundZvol, mine: dict[str, str]) -> dict[str, Any]:
        managed = mine.get(found.name) or _volume_of(found.volume_id)
        reason, extra = found.obstacle, None
        if managed is not None:
            here = found.name in mine
            reason = "already managed" if here else "another back end of this Cinder manages it"
        elif found.volume_id is not None:
            extra = f"marked as volume {found.volume_id}, which this Cinder does not know"
        return {
            "reference": {
                SOURCE: f"{found.parent}/{found.name}" if self._settings.parents[1:] else found.name
            },
            "size": _gib(found.volsize_bytes),
            "safe_to_manage": reason is None,
            "reason_not_safe": reason,
            "cinder_id": managed,
            "extra_info": extra,
        }


@contextmanager
def _refused(existing_ref: Reference) -> Iterator[None]:
    """Say in Cinder's words why a reference will not do; what is wrong with the SAN stays what it is."""

    def refusal(err: Error) -> Exception:
        refused: Exception = exception.ManageExistingInvalidReference(
            existing_ref=existing_ref, reason=err.message
        )
        return refused

    with translated(InvalidRequest, NotPermitted, NotFound, AlreadyExists, Busy, to=refusal):
        yield


def _snapshot_entry(found: FoundSnapshot, cinder_id: str | None) -> dict[str, Any]:
    reason = found.obstacle
    if cinder_id is not None:
        reason = "already managed"
    elif found.managed:
        reason = "taken through Zolder, and not for a snapshot that this Cinder knows: see 'zolder orphans'"
    return {
        "reference": {SOURCE: found.name},
        "size": _gib(found.volsize_bytes),
        "safe_to_manage": reason is None,
        "reason_not_safe": reason,
        "cinder_id": cinder_id,
        "extra_info": None,
        "source_reference": {SOURCE: found.zvol},
    }


def _source(existing_ref: Reference) -> str:
    """Return what a reference names.

    :raises InvalidRequest: it has no source-name.
    """
    name = existing_ref.get(SOURCE)
    if not isinstance(name, str) or not name:
        message = f"a reference needs a {SOURCE}, as 'cinder manageable-list' shows it"
        raise InvalidRequest(message)
    return name


def _volume_of(volume_id: VolumeId | None) -> str | None:
    """Return the id of the volume that this Cinder has, on any back end, under a zvol's mark."""
    if volume_id is None:
        return None
    admin = cinder_context.get_admin_context()
    if objects.Volume.exists(admin, volume_id):
        return str(volume_id)
    migrated = objects.VolumeList.get_all(admin, filters={"_name_id": volume_id})
    return next((str(volume.id) for volume in migrated), None)


def _gib(volsize_bytes: int) -> int:
    return -(-volsize_bytes // GIB)
