"""Who may reach a volume: opening it to an initiator, closing it, and what Cinder keeps of that.

The SAN's record of initiators decides when a target goes. Cinder's rows of attachments are only asked whether
the same machine has the volume a second time. Errors are ours; the driver translates them.
"""

from __future__ import annotations

import logging
from typing import Any

from zolder.cinder.chap import chap_for, new_provider_auth
from zolder.cinder.connection import chap_of, connection_properties, provider_location
from zolder.cinder.objects import Volume
from zolder.cinder.settings import Settings
from zolder.cinder.storage import San
from zolder.cinder.translate import attached_initiators, attachments_of, zvol_of
from zolder.errors import BackendError, ConnectionLost, DeadlineExceeded, Error, InvalidRequest, ProtocolError
from zolder.model import Chap
from zolder.names import InitiatorName, VolumeId, ZvolName

LOG = logging.getLogger(__name__)


class Exports:
    """The exports of one back end."""

    def __init__(self, settings: Settings, san: San) -> None:
        """Export on ``san`` as ``settings`` say."""
        self._settings = settings
        self._san = san

    def describe(self, volume: Volume) -> dict[str, str]:
        """Return what has to change in Cinder's record before a volume is exported.

        :raises InvalidRequest: the volume's name can be no target's.
        """
        zvol = zvol_of(volume)
        updates = {"provider_location": provider_location(self._settings, zvol)}
        if self._settings.use_chap and not volume.provider_auth:
            updates["provider_auth"] = new_provider_auth(zvol)
        return {name: value for name, value in updates.items() if getattr(volume, name) != value}

    def open(self, volume: Volume, initiator: InitiatorName) -> dict[str, Any]:
        """Let one initiator reach a volume, and return how it does so.

        :raises InvalidRequest: CHAP is asked for and the volume has no secret.
        :raises Error: as Storage.export_zvol.
        """
        chap = chap_for(volume.provider_auth, initiator)
        if chap is None and self._settings.use_chap:
            message = f"{zvol_of(volume)} has no provider_auth: with use_chap_auth it is not exported without"
            raise InvalidRequest(message)
        return self._open(volume, initiator, chap)

    def open_again(self, volume: Volume) -> None:
        """Let those who have a volume reach it as they were told when it was opened to them.

        A secret that the volume was given later, or CHAP that was turned on later, is not theirs yet.

        :raises Error: as Storage.export_zvol.
        """
        for initiator, connection in attachments_of(volume).items():
            # The old attach call leaves no connection on record.
            chap = chap_of(connection) if connection else chap_for(volume.provider_auth, initiator)
            self._open(volume, initiator, chap)

    def _open(self, volume: Volume, initiator: InitiatorName, chap: Chap | None) -> dict[str, Any]:
        zvol = zvol_of(volume)
        try:
            export = self._san.storage.export_zvol(
                self._settings.parent,
                zvol,
                initiator,
                prefix=self._settings.prefix,
                portals=self._settings.portals,
                chap=chap,
            ).value
        except (ConnectionLost, DeadlineExceeded, ProtocolError, BackendError):
            self._close_again(volume, zvol, initiator)
            raise
        return connection_properties(export, chap, VolumeId(volume.id))

    def close(self, volume: Volume, initiator: InitiatorName | None) -> bool:
        """End one initiator's access to a volume, or all initiators', and return whether any is left.

        :raises Error: as Storage.withdraw_zvol.
        """
        # The attachment that is being ended is still on record. Two at once from one machine (an instance
        # resized in place, or multiattach) share its sessions: the first to go must not end the second's.
        # Should both go at the same moment, the initiator stays open until the next one closes or deletes.
        if initiator is not None and attached_initiators(volume).count(initiator) > 1:
            return True
        left = self._san.storage.withdraw_zvol(self._settings.parent, zvol_of(volume), initiator)
        return bool(left.value)

    def _close_again(self, volume: Volume, zvol: ZvolName, initiator: InitiatorName) -> None:
        """Take back what may have been opened behind a lost answer: Cinder would never close it."""
        if initiator in attached_initiators(volume):
            return
        try:
            self._san.soon.withdraw_zvol(self._settings.parent, zvol, initiator)
        except Error as err:
            trouble = err.message
        else:
            return
        LOG.warning("%s may stay open to %s until it is deleted: %s", zvol, initiator, trouble)
