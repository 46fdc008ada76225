"""The verbs that make, copy, grow and delete volumes and snapshots: each is one request."""

from __future__ import annotations

from cinder import exception

from zolder.cinder.objects import Snapshot, Volume
from zolder.cinder.retyping import TypeVerbs
from zolder.cinder.translate import size_bytes, snapshot_of, translated, volume_id_of, zvol_of
from zolder.errors import Busy, InvalidRequest, NotFound
from zolder.names import DatasetName, ZvolName


class VolumeVerbs(TypeVerbs):
    """Volumes and snapshots."""

    def create_volume(self, volume: Volume) -> dict[str, str]:
        """Create a zvol, and say what its secret and its place are, as each verb that makes a volume does."""
        kind = self._kind_of(volume)
        with translated():
            self._san.storage.create_zvol(
                self._parent_of(volume),
                zvol_of(volume),
                volume_id=volume_id_of(volume),
                volsize_bytes=size_bytes(volume.size),
                sparse=kind.sparse,
                properties=kind.properties,
                volblocksize=kind.volblocksize,
            )
            return self._exports.describe(volume)

    def create_volume_from_snapshot(self, volume: Volume, snapshot: Snapshot) -> dict[str, str]:
        """Clone a snapshot and grow the clone where a larger volume is asked for.

        :raises SnapshotNotFound: the snapshot is proven absent; another back end would not have it either.
        """
        kind = self._kind_of(volume)
        with translated(NotFound, to=lambda _: exception.SnapshotNotFound(snapshot_id=snapshot.id)):
            self._san.storage.clone_zvol(
                self._parent_beside(volume, snapshot.volume),
                ZvolName(snapshot.volume_name),
                snapshot_of(snapshot),
                zvol_of(volume),
                volume_id=volume_id_of(volume),
                volsize_bytes=size_bytes(volume.size),
                sparse=kind.sparse,
                properties=kind.properties,
                volblocksize=kind.volblocksize,
            )
            return self._exports.describe(volume)

    def create_cloned_volume(self, volume: Volume, src_vref: Volume) -> dict[str, str]:
        """Clone a volume as it is now; the SAN keeps the snapshot that this takes, hidden.

        :raises VolumeNotFound: the source is proven absent.
        """
        kind = self._kind_of(volume)
        with translated(NotFound, to=lambda _: exception.VolumeNotFound(volume_id=src_vref.id)):
            self._san.storage.clone_zvol(
                self._parent_beside(volume, src_vref),
                zvol_of(src_vref),
                None,
                zvol_of(volume),
                volume_id=volume_id_of(volume),
                volsize_bytes=size_bytes(volume.size),
                sparse=kind.sparse,
                properties=kind.properties,
                volblocksize=kind.volblocksize,
            )
            return self._exports.describe(volume)

    def extend_volume(self, volume: Volume, new_size: int) -> None:
        """Grow a zvol, in use or not; an initiator sees it when it rescans."""
        with translated():
            self._san.storage.grow_zvol(
                self._parent_of(volume), zvol_of(volume), volsize_bytes=size_bytes(new_size)
            )

    def delete_volume(self, volume: Volume) -> None:
        """Close a zvol to everybody and destroy it; one that the SAN proves absent is deleted already.

        What clones of it still need the SAN keeps aside until the last of them goes.

        :raises VolumeIsBusy: snapshots or a process hold it; Cinder keeps it available.
        """
        with translated(Busy, to=lambda err: exception.VolumeIsBusy(err.message)):
            self._san.storage.delete_zvol(self._parent_of(volume), zvol_of(volume))

    def revert_to_snapshot(self, context: object, volume: Volume, snapshot: Snapshot) -> None:  # noqa: ARG002 - Cinder's interface
        """Bring a volume that nobody has attached back to its latest snapshot; what came after is gone.

        Clones that were made since keep what they need, and Cinder's older snapshots stay what they are.

        :raises SnapshotNotFound: the snapshot is proven absent; the volume is as it was.
        """
        with translated(NotFound, to=lambda _: exception.SnapshotNotFound(snapshot_id=snapshot.id)):
            self._san.storage.revert_zvol(
                self._parent_of(volume),
                zvol_of(volume),
                snapshot_of(snapshot),
                volsize_bytes=size_bytes(volume.size),
            )

    def snapshot_revert_use_temp_snapshot(self) -> bool:
        """Say that Cinder need not take a snapshot before it reverts: a revert is done whole or not at all.

        The snapshot would come after the one that is reverted to, and be in its way.
        """
        return False

    def create_snapshot(self, snapshot: Snapshot) -> None:
        """Snapshot a zvol, in use or not."""
        with translated():
            self._san.storage.create_snapshot(
                self._parent_of(snapshot.volume), ZvolName(snapshot.volume_name), snapshot_of(snapshot)
            )

    def delete_snapshot(self, snapshot: Snapshot) -> None:
        """Destroy a snapshot; one with clones goes with the last of them, and Cinder need not know.

        Whoever still reads it is shut out. Cinder (29) deletes no snapshot whose status is backing-up
        (volume/api.py, delete_snapshot). A backup's own temporary one it deletes once it has ended the
        reading, and *without* having ended it where that failed (continue_backup ignores the error) or where
        cinder-backup died (_cleanup_temp_volumes_snapshots_for_one_backup): then nobody reads, and nobody
        ever terminates the connection.

        :raises SnapshotIsBusy: something else holds it; Cinder keeps it available.
        """
        with translated(Busy, to=lambda err: exception.SnapshotIsBusy(err.message)):
            self._san.storage.delete_snapshot(
                self._parent_of(snapshot.volume), ZvolName(snapshot.volume_name), snapshot_of(snapshot)
            )

    def _parent_beside(self, volume: Volume, source: Volume) -> DatasetName:
        """Return the parent of a volume that is to be a clone, which its source has to be in, too.

        :raises InvalidRequest: Cinder placed it elsewhere.
        """
        parent, there = self._parent_of(volume), self._parent_of(source)
        if parent != there:
            message = (
                f"a clone stays in its source's pool, {there}, and Cinder placed it in {parent}: leave"
                " snapshot_same_host at true, or migrate it afterwards"
            )
            raise InvalidRequest(message)
        return parent
