"""Who may reach a volume or a snapshot: opening it, closing it, and what Cinder keeps of that.

The SAN counts the attachments and decides when a target goes; Cinder's rows are never counted here. Errors
are ours, but for InvalidConnectorException; the driver translates them. Threads may share it: what it
remembers is only which attachments were ended, so that what was read before is not opened again after.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from cinder import exception

from zolder.cinder.attachments import Use, attachment_of, name_use
from zolder.cinder.chap import chap_for, new_provider_auth
from zolder.cinder.connection import Unit, connection_properties, exporter_told, provider_location
from zolder.cinder.objects import Connector, Snapshot, Volume
from zolder.cinder.settings import Settings
from zolder.cinder.storage import San
from zolder.cinder.translate import initiator_of, snapshot_of, view_id_of, volume_id_of, zvol_of
from zolder.errors import BackendError, ConnectionLost, DeadlineExceeded, Error, InvalidRequest, ProtocolError
from zolder.model import Access, Change, Chap, Export
from zolder.names import AttachmentId, InitiatorName, ZvolName, view_name

LOG = logging.getLogger(__name__)

# After these nobody knows whether it was opened.
_UNCLEAR: Final = (ConnectionLost, DeadlineExceeded, ProtocolError, BackendError)
# More than end while one record is read and sent.
_ENDED_REMEMBERED: Final = 4096


class Exports:
    """The exports of one back end."""

    def __init__(self, settings: Settings, san: San) -> None:
        """Export on ``san`` as ``settings`` say."""
        self._settings = settings
        self._san = san
        self._lock = threading.Lock()
        self._ended: deque[AttachmentId] = deque(maxlen=_ENDED_REMEMBERED)

    def describe(self, volume: Volume) -> dict[str, str]:
        """Return what has to change in Cinder's record before a volume is exported.

        :raises InvalidRequest: the volume's name can be no target's.
        """
        updates = self._described(volume, zvol_of(volume))
        return {name: value for name, value in updates.items() if getattr(volume, name) != value}

    def describe_snapshot(self, snapshot: Snapshot) -> dict[str, str | None]:
        """Return the same of a snapshot: both fields or none, for Cinder clears the one that is left out."""
        updates = self._described(snapshot, view_name(view_id_of(snapshot)))
        changed = any(getattr(snapshot, name) != value for name, value in updates.items())
        return {"provider_auth": snapshot.provider_auth, **updates} if changed else {}

    def open(self, volume: Volume, connector: Connector) -> dict[str, Any]:
        """Let one initiator reach a volume, and return how it does so; its connector is told which use it is.

        :raises InvalidConnectorException: the connector is of no use to this back end's exporter.
        :raises InvalidRequest: CHAP is asked for and the volume has no secret.
        :raises Error: as Storage.export_zvol.
        """
        zvol, parent, soon = zvol_of(volume), self._settings.parent_of(volume.host), self._san.soon
        initiator = initiator_of(connector, self._settings.route.exporter)
        chap = self._chap(volume, zvol, initiator)
        use = name_use(volume, connector)
        export = self._opened(
            lambda: self._san.storage.export_zvol(
                parent, zvol, initiator, route=self._settings.route, attachment=use.attachment, chap=chap
            ),
            lambda: soon.withdraw_zvol(parent, zvol, initiator, attachment=use.attachment),
            Access(zvol, initiator, use.attachment),
            use,
        )
        return connection_properties(export, chap, Unit(volume.id, volume_id_of(volume)))

    def close(self, volume: Volume, connector: Connector | None) -> bool:
        """End one use of a volume, or all where there is no connector, and return whether anybody is left.

        :raises InvalidConnectorException: the connector is of no use to this back end's exporter.
        :raises Error: as Storage.withdraw_zvol.
        """
        zvol, parent = zvol_of(volume), self._settings.parent_of(volume.host)
        if connector is None:
            initiator, attachment = None, None
            ended = _attachments_on_record(volume)
        else:
            initiator, attachment = self._ends(volume, connector)
            ended = [attachment] if attachment else []
        with self._ending(ended):
            left = self._san.storage.withdraw_zvol(parent, zvol, initiator, attachment=attachment)
        if attachment is None and not left.changed and initiator in left.value:
            # os-force_detach with a connector: which of the machine's attachments is meant nobody says.
            LOG.warning(
                "%s stays open to %s, whose attachment has an id: force-detach without a connector ends all",
                zvol,
                initiator,
            )
        return bool(left.value)

    def ended(self) -> frozenset[AttachmentId]:
        """Return the attachments that were ended lately, which never come back, or that are being ended."""
        with self._lock:
            return frozenset(self._ended)

    @contextmanager
    def _ending(self, attachments: Sequence[AttachmentId]) -> Iterator[None]:
        """Note that attachments end in the block, and take that back where it fails: Cinder has them still.

        It is noted before the SAN is asked: whoever opens one once more just behind it has to see that.
        """
        with self._lock:
            self._ended += attachments
        try:
            yield
        except Error:
            with self._lock:
                for attachment in attachments:
                    with suppress(ValueError):  # so many came behind it that it is forgotten
                        self._ended.remove(attachment)
            raise

    def open_snapshot(self, snapshot: Snapshot, connector: Connector) -> dict[str, Any]:
        """Let one initiator read a snapshot, and return how it does so.

        Only Cinder's backup asks for this, over RPC, and none of that is saved: the attachment has no id, and
        Cinder lets one backup at a time read a snapshot.

        :raises InvalidConnectorException: the connector is of no use to this back end's exporter.
        :raises InvalidRequest: CHAP is asked for and the snapshot has no secret.
        :raises Error: as Storage.export_snapshot.
        """
        view_id, soon = view_id_of(snapshot), self._san.soon
        parent = self._settings.parent_of(snapshot.volume.host)
        initiator = initiator_of(connector, self._settings.route.exporter)
        attachment = attachment_of(connector)
        chap = self._chap(snapshot, view_name(view_id), initiator)
        export = self._opened(
            lambda: self._san.storage.export_snapshot(
                parent,
                ZvolName(snapshot.volume_name),
                snapshot_of(snapshot),
                initiator,
                view_id=view_id,
                route=self._settings.route,
                attachment=attachment,
                chap=chap,
            ),
            lambda: soon.withdraw_snapshot(parent, view_id, initiator, attachment=attachment),
            Access(view_name(view_id), initiator, attachment),
            Use(attachment, fresh=True),
        )
        return connection_properties(export, chap, Unit(snapshot.id, view_id, "ro"))

    def close_snapshot(self, snapshot: Snapshot, connector: Connector | None) -> None:
        """End one use of a snapshot, or all where there is no connector.

        :raises InvalidConnectorException: the connector is of no use to this back end's exporter.
        :raises Error: as Storage.withdraw_snapshot.
        """
        initiator, attachment = None, None
        if connector is not None:
            initiator = initiator_of(connector, self._settings.route.exporter)
            attachment = attachment_of(connector)
        self._san.storage.withdraw_snapshot(
            self._settings.parent_of(snapshot.volume.host),
            view_id_of(snapshot),
            initiator,
            attachment=attachment,
        )

    def _ends(self, volume: Volume, connector: Connector) -> tuple[InitiatorName, AttachmentId | None]:
        """Return whose attachment a connector ends, by the name that the machine then logged in with."""
        attachment = attachment_of(connector)
        rows = volume.volume_attachment or ()
        told = next((row.connection_info for row in rows if attachment and row.connector == connector), None)
        return initiator_of(connector, exporter_told(told, self._settings.route)), attachment

    def _described(self, record: Volume | Snapshot, zvol: ZvolName) -> dict[str, str]:
        updates = {"provider_location": provider_location(self._settings, zvol)}
        if self._settings.use_chap and not record.provider_auth:
            updates["provider_auth"] = new_provider_auth(zvol)
        return updates

    def _chap(self, record: Volume | Snapshot, zvol: ZvolName, initiator: InitiatorName) -> Chap | None:
        chap = chap_for(record.provider_auth, self._settings.route, zvol, initiator)
        if chap is None and self._settings.use_chap:
            message = f"{zvol} has no provider_auth: with use_chap_auth it is not exported without"
            raise InvalidRequest(message)
        return chap

    @staticmethod
    def _opened(
        ask: Callable[[], Change[Export]],
        take_back: Callable[[], object],
        access: Access,
        use: Use,
    ) -> Export:
        """Ask for an export, and take back what may have been opened behind an unclear answer.

        Cinder has no record of it and would never end it. What others may have stays as it was.
        """
        try:
            return ask().value
        except _UNCLEAR:
            if use.fresh and (trouble := _trouble_of(take_back)):
                LOG.warning(
                    "%s may stay open to %s until it is deleted: %s", access.zvol, access.initiator, trouble
                )
            raise


def _trouble_of(act: Callable[[], object]) -> str | None:
    """Return what is in the way of an act behind a first error, which stays the one that counts."""
    try:
        act()
    except Error as err:
        return err.message
    return None


def _attachments_on_record(volume: Volume) -> list[AttachmentId]:
    found = []
    for row in volume.volume_attachment or ():
        # One that somebody else wrote was never opened here, and must not keep the others from being closed.
        with suppress(exception.InvalidConnectorException):
            found.append(attachment_of(row.connector or {}))
    return [attachment for attachment in found if attachment]
