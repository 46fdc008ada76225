"""One channel to an agent: a child process that carries frames, one request in flight.

Opening it ends with the agent's welcome, so a channel that exists speaks a protocol that both sides know. A
channel whose exchange did not end with an answer is of no use any more and says so (``is_usable``). One
thread at a time; zolder.client.pool hands channels out.
"""

from __future__ import annotations

import contextlib
import logging
import math
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Final, NoReturn, Protocol

from zolder import __version__
from zolder.client.child import Child
from zolder.client.deadline import Deadline
from zolder.client.diagnosis import ConnectDenied, explain_garbage, explain_version
from zolder.errors import (
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    InvalidRequest,
    RemoteProtocolError,
    VersionMismatch,
)
from zolder.names import OperationId
from zolder.shapes import Json, decode
from zolder.wire import (
    MAX_ANSWER_BYTES,
    MAX_DEADLINE_MS,
    PROTOCOLS,
    Answer,
    Failure,
    LineReader,
    Notice,
    Progress,
    Reply,
    Request,
    Welcome,
    decode_reply,
    encode_request,
)

LOG = logging.getLogger(__name__)

# The agent is told of a little less time than the caller has, so that its own word about a deadline (who
# holds the zvol, say) arrives before this side gives up.
_ANSWER_MARGIN_SECONDS: Final = 1.0
_ANSWER_MARGIN_SHARE: Final = 0.1
# As much of a peer's first words as an error shows where they are no frame.
_SHOWN_BYTES: Final = 80


class Route(Protocol):
    """How an agent is reached: zolder.client.ssh.SshTarget or zolder.client.local.LocalAgent."""

    @property
    def argv(self) -> tuple[str, ...]:
        """The command that leads there."""

    @property
    def peer(self) -> str:
        """The agent as messages name it."""

    @property
    def is_line(self) -> bool:
        """Whether the command is only the line to the agent, and not the agent itself."""

    def environment(self) -> AbstractContextManager[Mapping[str, str]]:
        """Yield the variables that the command needs until the agent has spoken."""

    def explain(self, stderr: str, status: int | None) -> ConnectFailed:
        """Say why the command ended before the agent spoke."""


def new_operation() -> OperationId:
    """Return an id for an operation that was never asked before."""
    return OperationId(str(uuid.uuid4()))


