"""iSCSI targets by the daemon tgtd: one target a zvol, closed but for its initiators.

No other target is looked at (zolder.san.tgtplaces). A tgtd that was restarted has forgotten all;
`ensure_export` makes it again. Weaker than LIO, by what tgtd is: portals serve all targets; of a target's
CHAP accounts any will do for any of its initiators, so each needs a user of its own; a login begun before
its initiator was shut out can be finished behind that while the target stands; LUNs that others add to a
target of ours go with it; tgtd keeps no device for itself; discards are offered only where a zvol can write
zeroes (in OpenZFS 2.3 none can). Not locked: see Exporter.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final

from zolder.errors import AlreadyExists, Error, InvalidRequest
from zolder.model import Chap
from zolder.names import (
    ExporterName,
    InitiatorName,
    Portal,
    TargetPrefix,
    VolumeId,
    chap_user,
    target_name,
    unit_serial,
)
from zolder.san.exporter import Exported, Exporter, Subject
from zolder.san.tgtd import Tgtd, TgtdAbsent
from zolder.san.tgtplaces import Found, TgtPlaces
from zolder.san.tgtportals import ensure_portals, list_portals
from zolder.san.tgtrecord import Login, Progress, Record
from zolder.san.tgttarget import TgtTarget, claimed

LOG = logging.getLogger(__name__)

# open-iscsi tries again every 2 seconds.
_RETURN_SECONDS: Final = 8
# ISCSI_NAME_LEN less its NUL: tgtd cuts off the rest of a secret (usr/iscsi/chap.c).
_LONGEST_SECRET_BYTES: Final = 223


class Tgt(Exporter):
    """The targets of one tgtd."""

    name: ClassVar[ExporterName] = ExporterName("tgt")

    def __init__(
        self,
        tgtd: Tgtd | None = None,
        *,
        block_devices: Path = Path("/sys/block"),
        return_seconds: float = _RETURN_SECONDS,
    ) -> None:
        """Speak to a tgtd, which need not run yet.

        :param return_seconds: how long initiators are waited for that growth has cut.
        """
        self._return_seconds = return_seconds
        self._tgtd = tgtd or Tgtd()
        self._places = TgtPlaces(self._tgtd, block_devices)

    def ensure_export(
        self,
        subject: Subject,
        *,
        device: Path,
        volume_id: VolumeId,
        portals: tuple[Portal, ...],
        initiator: InitiatorName,
        chap: Chap | None,
        read_only: bool,
    ) -> bool:
        """Let an initiator reach a device; see Exporter. Its CHAP user is that of `chap_user`."""
        name = target_name(subject.prefix, subject.zvol)
        _check(name, initiator, chap)
        login = Login.of(name, initiator, chap)
        wanted = Record(
            Progress.BARE, name, subject.dataset, device, unit_serial(volume_id), read_only, (login,)
        )
        found = self._places.find(subject)
        if found and found.record:
            _require_agreement(found.record, wanted)
        listening = ensure_portals(self._tgtd, portals)
        if (
            found
            and found.record
            and found.record.progress is Progress.WHOLE
            and login in found.record.logins
        ):
            return listening
        with ExitStack() as undo:
            target = found.target if found else self._places.create(wanted)
            if found is None or found.record is None:
                undo.callback(_log_failure, lambda: _remove(Found(target, wanted)))
                record = replace(wanted, logins=())
            else:
                record = self._prepare(found.target, found.record, login, undo)
            self._let_in(target, record, login, chap, wanted)
            undo.pop_all()
        return True

    def remove_initiator(self, subject: Subject, initiator: InitiatorName) -> bool:
        """Shut an initiator out and end its sessions; see Exporter."""
        found = self._places.find_standing(subject)
        if found is None:
            return False
        if found.record is None or not found.record.without(initiator).logins:
            _remove(found)
            return True
        if found.record.login_of(initiator) is None:
            return False
        _shut_out(found.target, found.record, initiator)
        return True

    def remove_export(self, subject: Subject) -> bool:
        """Remove an export, whoever is logged in; see Exporter."""
        found = self._places.find_standing(subject)
        if found is None:
            return False
        _remove(found)
        return True

    def initiators_of(self, subject: Subject) -> tuple[InitiatorName, ...]:
        """Return who may reach it, sorted, and who is just being let in or shut out."""
        found = self._places.find_standing(subject)
        return found.record.initiators if found and found.record else ()

    def is_open(self, subject: Subject) -> bool:
        """Say whether tgtd has the zvol open under our names; its numbers know of any prefix."""
        with suppress(TgtdAbsent):
            return any(self._places.records_of(subject.dataset))
        return False

    def grow_export(self, subject: Subject, *, device: Path, seconds: float) -> None:
        """Have the export show its device's present size; see Exporter.

        tgtd reads the size as it opens a LUN, so the LUN is made anew. Meanwhile the target is offline and
        its connections are closed. An initiator logs in again (open-iscsi: every 2 s, until its
        replacement_timeout), sends its I/O anew, and then sees the size by itself; that is waited for, since
        Cinder has the initiator look at once.
        """
        end = time.monotonic() + seconds
        found = self._places.find(subject)
        if found is None or found.record is None:
            return
        target, rebind = found.target, found.record.progress is not Progress.WHOLE
        record = replace(found.record, progress=Progress.BARE, device=device)
        with claimed(device), ExitStack() as undo:
            cut = target.initiators_in_session()
            undo.callback(_log_failure, lambda: _reopen(target, record, rebind=rebind))
            target.write(record)
            target.make_lun(record, seconds=seconds)
            _finish(target, record, rebind=rebind)
            undo.pop_all()
        target.await_sessions(cut, seconds=min(self._return_seconds, end - time.monotonic()))

    def list_exports(self, prefix: TargetPrefix) -> tuple[Exported, ...]:
        """Return the exports of ours whose names begin with a prefix, sorted; the cost grows with them."""
        exports: list[Exported] = []
        with suppress(TgtdAbsent):
            listening = list_portals(self._tgtd)
            exports = [
                Exported(record.target, record.dataset, record.initiators, listening)
                for record in self._places.records_below(prefix)
            ]
        return tuple(sorted(exports, key=lambda export: export.target))

    def _prepare(self, target: TgtTarget, record: Record, login: Login, undo: ExitStack) -> Record:
        """Make room for a login on a target that stands, and see to it that it is taken back."""
        held = record.login_of(login.initiator)
        if held and held.user != login.user:
            _shut_out(target, record, login.initiator)
            record, held = record.without(login.initiator), None
        if record.progress is Progress.WHOLE:
            record = replace(record, progress=Progress.BUSY)
        # What does not fit is refused before anything is changed; this is as long as it will be.
        replace(record, progress=Progress.WHOLE).having(login).encode()
        if held is None:
            pending = record.having(login.pending())
            undo.callback(_log_failure, lambda: _shut_out(target, pending, login.initiator))
        return record

    def _let_in(
        self, target: TgtTarget, record: Record, login: Login, chap: Chap | None, wanted: Record
    ) -> None:
        """Do all that lets an initiator in: the record first, the right to log in last."""
        record = record.having(login.pending())
        if record.progress is Progress.BARE:
            record = replace(record, device=wanted.device, serial=wanted.serial, read_only=wanted.read_only)
            with claimed(record.device):
                target.write(record)
                target.make_lun(record)
        else:
            target.write(record)
        if chap:
            target.bind_accounts(record.users, chap)
        target.bind(login.initiator)
        _finish(target, record.having(login), rebind=False)


def _finish(target: TgtTarget, record: Record, *, rebind: bool) -> None:
    """Put a target with its LUN online, behind the accounts that it needs."""
    if rebind and record.users:
        target.bind_accounts(record.users, None)
    target.set_online(online=True)
    target.write(replace(record, progress=Progress.WHOLE))


def _reopen(target: TgtTarget, record: Record, *, rebind: bool) -> None:
    """Have a target's sessions come back, with its LUN, where making that anew failed."""
    target.restore_lun(record)
    _finish(target, record, rebind=rebind)


