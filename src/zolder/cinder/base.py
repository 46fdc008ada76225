"""What all verbs of the driver stand on: its options, its SAN, its set-up and its figures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
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
from zolder.cinder.stats import stats_down, stats_up
from zolder.cinder.storage import San, open_san
from zolder.cinder.translate import translated
from zolder.errors import Error, NotFound, NotPermitted

LOG = logging.getLogger(__name__)


class DriverBase(driver.VolumeDriver):
    """A driver that is set up and says how much room there is."""

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
