"""The root helper: a daemon that does, for the agent's user alone, what the kernel keeps for root.

systemd hands it the listening socket; without systemd it makes one. Who connects is known from the kernel
(SO_PEERCRED) and must be the agent's user or root. Each connection is a process of its own, so a fault ends
one channel's work and no other. The agent's word for the identity is taken, and held to that identity's
policy: what a taken agent can do is what the policy gives to all identities together (docs/security.md).
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import syslog
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from zolder import __version__, shapes
from zolder.errors import BackendError, Busy, Error, NotPermitted, VersionMismatch
from zolder.names import Identity
from zolder.san import lzc
from zolder.san.account import Account
from zolder.san.audit import format_line
from zolder.san.channel import Channel
from zolder.san.operation import Operation
from zolder.san.policy import Policy, PolicyError, load_policy
from zolder.san.privileged import VERBS, Introduction, Privileged
from zolder.san.root import Root
from zolder.san.serve import Service, dispatch, parameters_of, refuse, serve
from zolder.wire import Request

TAG: Final = "zolder-helper"
MAX_CONNECTIONS: Final = 256

_PARAMETERS: Final = parameters_of(Privileged, VERBS)
# sd_listen_fds(3): what systemd passes begins here.
_FIRST_PASSED: Final = 3
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid
_BACKLOG: Final = 128
_CHANGES: Final = frozenset(("open_export", "close_export"))
_STOP_PAUSE_SECONDS: Final = 0.2


class Helper(Service):
    """The service of one connection: root's verbs, within the policy of the identity that it names."""

    def __init__(self, policy_of: Callable[[Identity], Policy] = load_policy) -> None:
        """Read the policy when the connection introduces itself."""
        self._policy_of = policy_of
        self._policy: Policy | None = None
        self._busy = False

    def greet(self, params: shapes.Json) -> shapes.Json:
        """Take down whose requests these will be.

        :raises VersionMismatch: agent and helper are not of one installation.
        :raises BackendError: there is no policy for that identity.
        """
        introduction: Introduction = shapes.decode(Introduction, params)
        if introduction.version != __version__:
            message = (
                f"the root helper is {__version__} and the agent {introduction.version}:"
                " run 'systemctl restart zolder-helper.service' on the SAN"
            )
            raise VersionMismatch(message, agent_version=introduction.version)
        try:
            self._policy = self._policy_of(introduction.identity)
        except PolicyError as err:
            raise BackendError(str(err)) from err
        return __version__

    def answer(self, request: Request, operation: Operation) -> shapes.Json:
        """Answer a verb of ``zolder.san.privileged.Privileged``."""
        policy = self._policy
        if policy is None:
            raise AssertionError  # serve() lets nothing come before hello
        self._busy = True
        try:
            return dispatch(
                _PARAMETERS, request, policy, lambda: Root(policy, seconds=operation.remaining_seconds)
            )
        finally:
            self._busy = False

    def record(self, request: Request, outcome: str, seconds: float) -> None:
        """Write down what root changed, or refused to change, in root's own name."""
        if self._policy is not None and request.method in _CHANGES:
            line = format_line(self._policy.identity, "helper", request, outcome, seconds)
            syslog.syslog(syslog.LOG_AUTHPRIV | syslog.LOG_INFO, line)

    def stop(self, _signal: int, _frame: FrameType | None) -> None:
        """End this process at once where it is idle, and soon behind its request where it is not."""
        if not self._busy:
            os._exit(0)
        signal.setitimer(signal.ITIMER_REAL, _STOP_PAUSE_SECONDS)


def listen(path: Path | None, account: Account) -> socket.socket:
    """Return the listening socket: systemd's, or a new one at ``path``, open to the agent's group.

    :raises BackendError: there is neither.
    """
    if path is None:
        if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
            message = "no socket came from systemd: name one with --socket PATH"
            raise BackendError(message)
        return socket.socket(fileno=_FIRST_PASSED)
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
    finally:
        os.umask(before)
    os.chown(path, 0, account.gid)
    path.chmod(0o660)
    listening.listen(_BACKLOG)
    return listening


def run_helper(listening: socket.socket, account: Account) -> NoReturn:
    """Serve every connection in a process of its own, until a signal ends it."""
    syslog.openlog(TAG, syslog.LOG_PID, syslog.LOG_DAEMON)
    lzc.preload()
    children = set[int]()
    while True:
        connection, _ = listening.accept()
        children = {pid for pid in children if not _has_ended(pid)}
        with connection:
            refusal = _refusal(_peer_uid(connection), len(children), account)
            if refusal is not None:
                connection.setblocking(False)
                refuse(Channel(connection.fileno(), connection.fileno(), write_seconds=0), refusal)
                continue
            pid = os.fork()
            if pid == 0:
                listening.close()
                _serve_one(connection)
            children.add(pid)


def _refusal(uid: int, connections: int, account: Account) -> Error | None:
    """Return why a connection is not served, or None."""
    if uid not in {0, account.uid}:
        return NotPermitted(f"the root helper serves the user {account.name} and not uid {uid}")
    if connections >= MAX_CONNECTIONS:
        return Busy(f"the root helper has {MAX_CONNECTIONS} connections open already", holders=[])
    return None


def _peer_uid(connection: socket.socket) -> int:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(raw)[1]
    return uid


def _has_ended(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def _serve_one(connection: socket.socket) -> NoReturn:
    """Serve one connection and end this process; a stop waits for the request that is under way."""
    status = 1
    try:
        helper = Helper()
        signal.signal(signal.SIGTERM, helper.stop)
        signal.signal(signal.SIGALRM, helper.stop)
        descriptor = connection.fileno()
        serve(Channel(descriptor, descriptor), helper, record=helper.record)
        status = 0
    except (BrokenPipeError, ConnectionResetError):
        pass  # the agent is gone
    except BaseException:  # noqa: BLE001 - a child must never return into the daemon's loop
        syslog.syslog(syslog.LOG_ERR, traceback.format_exc())
    finally:
        os._exit(status)