class Channel:
    """An agent that has said welcome, and the line to it."""

    welcome: Welcome

    def __init__(self, child: Child, peer: str) -> None:
        """Take over a child that has just been started; ``open`` is the way to get a channel."""
        self._child = child
        self._peer = peer
        self._reader = LineReader(MAX_ANSWER_BYTES)
        self._lines: deque[bytes] = deque()
        self._beginning = b""
        self._last_id = 0
        self._asked = ""
        self._in_order = True

    @classmethod
    def open(cls, route: Route, deadline: Deadline) -> Channel:
        """Start the route's command and exchange greetings.

        :raises ConnectDenied: it cannot work until a person changes something; the message says what.
        :raises ConnectFailed: it did not work this time.
        :raises VersionMismatch: the agent is of another protocol.
        """
        with route.environment() as variables:
            channel = cls(_start(route, variables), route.peer)
            try:
                channel.welcome = channel._greet(route, deadline)
            except BaseException:
                # An agent that never spoke has nothing at hand to finish.
                channel._child.kill()
                raise
        return channel

    @property
    def is_usable(self) -> bool:
        """Whether another request may be sent: the last was answered and the line is open and silent."""
        return self._in_order and not self._lines and not self._reader.pending and self._child.is_silent()

    def exchange(
        self, method: str, operation: OperationId, params: dict[str, Json], deadline: Deadline
    ) -> Json:
        """Send one request and return the value of its answer, unchecked.

        :raises Error: whatever the agent answered with.
        :raises ConnectionLost: the line ended; the request may have been carried out.
        :raises DeadlineExceeded: no answer in time; the request may still be carried out.
        :raises RemoteProtocolError: what came back is no answer to this request.
        """
        try:
            self.ask(method, operation, params, deadline)
            reply = self.hear(deadline)
        except DeadlineExceeded as err:
            message = f"{self._peer} did not answer {method} in time."
            raise DeadlineExceeded(message, operation=str(operation), **err.details) from err
        if isinstance(reply, Progress):
            message = f"{self._peer} answered {method} with how far contents lie safe"
            raise RemoteProtocolError(message)
        self._in_order = True
        return value_of(reply)

    def ask(self, method: str, operation: OperationId, params: dict[str, Json], deadline: Deadline) -> None:
        """Send a request, whose replies are heard one by one: the beginning of an exchange.

        :raises DeadlineExceeded: the line did not take it in time.
        """
        self._last_id += 1
        self._asked = f"{method}, operation {operation}"
        line = encode_request(Request(self._last_id, operation, method, _deadline_ms(deadline), params))
        self._in_order = False
        # An agent that refuses all requests may be gone already; what it said is heard next.
        with contextlib.suppress(ConnectionLost):
            self._child.send(line, deadline)

    def hear(
        self, deadline: Deadline, renewed: Callable[[], Deadline] | None = None
    ) -> Answer | Failure | Progress:
        """Return the next reply to the request that was asked; what the agent says meanwhile is logged.

        :param renewed: the deadline behind each sentence that the agent says: who speaks is at work.
        :raises Error: as `exchange`; an answer that is an error is returned.
        """
        while isinstance(reply := self._receive(deadline), Notice):
            LOG.info("%s: %s (%s)", self._peer, reply.text, self._asked)
            if renewed:
                deadline = renewed()
        if reply.id != self._last_id:
            if isinstance(reply, Failure) and reply.id == 0:
                raise reply.error
            message = f"{self._peer} answered request {reply.id} where {self._last_id} was asked"
            raise RemoteProtocolError(message)
        return reply

    def send_contents(self, data: bytes | memoryview, deadline: Deadline) -> None:
        """Send bytes that are no line.

        :raises ConnectionLost: they are not read any more; what the agent said may be heard.
        """
        self._child.send(data, deadline)

    def has_words(self) -> bool:
        """Tell, without waiting, whether something came; it may be no whole reply yet."""
        return bool(self._lines) or not self._child.is_silent()

    @property
    def has_more(self) -> bool:
        """Whether something came behind the last reply that was heard."""
        return bool(self._lines or self._reader.pending)

    def receive_contents(self, deadline: Deadline) -> bytes:
        """Return bytes that came, as they are.

        :raises ConnectionLost: the line ended.
        """
        data = self._child.receive(deadline)
        if not data:
            self._lose()
        return data

    def give_back(self, data: bytes) -> None:
        """Take what came behind the contents as lines again."""
        self._lines.extend(self._reader.feed(data))

    def close(self) -> None:
        """End the line; the agent finishes or undoes the step at hand and goes. Safe to call twice."""
        self._in_order = False
        self._child.close()

    def _receive(self, deadline: Deadline) -> Reply:
        while not self._lines:
            data = self._child.receive(deadline)
            if not data:
                self._lose()
            self._beginning = self._beginning or data[:_SHOWN_BYTES]
            self._lines.extend(self._reader.feed(data))
        return decode_reply(self._lines.popleft())

    def _lose(self) -> NoReturn:
        stderr = self._child.hear_last_words()
        message = f"The line to {self._peer} was cut before the answer came."
        raise ConnectionLost(message, stderr=stderr)

    def _greet(self, route: Route, deadline: Deadline) -> Welcome:
        params: dict[str, Json] = {"protocols": list(PROTOCOLS), "version": __version__}
        seconds = deadline.remaining_seconds
        try:
            welcome: Welcome = decode(Welcome, self.exchange("hello", new_operation(), params, deadline))
        except ConnectionLost as err:
            if self._beginning:
                raise self._explain_garbage() from err
            raise route.explain(self._child.hear_last_words(), self._child.exit_status) from err
        except DeadlineExceeded as err:
            message = f"{self._peer} did not answer the greeting within {seconds:.0f} s."
            raise ConnectFailed(message, stderr=self._child.stderr_tail) from err
        except VersionMismatch as err:
            agent = err.details.get("agent_version", "unknown")
            raise VersionMismatch(explain_version(self._peer, str(agent)), said=err.message) from err
        except (InvalidRequest, RemoteProtocolError) as err:
            if self._beginning.startswith(b'{"id":'):
                message = (
                    f"zolder-san at {self._peer} and zolder {__version__} here do not understand each other"
                    f" ({err.message}): upgrade the older of the two."
                )
                raise VersionMismatch(message) from err
            raise self._explain_garbage() from err
        if welcome.protocol not in PROTOCOLS:
            raise VersionMismatch(explain_version(self._peer, welcome.version))
        return welcome

    def _explain_garbage(self) -> ConnectDenied:
        return explain_garbage(self._peer, self._beginning, self._child.stderr_tail)


def value_of(reply: Answer | Failure) -> Json:
    """Return the value of an answer.

    :raises Error: it is none.
    """
    if isinstance(reply, Failure):
        raise reply.error
    return reply.value


def _start(route: Route, variables: Mapping[str, str]) -> Child:
    try:
        return Child(route.argv, variables, may_kill=route.is_line)
    except FileNotFoundError as err:
        message = f"The program {route.argv[0]} is not installed on this control node, or not in PATH."
        raise ConnectDenied(message) from err
    except OSError as err:
        message = f"{route.argv[0]} cannot be started on this control node: {err.strerror}."
        raise ConnectFailed(message) from err


def _deadline_ms(deadline: Deadline) -> int:
    left = deadline.remaining_seconds
    told = left - min(_ANSWER_MARGIN_SECONDS, left * _ANSWER_MARGIN_SHARE)
    return min(MAX_DEADLINE_MS, max(1, math.floor(told * 1000)))
