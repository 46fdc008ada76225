"""Having the SAN open what Cinder has on record: when cinder-volume starts, and when secrets are missing.

It only adds and repairs, never withdraws, and never raises: whatever goes wrong is one line a cause in the
log, for an exception here would keep cinder-volume from starting (VolumeManager._sync_provider_info). One
request is a batch. A volume's rows come with it from the database: no query is made here for a volume.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cinder import exception

from zolder.cinder.attachments import attachment_of
from zolder.cinder.chap import chap_for
from zolder.cinder.connection import chap_of, told_of
from zolder.cinder.exports import Exports
from zolder.cinder.objects import Attachment, Volume
from zolder.cinder.settings import Settings
from zolder.cinder.storage import San
from zolder.cinder.translate import initiator_of, zvol_of
from zolder.errors import Error
from zolder.model import Access
from zolder.names import DatasetName

LOG = logging.getLogger(__name__)

# Several times as many would still be within a request (zolder.wire.MAX_REQUEST_BYTES).
_BATCH: Final = 200


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of a round: how many attachments were made sure of, and whether those are all there were."""

    count: int
    complete: bool


class Reconciliation:
    """One back end's exports, held against Cinder's record."""

    def __init__(self, settings: Settings, san: San, exports: Exports) -> None:
        """Repair on ``san`` what ``exports`` opened."""
        self._settings = settings
        self._san = san
        self._exports = exports

    def ensure(self, volumes: Iterable[Volume]) -> None:
        """Have the attachments of some volumes open, as each initiator was told."""
        self._ensure(lambda: volumes)

    def send_secrets(self, volumes: Callable[[], Iterable[Volume]], parent: DatasetName) -> Sent:
        """Send the CHAP secrets of a parent's volumes in use again; zolder.cinder.missing_secrets says when.

        :param volumes: asks Cinder's database.
        """
        return self._ensure(volumes, secrets_of=parent)

    def _ensure(
        self, volumes: Callable[[], Iterable[Volume]], *, secrets_of: DatasetName | None = None
    ) -> Sent:
        causes, opened, complete = _Causes(self._settings.backend_name), 0, False
        try:
            wanted = self._recorded(volumes(), causes)
            if secrets_of:
                secrets = [access for access in wanted[secrets_of] if access.chap is not None]
                wanted = {secrets_of: secrets}
            for parent, accesses in wanted.items():
                for start in range(0, len(accesses), _BATCH):
                    opened += self._send(parent, accesses[start : start + _BATCH], causes)
            complete = opened == sum(len(accesses) for accesses in wanted.values())
        except Exception:
            # Whatever it is, the volumes must come up; the traceback is for whoever repairs this.
            LOG.exception("The exports of back end %s could not be looked at", self._settings.backend_name)
        causes.say()
        return Sent(opened, complete=complete)

    def _recorded(self, volumes: Iterable[Volume], causes: _Causes) -> dict[DatasetName, list[Access]]:
        ended = self._exports.ended()
        found: dict[DatasetName, list[Access]] = {parent: [] for parent in self._settings.parents}
        for volume in volumes:
            for row in volume.volume_attachment or ():
                if not row.connector:
                    continue
                if not told_of(row.connection_info, self._settings.route):
                    causes.note(
                        "protocol", volume.id, "it was attached over another protocol and stays as it is"
                    )
                    continue
                try:
                    parent, access = self._settings.parent_of(volume.host), self._access(volume, row)
                except (Error, exception.InvalidConnectorException) as err:
                    causes.note(type(err).__name__, volume.id, str(err))
                    continue
                if access.attachment not in ended:
                    found[parent].append(access)
        return found

    def _access(self, volume: Volume, row: Attachment) -> Access:
        connector, told = row.connector or {}, row.connection_info
        initiator = initiator_of(connector, self._settings.route.exporter)
        # As it was told at the attachment: a secret that the volume was given later, or CHAP that was turned
        # on later, is not this initiator's yet. The old attach call leaves no connection on record.
        zvol, route = zvol_of(volume), self._settings.route
        chap = chap_of(told) if told else chap_for(volume.provider_auth, route, zvol, initiator)
        return Access(zvol, initiator, attachment_of(connector), chap)

    def _send(self, parent: DatasetName, batch: Sequence[Access], causes: _Causes) -> int:
        refused = len(batch)
        try:
            change = self._san.storage.ensure_exports(parent, tuple(batch), route=self._settings.route)
        except Error as err:
            causes.note(err.code, batch[0].zvol, err.message, count=len(batch))
        else:
            refused = len(change.value)
            for refusal in change.value:
                causes.note(refusal.code, refusal.zvol, refusal.message)
        # Who was detached between the reading and the sending may have been let in again by this request.
        ended = self._exports.ended()
        for access in batch:
            if access.attachment in ended:
                self._withdraw(parent, access)
        return len(batch) - refused

    def _withdraw(self, parent: DatasetName, access: Access) -> None:
        try:
            self._san.storage.withdraw_zvol(
                parent, access.zvol, access.initiator, attachment=access.attachment
            )
        except Error as err:
            trouble = err.message
        else:
            return
        LOG.warning("%s may stay open to %s until it is deleted: %s", access.zvol, access.initiator, trouble)


class _Causes:
    """Why attachments were not opened: of each cause how many, and the first."""

    def __init__(self, backend_name: str) -> None:
        self._backend_name = backend_name
        self._counts: Counter[str] = Counter()
        self._first: dict[str, tuple[str, str]] = {}

    def note(self, cause: str, subject: str, message: str, *, count: int = 1) -> None:
        self._counts[cause] += count
        self._first.setdefault(cause, (subject, message))

    def say(self) -> None:
        for cause, count in self._counts.items():
            subject, message = self._first[cause]
            LOG.warning(
                "%d attachments of back end %s could not be made sure of; the first, %s: %s",
                count,
                self._backend_name,
                subject,
                message,
            )
