"""What all verbs of the driver stand on: its options, its SAN, its set-up and its figures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from cinder import context as cinder_context
from cinder import exception, objects
from cinder.volume import driver

from zolder.cinder.chap import takes_chap
from zolder.cinder.exports import Exports
from zolder.cinder.missing_secrets import MissingSecrets
from zolder.cinder.objects import Volume
from zolder.cinder.options import zolder_opts
from zolder.cinder.reconciliation import Reconciliation, Sent
from zolder.cinder.settings import Settings, append_options, read_settings
from zolder.cinder.stats import describe_stats
from zolder.cinder.storage import San, open_san
from zolder.cinder.translate import translated, zvol_of
from zolder.errors import Error, NotFound, NotPermitted
from zolder.model import PoolFigures
from zolder.names import DatasetName

LOG = logging.getLogger(__name__)


class DriverBase(driver.VolumeDriver):
    """A driver that is set up and says how much room there is."""

    _settings: Settings
    _san: San
    _exports: Exports
    _reconciliation: Reconciliation
    _missing_secrets: dict[DatasetName, MissingSecrets]

    def __init__(
        self, *args: object, connect: Callable[[Settings], San] = open_san, **kwargs: object
    ) -> None:
        """Take what Cinder's manager gives; ``connect`` opens the SAN and is replaced in tests."""
        super().__init__(*args, **kwargs)
        append_options(self.configuration)
        self._connect = connect
        self._leave: Callable[[], None] = lambda: None
        self._troubles: dict[DatasetName, str | None] = {}
        self._guids: dict[DatasetName, str] = {}

    @staticmethod
    def get_driver_options() -> list[Any]:
        """Return the options that are the driver's own."""
        return list(zolder_opts)

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
        self._missing_secrets = {
            parent: MissingSecrets(self._settings.backend_name, parent, partial(self._send_secrets, parent))
            for parent in self._settings.parents
        }

    def check_for_setup_error(self) -> None:
        """Make sure that each parent is there and is ours; the SAN records it at the first time.

        :raises InvalidConfigurationValue: there is no such parent, or it is not this identity's.
        :raises VolumeBackendAPIException: its zpool is not there, or ZFS is not.
        """
        for parent in self._settings.parents:
            with translated(NotFound, NotPermitted, to=partial(_name_parent_option, parent)):
                self._san.storage.get_figures(parent)
                self._guids[parent] = self._san.storage.get_guid(parent)

    def _update_volume_stats(self) -> None:
        """Ask for the figures; while they cannot be had, report the back end as down instead of failing.

        Cinder asks every minute, so a back end that answers again is up again by itself.
        """
        known = {parent: self._ask_figures(parent) for parent in self._settings.parents}
        self._stats = describe_stats(self._settings, known, self._guids)
        # The scheduler reads them here; else the options of these names would do nothing.
        functions = {
            "filter_function": self.get_filter_function(),
            "goodness_function": self.get_goodness_function(),
        }
        for pool in self._stats["pools"]:
            pool.update(functions)

    def _ask_figures(self, parent: DatasetName) -> PoolFigures | None:
        missing_secrets, trouble, figures = self._missing_secrets[parent], None, None
        asked = missing_secrets.clock()
        try:
            if self._troubles.get(parent) is not None or parent not in self._guids:
                # What comes back may be another zpool, or be on another SAN.
                self._guids[parent] = self._san.soon.get_guid(parent)
            figures = self._san.soon.get_figures(parent)
        except Error as err:
            trouble = err.message
        else:
            if takes_chap(self._settings.route):  # else they are another back end's over the same parent
                missing_secrets.notice(figures.secrets_missing, asked)
        # A line a change, not a minute: the log must stay readable while a SAN is down for a night. Outside
        # the handler, where oslo.log would print the error behind the line once more.
        before, name = self._troubles.get(parent), self._settings.backend_name
        if trouble is not None and trouble != before:
            LOG.warning("Back end %s#%s is down: %s", name, parent, trouble)
        elif trouble is None and before is not None:
            LOG.info("Back end %s#%s is up again.", name, parent)
        self._troubles[parent] = trouble
        return figures

    def _send_secrets(self, parent: DatasetName) -> Sent:
        return self._reconciliation.send_secrets(self._volumes, parent)

    def _volumes(self) -> Iterable[Volume]:
        """Return Cinder's record of this back end's volumes, each with its attachments."""
        mine = {"cluster_name": self.cluster_name} if self.cluster_name else {"host": self.host}
        volumes: Iterable[Volume] = objects.VolumeList.get_all(
            cinder_context.get_admin_context(), filters=mine
        )
        return volumes

    def get_pool(self, volume: Volume) -> str:
        """Return the pool of a volume whose record does not say it: the parent that has its zvol.

        Cinder asks for it when cinder-volume starts, of volumes that are older than pools, and leaves those
        alone for which this raises.
        """
        parents = self._settings.parents
        if len(parents) == 1:
            return str(parents[0])
        with translated():
            for parent in parents:
                with suppress(NotFound):
                    self._san.storage.get_zvol(parent, zvol_of(volume))
                    return str(parent)
            message = (
                f"{zvol_of(volume)} is in none of {', '.join(parents)}: which pool it is in nobody knows"
            )
            raise NotFound(message)

    def _parent_of(self, volume: Volume) -> DatasetName:
        """Return the parent that a volume is in; call it where our errors are translated.

        :raises InvalidRequest: Cinder has it in a pool that is none of this back end's.
        """
        return self._settings.parent_of(volume.host)


def _name_parent_option(parent: DatasetName, err: Error) -> Exception:
    option = f"san_zfs_volume_base = {parent} will not do"
    unfit: Exception = exception.InvalidConfigurationValue(f"{option}: {err.message}.")
    return unfit
