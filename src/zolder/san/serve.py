"""The loop over one channel's requests, one at a time, until the client closes.

The agent and the root helper both run it, each with a ``Service`` of its own. A request that began is
finished or undone even when the line drops; nothing here knows ZFS. One thread; a channel is a process.
"""

from __future__ import annotations

import signal
import syslog
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol

from zolder import __version__, shapes
from zolder.errors import (
    BackendError,
    Error,
    InvalidRequest,
    ProtocolError,
    RemoteProtocolError,
    UnknownMethod,
)
from zolder.names import OperationId
from zolder.san.audit import Record, outcome_of
from zolder.san.channel import ENDING, Channel
from zolder.san.operation import Operation
from zolder.san.policy import Policy
from zolder.san.requestline import RequestLine
from zolder.wire import Answer, Failure, Notice, Request, decode_request

Parameters = Mapping[str, Callable[[shapes.Json], dict[str, Any]]]

HELLO: Final = "hello"
_NO_OPERATION: Final = OperationId("00000000-0000-0000-0000-000000000000")


class Service(Protocol):
    """What answers the requests of one channel."""

    def greet(self, params: shapes.Json) -> shapes.Json:
        """Answer a channel's first request, ``hello``."""

    def answer(self, request: Request, operation: Operation) -> shapes.Json:
        """Answer any later request."""


def serve(channel: Channel, service: Service, *, record: Record) -> None:
    """Answer a client's requests until it closes the channel.

    :param record: writes down each request before it is answered.
    """
    greeted = False
    while True:
        try:
            line = channel.read_line()
            request = None if line is None else decode_request(line)
        except RemoteProtocolError as err:
            refuse(channel, err, record, "(no frame)")
            return
        if request is None:
            return
        with _undisturbed():
            started = time.monotonic()
            reply, outcome = _reply(channel, service, request, greeted=greeted)
            record(request, outcome, time.monotonic() - started)
            channel.write(reply)
        if channel.carries_contents or (
            isinstance(reply, Failure) and isinstance(reply.error, ProtocolError)
        ):
            return
        greeted = greeted or isinstance(reply, Answer)


def refuse(channel: Channel, error: Error, record: Record, what: str = "(no channel)") -> None:
    """Tell a client why no request of its can be answered here, and write it down.

    :param what: stands in the record for the method; no method has a bracket.
    """
    record(Request(0, _NO_OPERATION, what, 1, {}), error.code, 0)
    channel.write(Failure(0, error))


def parameters_of(interface: type, methods: Iterable[str]) -> Parameters:
    """Return what turns the parameters of each method into typed arguments."""
    return {name: shapes.parameters(getattr(interface, name)) for name in methods}


def dispatch(
    parameters: Parameters, request: Request, policy: Policy, target: Callable[[], object]
) -> shapes.Json:
    """Call the method that a request names, once its arguments are typed and the policy agrees.

    :param target: returns what has the methods; asked only then.

    :raises UnknownMethod: the interface has no such method.
    :raises InvalidRequest, NotPermitted: the arguments are no such, or not this identity's.
    """
    if request.method not in parameters:
        message = f"this agent ({__version__}) has no request {request.method[:40]!a}"
        raise UnknownMethod(message)
    arguments = parameters[request.method](request.params)
    policy.check(request.method, arguments)
    return shapes.encode(getattr(target(), request.method)(**arguments))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let what ends this process wait until the block's end, and then end it at once."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _reply(
    channel: Channel, service: Service, request: Request, *, greeted: bool
) -> tuple[Answer | Failure, str]:
    """Return the reply to a request, and its outcome for the record."""
    try:
        value = _answer(channel, service, request) if greeted else _greet(service, request)
    except Error as err:
        return Failure(request.id, err), err.code
    except Exception:  # noqa: BLE001 - the last border: a fault of ours must not end the channel unsaid
        syslog.syslog(syslog.LOG_ERR, f"zolder-san {request.method}: {traceback.format_exc()}")
        message = f"an internal error of the agent in {request.method}; the SAN's system log has it"
        return Failure(request.id, BackendError(message, operation=str(request.operation))), "internal"
    return Answer(request.id, value), outcome_of(value)


def _greet(service: Service, request: Request) -> shapes.Json:
    if request.method != HELLO:
        message = "the first request of a channel must be hello"
        raise RemoteProtocolError(message)
    try:
        return service.greet(request.params)
    except InvalidRequest as err:
        raise RemoteProtocolError(err.message) from err


def _answer(channel: Channel, service: Service, request: Request) -> shapes.Json:
    operation = Operation(
        request.operation,
        seconds=request.deadline_ms / 1000,
        peer_is_there=channel.peer_is_there,
        notify=lambda text: channel.write_if_ready(Notice(request.id, text)),
        line=RequestLine(channel, request.id),
    )
    return service.answer(request, operation)
