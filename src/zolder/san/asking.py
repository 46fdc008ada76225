"""The agent's end of the helper's socket: root's verbs, one request each (zolder.san.privileged).

The connection is opened at the first request and kept. Every verb may be asked twice, so one whose
connection was lost, because the helper was started anew, is asked once more. A helper that does not answer
is given up some time behind the deadline; what it still does, it holds to the record then (zolder.san.root).
One thread.
"""

# ruff: noqa: D102 - zolder.san.privileged has the words of each method

from __future__ import annotations

import array
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn, TypeVar

from zolder import __version__, shapes
from zolder.errors import (
    BackendError,
    DeadlineExceeded,
    Error,
    InvalidRequest,
    ProtocolError,
    RemoteProtocolError,
)
from zolder.model import Chap, Export
from zolder.names import DatasetName, ExporterName, Identity, InitiatorName, OperationId, ZvolName
from zolder.san.operation import Operation
from zolder.san.privileged import Held, Introduction, Privileged
from zolder.wire import (
    MAX_ANSWER_BYTES,
    MAX_DEADLINE_MS,
    Failure,
    LineReader,
    Notice,
    Progress,
    Request,
    decode_reply,
    encode_request,
)

T = TypeVar("T")

HELPER_SOCKET: Final = Path("/run/zolder-helper.socket")

# The helper is on this machine and forks at once; what takes long is ZFS and LIO, behind the greeting.
_CONNECT_SECONDS: Final = 30
_CLOSING_SECONDS: Final = 30
# Behind the deadline: what the helper began just before it may wait for tgtd and for sessions to end.
_MARGIN_SECONDS: Final = 30
_READ_BYTES: Final = 65536
# A helper that is not there; BlockingIOError is one with a full queue of others that wait (unix(7): EAGAIN).
_NOT_THERE: Final = (
    FileNotFoundError,
    ConnectionRefusedError,
    PermissionError,
    TimeoutError,
    BlockingIOError,
)


