"""A stand-in for tgtd: a socket that speaks its management protocol, with state behind it.

It models what Zolder asks of tgt 1.0.85 and was held to what the real one answered: its numbers, its texts (a
NUL behind each), and its traps: whoever matches an address OR an IQN gets in, a target without accounts asks
for none, a gap among them hides those behind it and kills the daemon as soon as all targets are listed, and
the commands of sessions that stand are lost while their target is offline.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from zolder.san.tgtd import ANSWER, REQUEST, Mode, Op, Refusal


class Died(Exception):
    """The daemon follows a null pointer."""


@dataclass
class Lun:
    """A logical unit and what was set on it."""

    path: str
    attributes: dict[str, str] = field(default_factory=dict)
    active: int = 0  # how many more times it says that it has I/O


@dataclass
class Target:
    """A target as tgtd keeps it; an account's slot is emptied, not closed up, when it is unbound."""

    name: str
    state: str = "ready"
    redirect: str = ""
    luns: dict[int, Lun] = field(default_factory=dict)
    accounts: list[str | None] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    iqns: list[str] = field(default_factory=list)
    sessions: dict[int, str] = field(default_factory=dict)
    # Those of its sessions whose commands may have been lost: they wait for ever for an answer.
    stalled: set[int] = field(default_factory=set)
    keeps_sessions: bool = False  # their connections do not come to an end

    @property
    def account_count(self) -> int:
        """How many accounts are bound; tgtd looks at that many slots from the first."""
        return sum(user is not None for user in self.accounts)


class Daemon:
    """The state of a daemon, and what it answers."""

    def __init__(self, portals: tuple[str, ...] = ("0.0.0.0:3261",)) -> None:
        """Start with no target."""
        self.targets: dict[int, Target] = {}
        self.accounts: dict[str, str] = {}
        self.portals = list(portals)
        self.refused_portals: set[str] = set()
        self.dead = False
        self.asked: list[str] = []
        self._last_session = 0

    def target_of(self, name: str) -> Target:
        """Return the one target of a name."""
        return next(target for target in self.targets.values() if target.name == name)

    def log_in(self, name: str, iqn: str, user: str | None = None, secret: str | None = None) -> str:
        """Log in as an initiator does; return how that ends (login_start() and account_lookup())."""
        target = next((target for target in self.targets.values() if target.name == name), None)
        if target is None:
            return "not found"
        if target.state != "ready":
            return "target error"
        if not target.addresses and iqn not in target.iqns:
            return "not found"
        if target.account_count:
            seen = target.accounts[: target.account_count]
            if user not in seen or user is None or self.accounts[user] != secret:
                return "not authorized"
        self._last_session += 1
        target.sessions[self._last_session] = iqn
        return "in"

    def answer(self, request: bytes) -> bytes:
        """Return the answer to one request.

        :raises Died: it kills the daemon.
        """
        mode, op, _, length, tid, sid, lun, cid, *_ = REQUEST.unpack_from(request)
        parameters = request[REQUEST.size : length].rstrip(b"\0").decode()
        self.asked.append(f"{Op(op).name} {Mode(mode).name}")
        text = ""
        match Mode(mode), Op(op):
            case Mode.TARGET, Op.SHOW if tid < 0:
                refusal, text = Refusal.SUCCESS, self._show_all()
            case Mode.PORTAL, Op.SHOW:
                refusal, text = Refusal.SUCCESS, "".join(f"Portal: {portal},1\n" for portal in self.portals)
            case Mode.TARGET, Op.SHOW if tid in self.targets:
                refusal, text = Refusal.SUCCESS, _show(self.targets[tid])
            case Mode.CONNECTION, Op.SHOW if tid in self.targets:
                refusal, text = Refusal.SUCCESS, _show_connections(self.targets[tid])
            case Mode.CONNECTION, Op.DELETE if tid in self.targets:
                refusal = _close(self.targets[tid], sid, cid)
            case Mode.DEVICE, change if tid in self.targets:
                refusal = _change_lun(self.targets[tid], change, lun, parameters)
            case about, change:
                refusal = self._change(about, change, tid, parameters)
        payload = text.encode() + b"\0" if text and refusal is Refusal.SUCCESS else b""
        return ANSWER.pack(refusal, ANSWER.size + len(payload)) + payload

    def _change(self, about: Mode, op: Op, tid: int, parameters: str) -> Refusal:
        value = parameters.partition("=")[2]
        match about, op:
            case Mode.PORTAL, Op.NEW:
                return self._new_portal(value)
            case Mode.TARGET, Op.NEW:
                return self._new_target(tid, value)
            case Mode.ACCOUNT, _:
                return self._change_account(op, tid, parameters)
            case Mode.TARGET, _ if tid in self.targets:
                return self._change_target(tid, op, parameters)
            case _:
                return Refusal.NO_TARGET

    def _show_all(self) -> str:
        shown = ""
        for tid, target in sorted(self.targets.items()):
            if None in target.accounts[: target.account_count]:
                raise Died
            luns = "".join(
                f"        LUN: {number}\n            Backing store path: {lun.path}\n"
                for number, lun in sorted(target.luns.items())
            )
            users = "".join(f"        {user}\n" for user in target.accounts if user)
            allowed = "".join(f"        {name}\n" for name in (*target.addresses, *target.iqns))
            shown += (
                f"Target {tid}: {target.name}\n    System information:\n        Driver: iscsi\n"
                f"        State: {target.state}\n    I_T nexus information:\n    LUN information:\n{luns}"
                f"    Account information:\n{users}    ACL information:\n{allowed}"
            )
        return shown

    def _new_portal(self, portal: str) -> Refusal:
        if portal in self.refused_portals:
            return Refusal.INVALID_REQUEST
        self.portals.insert(0, portal)
        return Refusal.SUCCESS

    def _new_target(self, tid: int, name: str) -> Refusal:
        if tid in self.targets or any(target.name == name for target in self.targets.values()):
            return Refusal.TARGET_EXIST
        self.targets[tid] = Target(name, luns={0: Lun("None")})
        return Refusal.SUCCESS

    def _change_account(self, op: Op, tid: int, parameters: str) -> Refusal:
        user = parameters.partition("=")[2]
        if op is Op.NEW:
            return self._new_account(parameters)
        if op is Op.DELETE:
            return self._delete_account(user)
        return self._bind_account(self.targets[tid], op, user) if tid in self.targets else Refusal.NO_TARGET

    def _new_account(self, parameters: str) -> Refusal:
        user, _, password = parameters.removeprefix("user=").partition(",password=")
        if user in self.accounts:
            return Refusal.USER_EXIST
        self.accounts[user] = password
        return Refusal.SUCCESS

    def _delete_account(self, user: str) -> Refusal:
        if user not in self.accounts:
            return Refusal.NO_USER
        for target in self.targets.values():
            self._bind_account(target, Op.UNBIND, user)
        del self.accounts[user]
        return Refusal.SUCCESS

    def _bind_account(self, target: Target, op: Op, user: str) -> Refusal:
        if user not in self.accounts:
            return Refusal.NO_USER
        slots = target.accounts
        if op is Op.UNBIND:
            if user not in slots:
                return Refusal.NO_USER
            slots[slots.index(user)] = None
        elif user in slots:
            return Refusal.USER_EXIST
        elif None in slots:
            slots[slots.index(None)] = user
        else:
            slots.append(user)
        return Refusal.SUCCESS

    def _change_target(self, tid: int, op: Op, parameters: str) -> Refusal:
        target = self.targets[tid]
        key, _, value = parameters.partition("=")
        if op is Op.DELETE:
            return self._delete_target(tid)
        if op is Op.UPDATE and key == "state":
            target.state = value
            if value != "ready":
                target.stalled |= set(target.sessions)
        elif op is Op.UPDATE and key == "RedirectAddress":
            target.redirect = value[:1025]
        elif op is Op.BIND:
            if value in target.iqns:
                return Refusal.ACL_EXIST
            target.iqns.append(value)
        elif op is Op.UNBIND:
            if value not in target.iqns:
                return Refusal.ACL_NOEXIST
            target.iqns.remove(value)
        return Refusal.SUCCESS

    def _delete_target(self, tid: int) -> Refusal:
        target = self.targets[tid]
        if target.sessions:
            return Refusal.TARGET_ACTIVE
        for lun in target.luns.values():
            if lun.active:
                lun.active -= 1
                return Refusal.LUN_ACTIVE
        del self.targets[tid]
        return Refusal.SUCCESS


