"""The root helper as a daemon: who may connect, and a process of its own for each connection.

systemd hands it the listening socket; without systemd it makes one. Who connects is known from the kernel
(SO_PEERCRED) and must be the agent's user or root. A fault ends one connection and no other. A request that
is under way when a stop comes is finished first (zolder.san.serve).
"""

from __future__ import annotations

import gc
import os
import socket
import struct
import syslog
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from zolder.errors import BackendError, Busy, Error, NotPermitted
from zolder.san import libzfs
from zolder.san.account import Account, bound_memory
from zolder.san.channel import Channel
from zolder.san.helper import Helper
from zolder.san.locks import Locks
from zolder.san.serve import serve
from zolder.wire import Failure

TAG: Final = "zolder-helper"
MAX_CONNECTIONS: Final = 256

# sd_listen_fds(3): what systemd passes begins here.
_FIRST_PASSED: Final = 3
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid
_BACKLOG: Final = 128
# What keeps accept(2) or fork(2) from passing is over when some connection has ended.
_PAUSE_SECONDS: Final = 0.2


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


def run_daemon(listening: socket.socket, account: Account, locks: Locks) -> NoReturn:
    """Serve every connection in a process of its own, until a signal ends it.

    :param locks: root's own, which a restore takes too.
    """
    syslog.openlog(TAG, syslog.LOG_PID, syslog.LOG_DAEMON)
    libzfs.preload()
    gc.collect()
    gc.freeze()  # what is there now stays shared with the children
    children = set[int]()
    while True:
        try:
            connection, _ = listening.accept()
        except OSError as err:
            syslog.syslog(syslog.LOG_ERR, f"cannot accept a connection: {err}")
            time.sleep(_PAUSE_SECONDS)
            continue
        children = {pid for pid in children if not _has_ended(pid)}
        with connection:
            refusal = _refusal(_peer_uid(connection), len(children), account)
            if refusal is None:
                try:
                    pid = os.fork()
                except OSError as err:
                    refusal = Busy(f"the root helper cannot start a process: {err.strerror}", holders=[])
                    time.sleep(_PAUSE_SECONDS)
                else:
                    if pid == 0:
                        listening.close()
                        _serve_one(connection, locks)
                    children.add(pid)
            if refusal is not None:
                connection.setblocking(False)
                with suppress(OSError):  # whoever has gone already needs no answer
                    channel = Channel(connection.fileno(), connection.fileno(), write_seconds=0)
                    channel.write(Failure(0, refusal))


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


def _serve_one(connection: socket.socket, locks: Locks) -> NoReturn:
    """Serve one connection and end this process."""
    status = 1
    try:
        bound_memory()
        helper = Helper(locks)
        descriptor = connection.fileno()
        serve(Channel(descriptor, descriptor), helper, record=helper.record)
        status = 0
    except (BrokenPipeError, ConnectionResetError):
        pass  # the agent is gone
    except BaseException:  # noqa: BLE001 - a child must never return into the daemon's loop
        syslog.syslog(syslog.LOG_ERR, traceback.format_exc())
    finally:
        os._exit(status)
