"""The verbs that open volumes and snapshots to initiators and close them again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cinder import exception

from zolder.cinder.base import DriverBase
from zolder.cinder.objects import Connector, Snapshot, Volume
from zolder.cinder.translate import initiator_of, translated
from zolder.errors import NotFound


class ConnectionVerbs(DriverBase):
    """Exports and connections."""

    def update_provider_info(
        self,
        volumes: Iterable[Volume],
        snapshots: Iterable[Snapshot],  # noqa: ARG002 - Cinder's interface
    ) -> tuple[None, None]:
        """Have the SAN open what Cinder has on record, one request for a batch of volumes.

        Cinder's manager (29) calls this when cinder-volume starts, with all of its volumes in batches
        (init_host_max_objects_retrieval), and before ensure_export of the same. An error would end the
        start. Exports of snapshots are left to the SAN: Cinder keeps no record of who reads them.

        :return: no updates of provider_id, which is of no use here.
        """
        self._reconciliation.ensure(volumes)
        return None, None

    def ensure_export(self, context: object, volume: Volume) -> None:
        """Do nothing: update_provider_info has looked after all volumes, and without a request for each."""

    def create_export(self, context: object, volume: Volume, connector: Connector) -> dict[str, str]:  # noqa: ARG002 - ditto
        """Say where the volume will be, and make its secret where it needs one and has none.

        No request: a volume is exported to one initiator at a time, in initialize_connection. Cinder calls
        this at every attachment; a secret that exists is in use elsewhere and is never changed. It is made
        with the volume, or here for one that is older than use_chap_auth.
        """
        with translated():
            return self._exports.describe(volume)

    def remove_export(self, context: object, volume: Volume) -> None:
        """Do nothing: what is right to remove has been removed, and the rest is somebody's.

        Cinder's manager (29) calls this at five places, and never says whose export it means: before
        delete_volume, which closes the zvol itself; after a terminate_connection that left nobody, with
        which the target went; after the end of its own internal attachments and in the old detach call, both
        behind a terminate_connection; and when initialize_connection of a *further* attachment failed, where
        removing anything would cut those who are attached. The SAN's record of initiators decides.
        """

    def validate_connector(self, connector: Connector) -> None:
        """Refuse a connector of a machine that cannot log in: without iSCSI's name, or NVMe's.

        :raises InvalidConnectorException: it has none, or not of that kind; what to do there is said.
        """
        initiator_of(connector, self._settings.route.exporter)

    def initialize_connection(
        self, volume: Volume, connector: Connector, **_kwargs: object
    ) -> dict[str, Any]:
        """Open a volume to one initiator and say how it is reached."""
        with translated():
            return self._exports.open(volume, connector)

    def terminate_connection(self, volume: Volume, connector: Connector | None, **_kwargs: object) -> bool:
        """End one attachment of a volume, or all where ``connector`` is None (force-detach).

        :return: whether somebody may still reach it, on which Cinder leaves the export alone.
        """
        with translated():
            return self._exports.close(volume, connector)

    # Snapshots are read by backups (backup_use_temp_snapshot)

    def create_export_snapshot(
        self,
        context: object,  # noqa: ARG002 - Cinder's interface
        snapshot: Snapshot,
        connector: Connector,  # noqa: ARG002 - ditto
    ) -> dict[str, str | None]:
        """Say where the snapshot will be, and make its secret; no request, as with volumes."""
        with translated():
            return self._exports.describe_snapshot(snapshot)

    def remove_export_snapshot(self, context: object, snapshot: Snapshot) -> None:  # noqa: ARG002 - Cinder's interface
        """Close a snapshot to all.

        Cinder (29) calls this after terminate_connection_snapshot, and when initialize_connection_snapshot
        failed. It cuts nobody else: only a backup reads a snapshot, and the snapshot's status (backing-up)
        keeps a second one away (backup/api.py, create).
        """
        with translated():
            self._exports.close_snapshot(snapshot, None)

    def initialize_connection_snapshot(
        self, snapshot: Snapshot, connector: Connector, **_kwargs: object
    ) -> dict[str, Any]:
        """Open a snapshot to one initiator for reading and say how it is reached.

        :raises SnapshotNotFound: the snapshot is proven absent.
        """
        with translated(NotFound, to=lambda _: exception.SnapshotNotFound(snapshot_id=snapshot.id)):
            return self._exports.open_snapshot(snapshot, connector)

    def terminate_connection_snapshot(
        self, snapshot: Snapshot, connector: Connector | None, **_kwargs: object
    ) -> None:
        """End one initiator's reading of a snapshot, or all where ``connector`` is None."""
        with translated():
            self._exports.close_snapshot(snapshot, connector)