def _show(target: Target) -> str:
    if target.redirect:
        return f"RedirectAddress={target.redirect}\nRedirectPort=\nRedirectReason=Unknown\n"
    return "nop_interval=0\nnop_count=0\nMaxRecvDataSegmentLength=8192\n"


def _show_connections(target: Target) -> str:
    return "".join(
        f"Session: {sid}\n    Connection: 0\n        Initiator: {iqn}\n        IP Address: 192.0.2.9\n"
        for sid, iqn in target.sessions.items()
    )


def _close(target: Target, sid: int, cid: int) -> Refusal:
    if sid not in target.sessions:
        return Refusal.NO_SESSION
    if cid:
        return Refusal.NO_CONNECTION
    if not target.keeps_sessions:
        del target.sessions[sid]
        target.stalled.discard(sid)
    return Refusal.SUCCESS


def _change_lun(target: Target, op: Op, number: int, parameters: str) -> Refusal:
    pairs = dict(pair.split("=", 1) for pair in parameters.split(",") if pair)
    lun = target.luns.get(number)
    if op is Op.NEW:
        if lun:
            return Refusal.LUN_EXIST
        if not Path(pairs["path"]).exists():
            return Refusal.INVALID_REQUEST
        target.luns[number] = Lun(pairs["path"], {"size": str(Path(pairs["path"]).stat().st_size)})
    elif lun is None:
        return Refusal.NO_LUN
    elif op is Op.UPDATE:
        lun.attributes.update(pairs)
    elif lun.active:
        lun.active -= 1
        return Refusal.LUN_ACTIVE
    else:
        del target.luns[number]
    return Refusal.SUCCESS


class Served:
    """A daemon behind a socket; as tgtd, one request at a time and one a connection."""

    def __init__(self, path: Path, daemon: Daemon) -> None:
        """Listen at ``path``."""
        self._daemon = daemon
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(32)
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Ends an accept(2) that waits.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                if request := _receive(connection):
                    try:
                        connection.sendall(self._daemon.answer(request))
                    except Died:
                        self._daemon.dead = True
                        return


def _receive(connection: socket.socket) -> bytes:
    request = b""
    while len(request) < REQUEST.size or len(request) < REQUEST.unpack_from(request)[3]:
        piece = connection.recv(65536)
        if not piece:
            return b""
        request += piece
    return request


@contextmanager
def serve(path: Path, daemon: Daemon) -> Iterator[Daemon]:
    """Run a daemon behind a socket."""
    with Served(path, daemon):
        yield daemon