class HelperLine:
    """One identity's connection to the helper, for the life of a channel."""

    def __init__(self, identity: Identity, path: Path = HELPER_SOCKET) -> None:
        """Connect when first asked."""
        self._identity = identity
        self._path = path
        self._socket: socket.socket | None = None
        self._reader = LineReader(MAX_ANSWER_BYTES)
        self._number = 0
        self._passed: list[int] = []

    def ask(self, operation: OperationId, seconds: float, method: str, params: shapes.Json) -> shapes.Json:
        """Return the value that the helper answered.

        :raises Error: what the helper says, or BackendError where there is none.
        """
        try:
            return self._exchange(operation, seconds, method, params)
        except (ConnectionError, EOFError):
            self.close()
        try:
            return self._exchange(operation, seconds, method, params)
        except (ConnectionError, EOFError, DeadlineExceeded) as err:
            # It has not begun the second time, in time; the first time it may have.
            self.close()
            message = f"the root helper went away at {method}: see 'journalctl -u zolder-helper' on the SAN"
            raise BackendError(message) from err

    def take_descriptor(self) -> int:
        """Return the one descriptor that came with the last answer; it is the caller's now.

        :raises RemoteProtocolError: none came, or more.
        """
        if len(self._passed) != 1:
            message = f"the root helper passed {len(self._passed)} descriptors where one was asked for"
            self._drop_descriptors()
            raise RemoteProtocolError(message)
        return self._passed.pop()

    def _drop_descriptors(self) -> None:
        while self._passed:
            os.close(self._passed.pop())

    def close(self) -> None:
        """Hang up."""
        self._drop_descriptors()
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _exchange(
        self, operation: OperationId, seconds: float, method: str, params: shapes.Json
    ) -> shapes.Json:
        line = self._socket or self._connect(operation)
        try:
            return self._send(line, operation, seconds, method, params)
        except ProtocolError:
            self.close()  # whatever else comes on this line is the answer to nothing
            raise
        except TimeoutError as err:
            self.close()
            message = (
                f"the root helper did not answer {method} in time: does a zpool or a disk hang?"
                " See 'zpool status' and 'journalctl -k' on the SAN"
            )
            raise BackendError(message) from err

    def _connect(self, operation: OperationId) -> socket.socket:
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(_CONNECT_SECONDS)
        try:
            line.connect(str(self._path))
            self._reader = LineReader(MAX_ANSWER_BYTES)
            hello = shapes.encode(Introduction(self._identity, __version__))
            self._send(line, operation, _CONNECT_SECONDS, "hello", hello)
        except _NOT_THERE as err:
            line.close()
            self._refuse(err)
        except (Error, OSError, EOFError):
            line.close()
            raise
        self._socket = line
        return line

    def _send(
        self,
        line: socket.socket,
        operation: OperationId,
        seconds: float,
        method: str,
        params: shapes.Json,
    ) -> shapes.Json:
        if not isinstance(params, dict):
            raise TypeError
        self._drop_descriptors()
        self._number += 1
        deadline_ms = min(max(int(seconds * 1000), 1), MAX_DEADLINE_MS)
        patience = deadline_ms / 1000 + _MARGIN_SECONDS
        due = time.monotonic() + patience
        line.settimeout(patience)
        # A helper that hung up may have said why before, and that can still be read.
        with suppress(BrokenPipeError):
            line.sendall(encode_request(Request(self._number, operation, method, deadline_ms, params)))
        while True:
            for answer in self._reader.feed(self._receive(line, due)):
                reply = decode_reply(answer)
                if isinstance(reply, Failure):
                    raise reply.error
                if isinstance(reply, Notice):
                    continue  # it waits for another operation, and says so; its answer comes behind that
                if reply.id != self._number or isinstance(reply, Progress):
                    message = "the root helper answered what was not asked"
                    raise RemoteProtocolError(message)
                return reply.value

    def _receive(self, line: socket.socket, due: float) -> bytes:
        seconds = due - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        line.settimeout(seconds)
        # Not socket.recv_fds: that of Python 3.11 drops the flag.
        room = socket.CMSG_LEN(array.array("i").itemsize)
        data, ancillary, _, _ = line.recvmsg(_READ_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, passed in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._passed += array.array("i", passed)
        if not data:
            raise EOFError
        return data

    def _refuse(self, error: OSError) -> NoReturn:
        message = (
            f"the root helper does not answer at {self._path} ({error.strerror or 'no answer'}): as root, run"
            " 'zolder-san install', then see 'systemctl status zolder-helper.socket zolder-helper.service'"
        )
        raise BackendError(message) from error


class Asking(Privileged):
    """Root's verbs for one operation."""

    def __init__(self, line: HelperLine, operation: Operation) -> None:
        """Ask over ``line``, with the operation's own id and deadline."""
        self._line = line
        self._operation = operation

    def read_holders(self, parent: DatasetName, zvol: ZvolName) -> tuple[str, ...]:
        return self._ask(Privileged.read_holders, parent=parent, zvol=zvol)

    def list_holders(self, parent: DatasetName) -> tuple[Held, ...]:
        return self._ask(Privileged.list_holders, parent=parent)

    def open_device(self, parent: DatasetName, zvol: ZvolName, *, to_write: bool) -> int:
        self._ask(Privileged.open_device, parent=parent, zvol=zvol, to_write=to_write)
        return self._line.take_descriptor()

    def open_export(
        self, parent: DatasetName, zvol: ZvolName, initiator: InitiatorName, *, chap: Chap | None
    ) -> bool:
        return self._ask(Privileged.open_export, parent=parent, zvol=zvol, initiator=initiator, chap=chap)

    def close_export(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        initiator: InitiatorName | None,
        *,
        exporter: ExporterName | None,
    ) -> bool:
        return self._ask(
            Privileged.close_export, parent=parent, zvol=zvol, initiator=initiator, exporter=exporter
        )

    def grow_export(self, parent: DatasetName, zvol: ZvolName) -> None:
        return self._ask(Privileged.grow_export, parent=parent, zvol=zvol)

    def list_exports(self, parent: DatasetName) -> tuple[Export, ...]:
        return self._ask(Privileged.list_exports, parent=parent)

    def _ask(self, verb: Callable[..., T], **arguments: object) -> T:
        params: shapes.Json = {name: shapes.encode(value) for name, value in arguments.items()}
        operation = self._operation
        # What is to be closed is closed, however late: it may be the undoing of what failed for its time.
        least = _CLOSING_SECONDS if verb is Privileged.close_export else 0
        seconds = max(operation.remaining_seconds, least)
        value = self._line.ask(operation.id, seconds, verb.__name__, params)
        try:
            checked: T = shapes.result(verb)(value)
        except InvalidRequest as err:
            message = f"the root helper's answer to {verb.__name__} is not what it should be: {err.message}"
            raise RemoteProtocolError(message) from err
        return checked
