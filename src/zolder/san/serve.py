"""The agent's loop: one channel, one identity, one request at a time, until the client closes.

Reads frames from one descriptor and writes replies to another. What the client asked ssh to run is never
looked at. A request that began is finished or undone even when the line drops; nothing here knows ZFS.
One thread; a channel is a process.
"""

from __future__ import annotations

import os
import select
import syslog
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Final

from zolder import __version__, shapes
from zolder.api import METHODS, Storage
from zolder.errors import (
    BackendError,
    Error,
    InvalidRequest,
    ProtocolError,
    RemoteProtocolError,
    UnknownMethod,
    VersionMismatch,
)
from zolder.san.audit import Record, outcome_of
from zolder.san.operation import Operation
from zolder.san.policy import Policy
from zolder.wire import (
    FEATURES,
    MAX_REQUEST_BYTES,
    PROTOCOLS,
    Answer,
    Failure,
    Greeting,
    LineReader,
    Notice,
    Reply,
    Request,
    Welcome,
    decode_request,
    encode_reply,
)

_READ_BYTES: Final = 65536
_PARAMETERS: Final = {name: shapes.parameters(getattr(Storage, name)) for name in METHODS}


class Channel:
    """The two descriptors of a channel, and the lines that came in."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        """Use two open descriptors; they stay the caller's."""
        self._incoming = incoming
        self._outgoing = outgoing
        self._reader = LineReader(MAX_REQUEST_BYTES)
        self._lines: deque[bytes] = deque()
        self._poll = select.poll()
        self._poll.register(incoming, select.POLLIN)
        self._closed = False

    def read_line(self) -> bytes | None:
        """Wait for the next line; None when the client has closed.

        :raises RemoteProtocolError: a line is too long.
        """
        while not self._lines and not self._closed:
            self._fill()
        return self._lines.popleft() if self._lines else None

    def peer_is_there(self) -> bool:
        """Whether the client's end is still open, without waiting."""
        while not self._closed and not self._lines and self._poll.poll(0):
            self._fill()
        return not self._closed

    def write(self, reply: Reply) -> None:
        """Send a reply whole.

        :raises BrokenPipeError: the client is gone.
        """
        view = memoryview(encode_reply(reply))
        while view:
            view = view[os.write(self._outgoing, view) :]

    def write_if_ready(self, notice: Notice) -> None:
        """Send a notice unless the client is not reading: locks are held meanwhile, so never wait."""
        poll = select.poll()
        poll.register(self._outgoing, select.POLLOUT)
        line = encode_reply(notice)
        if len(line) <= select.PIPE_BUF and any(event & select.POLLOUT for _, event in poll.poll(0)):
            os.write(self._outgoing, line)

    def _fill(self) -> None:
        data = os.read(self._incoming, _READ_BYTES)
        if not data:
            self._closed = True
        self._lines.extend(self._reader.feed(data))


def serve(
    channel: Channel,
    policy: Policy,
    *,
    storage_for: Callable[[Operation], Storage],
    zfs_version: Callable[[], str],
    record: Record,
) -> None:
    """Answer a client's requests until it closes the channel.

    :param storage_for: builds the storage that one operation acts through.
    :param record: writes down each request before it is answered.
    :param zfs_version: the version of OpenZFS here; raises BackendError where there is none.
    """
    greeted = False
    while (line := _next_line(channel)) is not None:
        try:
            request = decode_request(line)
        except RemoteProtocolError as err:
            channel.write(Failure(0, err))
            return
        started = time.monotonic()
        reply: Answer | Failure
        try:
            if greeted:
                value = _dispatch(channel, request, policy, storage_for)
            else:
                value = shapes.encode(_greet(request, policy, zfs_version))
                greeted = True
        except Error as err:
            reply, outcome = Failure(request.id, err), err.code
        except Exception:  # noqa: BLE001 - the last border: a fault of ours must not end the channel unsaid
            syslog.syslog(syslog.LOG_ERR, f"zolder-san {request.method}: {traceback.format_exc()}")
            message = f"an internal error of the agent in {request.method}; the SAN's system log has it"
            failure = BackendError(message, operation=str(request.operation))
            reply, outcome = Failure(request.id, failure), "internal"
        else:
            reply, outcome = Answer(request.id, value), outcome_of(value)
        record(request, outcome, time.monotonic() - started)
        channel.write(reply)
        if isinstance(reply, Failure) and isinstance(reply.error, ProtocolError):
            return


def refuse(channel: Channel, error: Error) -> None:
    """Tell a client why no request of its can be answered here."""
    channel.write(Failure(0, error))


def _next_line(channel: Channel) -> bytes | None:
    try:
        return channel.read_line()
    except RemoteProtocolError as err:
        channel.write(Failure(0, err))
        return None


def _greet(request: Request, policy: Policy, zfs_version: Callable[[], str]) -> Welcome:
    if request.method != "hello":
        message = "the first request of a channel must be hello"
        raise RemoteProtocolError(message)
    try:
        greeting: Greeting = shapes.decode(Greeting, request.params)
    except InvalidRequest as err:
        raise RemoteProtocolError(err.message) from err
    common = set(greeting.protocols) & set(PROTOCOLS)
    if not common:
        message = (
            f"the agent {__version__} speaks protocol {_listed(PROTOCOLS)}, the client {greeting.version} "
            f"{_listed(greeting.protocols)}: upgrade the older of the two"
        )
        raise VersionMismatch(message, agent_version=__version__)
    return Welcome(max(common), __version__, FEATURES, policy.identity, zfs_version())


def _listed(protocols: tuple[int, ...]) -> str:
    return ", ".join(str(number) for number in protocols[:8]) or "none"


def _dispatch(
    channel: Channel, request: Request, policy: Policy, storage_for: Callable[[Operation], Storage]
) -> shapes.Json:
    if request.method not in _PARAMETERS:
        message = f"this agent ({__version__}) has no request {request.method[:40]!a}"
        raise UnknownMethod(message)
    arguments = _PARAMETERS[request.method](request.params)
    policy.check(request.method, arguments)
    operation = Operation(
        request.operation,
        seconds=request.deadline_ms / 1000,
        peer_is_there=channel.peer_is_there,
        notify=lambda text: channel.write_if_ready(Notice(request.id, text)),
    )
    return shapes.encode(getattr(storage_for(operation), request.method)(**arguments))
