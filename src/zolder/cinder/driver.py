"""The Cinder volume driver: it translates Cinder's verbs to requests, and does nothing else.

One verb is one request (docs/design.md, 4). What exists and who may reach it stands on the SAN; what is kept
here is only for the log and against races. Threads and green threads may share a driver.

What the driver leaves to Cinder's base class works through it and not beside it: images and backups are
copied through an attachment on the control node, which needs os-brick, iscsid and root there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from cinder import context as cinder_context
from cinder import exception, interface, objects
from cinder.volume import driver

from zolder import __version__
from zolder.cinder.chap import takes_chap
from zolder.cinder.exports import Exports
from zolder.cinder.missing_secrets import MissingSecrets
from zolder.cinder.objects import Connector, Snapshot, Volume
from zolder.cinder.options import zolder_opts
from zolder.cinder.reconciliation import Reconciliation, Sent
from zolder.cinder.settings import Settings, append_options, read_settings
from zolder.cinder.stats import stats_down, stats_up
from zolder.cinder.storage import San, open_san
from zolder.cinder.translate import (
    initiator_of,
    size_bytes,
    snapshot_of,
    translated,
    volume_id_of,
    zvol_of,
)
from zolder.errors import (
    Busy,
    Error,
    NotFound,
    NotPermitted,
)
from zolder.names import ZvolName

LOG = logging.getLogger(__name__)


@interface.volumedriver
class ZolderDriver(driver.VolumeDriver):
    """Volumes as zvols on a SAN with OpenZFS, exported by iSCSI or by NVMe over TCP."""

    VERSION = __version__
    # The name that a third-party CI would report under; there is none yet.
    CI_WIKI_NAME = "Zolder_CI"
    SUPPORTS_ACTIVE_ACTIVE = False

    _settings: Settings
    _san: San
    _exports: Exports
    _reconciliation: Reconciliation
    _missing_secrets: MissingSecrets

    def __init__(
        self, *args: object, connect: Callable[[Settings], San] = open_san, **kwargs: object
    ) -> None:
        """Take what Cinder's manager gives; ``connect`` opens the SAN and is replaced in tests."""
        super().__init__(*args, **kwargs)
        append_options(self.configuration)
        self._connect = connect
        self._leave: Callable[[], None] = lambda: None
        self._trouble: str | None = None

    @staticmethod
    def get_driver_options() -> list[Any]:
        """Return the options that are the driver's own."""
        return list(zolder_opts)

    # Set-up and figures

    def do_setup(self, context: object) -> None:  # noqa: ARG002 - Cinder's interface
        """Read the configuration and open a first channel to the SAN.

        Cinder calls it again after a failure (reinit_driver_count): what it opened before is closed.

        :raises InvalidConfigurationValue: an option is missing or will not do.
        :raises VolumeBackendAPIException: the SAN cannot be reached or used; the message says what to do.
        """
        self._settings = read_settings(self.configuration)
        self._leave()
        with translated():
            self._san = self._connect(self._settings)
        self._leave = self._san.close
        self._exports = Exports(self._settings, self._san)
        self._reconciliation = Reconciliation(self._settings, self._san, self._exports)
        self._missing_secrets = MissingSecrets(
            self._settings.backend_name, self._settings.parent, self._send_secrets
        )

    def check_for_setup_error(self) -> None:
        """Make sure that the parent is there and is ours; the SAN records it at the first time.

        :raises InvalidConfigurationValue: there is no such parent, or it is not this identity's.
        :raises VolumeBackendAPIException: the zpool is not there, or ZFS is not.
        """
        with translated(NotFound, NotPermitted, to=self._name_parent_option):
            self._san.storage.get_figures(self._settings.parent)

    def _name_parent_option(self, err: Error) -> Exception:
        option = f"san_zfs_volume_base = {self._settings.parent} will not do"
        unfit: Exception = exception.InvalidConfigurationValue(f"{option}: {err.message}.")
        return unfit

    def _update_volume_stats(self) -> None:
        """Ask for the figures; while they cannot be had, report the back end as down instead of failing.

        Cinder asks every minute, so a back end that answers again is up again by itself.
        """
        name, trouble = self._settings.backend_name, None
        asked = self._missing_secrets.clock()
        try:
            figures = self._san.soon.get_figures(self._settings.parent)
        except Error as err:
            trouble = err.message
            self._stats = stats_down(self._settings)
        else:
            self._stats = stats_up(self._settings, figures)
            if takes_chap(self._settings.route):  # else they are another back end's over the same parent
                self._missing_secrets.notice(figures.secrets_missing, asked)
        # A line a change, not a minute: the log must stay readable while a SAN is down for a night. Outside
        # the handler, where oslo.log would print the error behind the line once more.
        if trouble is not None and trouble != self._trouble:
            LOG.warning("Back end %s is down: %s", name, trouble)
        elif trouble is None and self._trouble is not None:
            LOG.info("Back end %s is up again.", name)
        self._trouble = trouble

    def _send_secrets(self) -> Sent:
        return self._reconciliation.send_secrets(self._volumes)

    def _volumes(self) -> Iterable[Volume]:
        """Return Cinder's record of this back end's volumes, each with its attachments."""
        mine = {"cluster_name": self.cluster_name} if self.cluster_name else {"host": self.host}
        volumes: Iterable[Volume] = objects.VolumeList.get_all(
            cinder_context.get_admin_context(), filters=mine
        )
        return volumes

    def get_pool(self, volume: Volume) -> str:  # noqa: ARG002 - Cinder's interface
        """Return the pool of a volume whose record does not say it: a back end has one, its parent."""
        return str(self._settings.parent)

    # Volumes and snapshots

    def create_volume(self, volume: Volume) -> dict[str, str]:
        """Create a zvol, and say what its secret and its place are, as each verb that makes a volume does."""
        with translated():
            self._san.storage.create_zvol(
                self._settings.parent,
                zvol_of(volume),
                volume_id=volume_id_of(volume),
                volsize_bytes=size_bytes(volume.size),
                sparse=self._settings.sparse,
            )
            return self._exports.describe(volume)

    def create_volume_from_snapshot(self, volume: Volume, snapshot: Snapshot) -> dict[str, str]:
        """Clone a snapshot and grow the clone where a larger volume is asked for.

        :raises SnapshotNotFound: the snapshot is proven absent; another back end would not have it either.
        """
        with translated(NotFound, to=lambda _: exception.SnapshotNotFound(snapshot_id=snapshot.id)):
            self._san.storage.clone_zvol(
                self._settings.parent,
                ZvolName(snapshot.volume_name),
                snapshot_of(snapshot),
                zvol_of(volume),
                volume_id=volume_id_of(volume),
                volsize_bytes=size_bytes(volume.size),
                sparse=self._settings.sparse,
            )
            return self._exports.describe(volume)

    def create_cloned_volume(self, volume: Volume, src_vref: Volume) -> dict[str, str]:
        """Clone a volume as it is now; the SAN keeps the snapshot that this takes, hidden.

        :raises VolumeNotFound: the source is proven absent.
        """
        with translated(NotFound, to=lambda _: exception.VolumeNotFound(volume_id=src_vref.id)):
            self._san.storage.clone_zvol(
                self._settings.parent,
                zvol_of(src_vref),
                None,
                zvol_of(volume),
                volume_id=volume_id_of(volume),
                volsize_bytes=size_bytes(volume.size),
                sparse=self._settings.sparse,
            )
            return self._exports.describe(volume)

    def extend_volume(self, volume: Volume, new_size: int) -> None:
        """Grow a zvol, in use or not; an initiator sees it when it rescans."""
        with translated():
            self._san.storage.grow_zvol(
                self._settings.parent, zvol_of(volume), volsize_bytes=size_bytes(new_size)
            )

    def delete_volume(self, volume: Volume) -> None:
        """Close a zvol to everybody and destroy it; one that the SAN proves absent is deleted already.

        :raises VolumeIsBusy: clones, snapshots or a process hold it; Cinder keeps it available.
        """
        with translated(Busy, to=lambda err: exception.VolumeIsBusy(err.message)):
            self._san.storage.delete_zvol(self._settings.parent, zvol_of(volume))

    def create_snapshot(self, snapshot: Snapshot) -> None:
        """Snapshot a zvol, in use or not."""
        with translated():
            self._san.storage.create_snapshot(
                self._settings.parent, ZvolName(snapshot.volume_name), snapshot_of(snapshot)
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
                self._settings.parent, ZvolName(snapshot.volume_name), snapshot_of(snapshot)
            )

    # Exports and connections

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