def _shut_out(target: TgtTarget, record: Record, initiator: InitiatorName) -> None:
    """Shut an initiator out of a target that stays."""
    login = record.login_of(initiator)
    if login is None:
        return
    if record.progress is Progress.WHOLE:
        record = replace(record, progress=Progress.BUSY)
    target.write(record.having(login.pending()))
    target.unbind(initiator)
    target.end_sessions(initiator)
    remaining = record.without(initiator)
    if login.user and remaining.users:
        target.delete_account(record.users, login.user)
    elif login.user:
        target.delete_accounts(record.users)
    if record.progress is Progress.BARE:
        target.write(remaining)
    else:
        _finish(target, remaining, rebind=True)


def _remove(found: Found) -> None:
    """Remove a target of ours with all that belongs to it."""
    target, record = found.target, found.record
    if record is None:
        target.remove()
        return
    pending = tuple(login.pending() for login in record.logins)
    target.write(replace(record, progress=Progress.BARE, logins=pending))
    target.set_online(online=False)
    for initiator in record.initiators:
        target.unbind(initiator)
    target.end_sessions(None)
    if record.users:
        target.delete_accounts(record.users)
    target.remove()


def _check(target: str, initiator: InitiatorName, chap: Chap | None) -> None:
    if initiator.is_nqn:
        message = f"{initiator} is a host of NVMe-oF, and tgt exports over iSCSI"
        raise InvalidRequest(message)
    if chap is None:
        return
    if chap.is_mutual:
        message = "CHAP is one-way on tgt: its own account would serve all targets"
        raise InvalidRequest(message)
    if chap.user != (user := chap_user(target, initiator)):
        message = f"CHAP user: on tgt it is {user} for this initiator and this target"
        raise InvalidRequest(message)
    if not 0 < len(chap.secret.encode()) <= _LONGEST_SECRET_BYTES or not chap.secret.isprintable():
        message = f"CHAP secret: 1 to {_LONGEST_SECRET_BYTES} bytes of printable characters are needed"
        raise InvalidRequest(message)


def _require_agreement(record: Record, wanted: Record) -> None:
    """Refuse what would change a LUN under its users, and what tgtd cannot keep apart."""
    login = wanted.logins[0]
    others = record.without(login.initiator).logins
    if any((other.user is None) != (login.user is None) for other in others):
        message = f"on tgt either all initiators of {record.target} show a CHAP secret or none does"
        raise InvalidRequest(message, target=record.target)
    if login.user is not None and login.user in {other.user for other in others}:
        message = f"on tgt each initiator of {record.target} needs a CHAP user of its own"
        raise InvalidRequest(message, target=record.target)
    if record.progress is Progress.BARE:
        return
    for what in ("device", "serial", "read_only"):
        held, asked = getattr(record, what), getattr(wanted, what)
        if held != asked:
            message = f"target {record.target} is exported with {what} {held}, not {asked}"
            raise AlreadyExists(message, target=record.target, **{what: str(held)})


def _log_failure(undo: Callable[[], None]) -> None:
    try:
        undo()
    except Error as err:
        # The first error is on its way to the caller and must not be hidden by this one.
        LOG.warning("left behind after a failure: %s", err.message)
