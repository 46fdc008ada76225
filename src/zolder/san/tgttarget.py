"""One target in tgtd by its number: its record, its LUN, and who may log in.

No address is ever bound to it: tgtd lets in whoever matches an address OR an IQN (usr/iscsi/iscsid.c of tgt
1.0.85). An account is only ever unbound behind all others of its target: over a gap tgtd dies as soon as
anybody lists its targets (tgt_target_show_all() in usr/target.c; seen), and forgets the accounts behind it.
Without an account a target asks for no secret, so below all others stands one, the guard, that nobody can
use. It is never offline over sessions that are to stay: tgtd then drops their commands without an answer
(target_cmd_queue(); seen). Secrets go from here to tgtd and nowhere else. The caller holds the zvol's lock.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from zolder.errors import BackendError, Busy
from zolder.model import Chap
from zolder.names import InitiatorName
from zolder.san.tgtd import Answer, Mode, Op, Refusal, Request, Tgtd
from zolder.san.tgtrecord import Record, parse_record

LUN: Final = 1  # 0 is tgtd's own controller
_SECTOR_BYTES: Final = 512
_GUARD_BYTES: Final = 16
# Enough for connections to close and for the I/O that they began to end.
_CLOSING_SECONDS: Final = 20
_FIRST_PAUSE_SECONDS: Final = 0.005
_LONGEST_PAUSE_SECONDS: Final = 0.2

_SESSION = re.compile(r"^Session: (\d+)\n\s+Connection: (\d+)\n\s+Initiator: (.+)$", re.MULTILINE)


class TgtTarget:
    """The target of one number, whether it is there or not; without state of its own."""

    def __init__(self, tgtd: Tgtd, tid: int, block_devices: Path) -> None:
        """Name it; nothing is asked yet."""
        self.tid = tid
        self._tgtd = tgtd
        self._block_devices = block_devices
        # No initiator's user has this form, and no other target this number.
        self._guard = f"zolder-guard-{tid}"

    def _ask(self, op: Op, mode: Mode, parameters: str, *expected: Refusal) -> Answer:
        return self._tgtd.ask(Request(mode, op, self.tid, parameters=parameters), *expected)

    def read(self) -> Record | Answer | None:
        """Return its record, what tgtd shows if it bears none of ours, or None where it is absent."""
        answer = self._ask(Op.SHOW, Mode.TARGET, "", Refusal.NO_TARGET)
        return (parse_record(answer.text) or answer) if answer.done else None

    def write(self, record: Record) -> None:
        """Put a record on it.

        :raises InvalidRequest: it does not fit.
        """
        self._ask(Op.UPDATE, Mode.TARGET, f"RedirectAddress={record.encode()}")

    def create(self, name: str) -> bool:
        """Make it, without anything; return False where its number or its name is taken."""
        return self._ask(Op.NEW, Mode.TARGET, f"targetname={name}", Refusal.TARGET_EXIST).done

    def remove(self) -> None:
        """Remove it behind its last session. Never by force: tgtd would end itself over I/O that is left."""
        busy = (Refusal.TARGET_ACTIVE, Refusal.LUN_ACTIVE)

        def delete() -> bool:
            self._close_sessions(None)
            return self._ask(Op.DELETE, Mode.TARGET, "", *busy, Refusal.NO_TARGET).refusal not in busy

        self._wait(delete, "its last session")

    def set_online(self, *, online: bool) -> None:
        """Let it answer logins, or have them tried again later; offline only where all sessions end.

        Offline, tgtd takes a command of a session that stands, and never answers (target_cmd_queue() says
        -EBUSY, which iscsi_task_execute() in usr/iscsi/iscsid.c ignores): its initiator waits, then fails.
        """
        self._ask(Op.UPDATE, Mode.TARGET, f"state={'ready' if online else 'offline'}")

    def make_lun(self, record: Record, *, seconds: float = _CLOSING_SECONDS) -> None:
        """Open its LUN anew, with nobody logged in; it is offline from here on. The caller has it `claimed`.

        :param seconds: the longest wait for sessions and their I/O to end.
        """
        self.set_online(online=False)
        delete = Request(Mode.DEVICE, Op.DELETE, self.tid, lun=LUN)

        def close() -> bool:
            return self._close_sessions(None) and (
                self._tgtd.ask(delete, Refusal.NO_LUN, Refusal.LUN_ACTIVE).refusal != Refusal.LUN_ACTIVE
            )

        self._wait(close, "its sessions and their I/O", min(seconds, _CLOSING_SECONDS))
        self._open_lun(record)

    def restore_lun(self, record: Record) -> None:
        """Open its LUN where making it anew ended behind its deletion; one that stands keeps its size."""
        self._open_lun(record, Refusal.LUN_EXIST)

    def _open_lun(self, record: Record, *expected: Refusal) -> None:
        attributes = ",".join(f"{name}={value}" for name, value in self._attributes(record))
        path = f"bstype=rdwr,path={record.device}"
        self._tgtd.ask(Request(Mode.DEVICE, Op.NEW, self.tid, lun=LUN, parameters=path), *expected)
        self._tgtd.ask(Request(Mode.DEVICE, Op.UPDATE, self.tid, lun=LUN, parameters=attributes))

    def _attributes(self, record: Record) -> Iterator[tuple[str, str | int]]:
        queue = self._block_devices / record.device.name / "queue"
        # Of 32 hex digits tgtd makes a 16-byte NAA identifier; these are those that LIO makes of the serial.
        yield "scsi_id", f"6001405{record.serial[:25]}"
        yield "scsi_sn", record.serial
        yield "vendor_id", "Zolder"
        yield "product_id", "zvol"
        yield "lbppbe", (_read_number(queue / "physical_block_size") // _SECTOR_BYTES).bit_length() - 1
        # tgtd unmaps by fallocate(2), which a block device does by writing zeroes or not at all.
        yield "thin_provisioning", int(_read_number(queue / "write_zeroes_max_bytes") > 0)
        yield "readonly", int(record.read_only)

    def bind(self, initiator: InitiatorName) -> None:
        """Let an initiator log in."""
        self._ask(Op.BIND, Mode.TARGET, f"initiator-name={initiator}", Refusal.ACL_EXIST)

    def unbind(self, initiator: InitiatorName) -> None:
        """Let an initiator log in no more; its sessions go on."""
        self._ask(Op.UNBIND, Mode.TARGET, f"initiator-name={initiator}", Refusal.ACL_NOEXIST)

    def bind_accounts(self, users: tuple[str, ...], fresh: Chap | None) -> None:
        """Bind the accounts that are not bound, in order, the guard before them.

        :param users: those that may be bound by now, in the order in which they were.
        :param fresh: one of them, that is made anew.
        """
        if fresh:
            self.delete_account(users, fresh.user)
            self._ask(Op.NEW, Mode.ACCOUNT, f"user={fresh.user},password={fresh.secret}")
        # Its secret is kept nowhere. One that a killed process left is as good.
        guard = f"user={self._guard},password={secrets.token_hex(_GUARD_BYTES)}"
        self._ask(Op.NEW, Mode.ACCOUNT, guard, Refusal.USER_EXIST)
        for user in (self._guard, *users):
            self._ask(Op.BIND, Mode.ACCOUNT, f"user={user}", Refusal.NO_USER, Refusal.USER_EXIST)

    def delete_account(self, users: tuple[str, ...], user: str) -> None:
        """Delete an account, with those behind it unbound: the module's head says why.

        An initiator of theirs that logs in before they are bound again is told that its secret is wrong.
        """
        for other in reversed(users[users.index(user) + 1 :]):
            self._ask(Op.UNBIND, Mode.ACCOUNT, f"user={other}", Refusal.NO_USER)
        self._delete(user)

    def delete_accounts(self, users: tuple[str, ...]) -> None:
        """Delete all its accounts, the last one first, and the guard: it asks for no secret any more."""
        for user in (*reversed(users), self._guard):
            self._delete(user)

    def _delete(self, user: str) -> None:
        # This unbinds it, too: account_del() in usr/target.c.
        self._ask(Op.DELETE, Mode.ACCOUNT, f"user={user}", Refusal.NO_USER)

    def end_sessions(self, initiator: InitiatorName | None) -> None:
        """Close the connections of an initiator, or of all, and see them go."""
        self._wait(
            lambda: self._close_sessions(initiator), f"the sessions of {initiator or 'all initiators'}"
        )

    def initiators_in_session(self) -> frozenset[str]:
        """Return who is logged in."""
        shown = self._ask(Op.SHOW, Mode.CONNECTION, "", Refusal.NO_TARGET).text
        return frozenset(name for _, _, name in _SESSION.findall(shown))

    def await_sessions(self, initiators: frozenset[str], *, seconds: float) -> None:
        """Give initiators time to log in again; one that does not is let be."""
        end = time.monotonic() + seconds
        while not initiators <= self.initiators_in_session() and time.monotonic() < end:
            time.sleep(_LONGEST_PAUSE_SECONDS)

    def _close_sessions(self, initiator: InitiatorName | None) -> bool:
        """Close connections; return whether there was none."""
        shown = self._ask(Op.SHOW, Mode.CONNECTION, "", Refusal.NO_TARGET).text
        sessions = [
            (int(sid), int(cid)) for sid, cid, name in _SESSION.findall(shown) if initiator in {None, name}
        ]
        for sid, cid in sessions:
            request = Request(Mode.CONNECTION, Op.DELETE, self.tid, sid=sid, cid=cid)
            self._tgtd.ask(request, Refusal.NO_SESSION, Refusal.NO_CONNECTION)
        return not sessions

    def _wait(self, done: Callable[[], bool], what: str, seconds: float = _CLOSING_SECONDS) -> None:
        end = time.monotonic() + seconds
        pause = _FIRST_PAUSE_SECONDS
        while not done():
            if time.monotonic() > end:
                message = f"tgtd: target {self.tid}: {what} did not end within {seconds:.3g} s"
                raise BackendError(message)
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


@contextmanager
def claimed(device: Path) -> Iterator[None]:
    """Hold a device for oneself alone, as LIO does; tgtd, which opens it meanwhile, asks nobody.

    :raises Busy: it is claimed by somebody else.
    """
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as err:
        if err.errno == errno.EBUSY:
            message = f"{device} is claimed by somebody else"
            raise Busy(message) from err
        message = f"cannot open {device}: {err.strerror}"
        raise BackendError(message, errno=err.errno or 0) from err
    try:
        yield
    finally:
        os.close(descriptor)


def _read_number(path: Path) -> int:
    try:
        return int(path.read_text())
    except OSError as err:
        message = f"cannot read {path}: {err.strerror}"
        raise BackendError(message, errno=err.errno or 0) from err
