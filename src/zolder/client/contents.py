"""Contents of zvols, and moves of them, over connections of their own, taken up where a line was lost.

Never over one of the pool's channels: an image takes minutes, and requests shall not wait for it. Each wait
is for the next sign of life, not for the whole, which may take hours. What is sent waits for the pipe, so
nothing piles up on either side. Safe between threads; under eventlet all waits are green.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from zolder import shapes
from zolder.api import MAX_VOLSIZE_BYTES, ContentsRequests, Storage
from zolder.client.channel import Channel, Route, new_operation, value_of
from zolder.client.deadline import Deadline
from zolder.client.diagnosis import ConnectDenied
from zolder.errors import ConnectFailed, ConnectionLost, InvalidRequest, RemoteProtocolError
from zolder.frames import (
    HEAD_BYTES,
    Frame,
    Kind,
    Sink,
    Source,
    Track,
    decode_head,
    encode_head,
)
from zolder.model import Change, Zvol
from zolder.names import DatasetName, OperationId, VolumeId, ZvolName
from zolder.wire import Answer, Failure, Progress

T = TypeVar("T")
LOG = logging.getLogger(__name__)

# A line that is lost so often without having carried anything further is cut by what the operation does.
_MAX_LOSSES: Final = 5
# Before a lost line is taken up again, and once more for each in a row that carried nothing.
_PAUSE_SECONDS: Final = 1.0
_OPEN_SECONDS: Final = 45.0
# Longer than the agent itself waits for contents, and than a sync or a clearing may take between two words.
_SILENCE_SECONDS: Final = 180.0
# How a line begins, and no frame.
_LINE_BEGINS: Final = b"{"


class Carrier:
    """The way that contents go to and from one SAN."""

    def __init__(self, route: Route, *, deadline_seconds: float, most: int) -> None:
        """Open nothing yet.

        :param deadline_seconds: for which the zvol, which another operation may have, is waited for.
        :param most: so many at once; the next wait for one to end.
        """
        self._route = route
        self._deadline_seconds = deadline_seconds
        self._free = threading.BoundedSemaphore(most)

    def write_zvol(self, parent: DatasetName, zvol: ZvolName, source: Source) -> Change[None]:
        """See ``zolder.api.Contents``."""
        safe = _Safe(source)
        operation = new_operation()

        def attempt() -> Change[None]:
            with self._asked(operation, "write_zvol", parent, zvol, resumed=safe.has_begun) as channel:
                value = _send(channel, safe, self._first_patience())
            return _checked(ContentsRequests.write_zvol, value)

        return self._insist(attempt, lambda: safe.safe_bytes, f"write_zvol of {zvol}, operation {operation}")

    def read_zvol(self, parent: DatasetName, zvol: ZvolName, sink: Sink) -> int:
        """See ``zolder.api.Contents``."""
        operation = new_operation()

        def attempt() -> int:
            with self._asked(operation, "read_zvol", parent, zvol) as channel:
                value = _receive(channel, sink, self._first_patience())
            return _checked(ContentsRequests.read_zvol, value)

        return self._insist(attempt, sink.begin, f"read_zvol of {zvol}, operation {operation}")

    def move_zvol(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        *,
        to: DatasetName,
        name: ZvolName,
        volume_id: VolumeId,
        former: VolumeId | None = None,
    ) -> Change[Zvol]:
        """See ``zolder.api.Storage``: no contents go over the line, but it may take as long as theirs do.

        Each word of the agent's says that it has come further.
        """
        operation, words = new_operation(), 0
        asked = {"to": to, "name": name, "volume_id": volume_id, "former": former}
        more = {key: shapes.encode(value) for key, value in asked.items()}

        def heard() -> Deadline:
            nonlocal words
            words += 1
            return _patience()

        def attempt() -> Change[Zvol]:
            with self._asked(operation, "move_zvol", parent, zvol, **more) as channel:
                reply = channel.hear(self._first_patience(), heard)
            if isinstance(reply, Progress):
                message = "the agent asked for contents where it was to move a zvol"
                raise RemoteProtocolError(message)
            return _checked(Storage.move_zvol, value_of(reply))

        return self._insist(attempt, lambda: words, f"move_zvol of {zvol}, operation {operation}")

    def _first_patience(self) -> Deadline:
        # The agent may wait for the zvol as long as that, and says so once.
        return Deadline.after(max(self._deadline_seconds, _SILENCE_SECONDS))

    def _insist(self, attempt: Callable[[], T], position: Callable[[], int], what: str) -> T:
        """Repeat an attempt whose line was lost, for as long as each carries contents further."""
        with self._free:
            losses, reached = 0, position()
            while True:
                try:
                    return attempt()
                except ConnectDenied:
                    raise
                except (ConnectionLost, ConnectFailed) as err:
                    losses = losses + 1 if position() == reached else 1
                    reached = position()
                    if losses == _MAX_LOSSES:
                        raise
                    lost = err.message
                # Outside the handler: oslo.log would print the error behind the line once more.
                LOG.warning("%s Going on at %d bytes: %s.", lost, reached, what)
                time.sleep(_PAUSE_SECONDS * losses)

    @contextmanager
    def _asked(
        self, operation: OperationId, method: str, parent: DatasetName, zvol: ZvolName, **more: shapes.Json
    ) -> Iterator[Channel]:
        """Open a connection of its own and ask; what is not at its end with the block is cut."""
        channel = Channel.open(self._route, Deadline.after(_OPEN_SECONDS))
        try:
            params: dict[str, shapes.Json] = {"parent": str(parent), "zvol": str(zvol), **more}
            channel.ask(method, operation, params, Deadline.after(self._deadline_seconds))
            yield channel
        finally:
            channel.close()


class _Safe:
    """A source, and how far the zvol has it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.has_begun = False
        self.safe_bytes = 0

    def hear(self, channel: Channel) -> Answer | Failure:
        """Take note of what lies safe, until the last word."""
        while isinstance(reply := channel.hear(_patience(), _patience), Progress):
            self.heed(reply)
        return reply

    def heed(self, reply: Progress) -> None:
        """Take note of what lies safe."""
        if self.has_begun and reply.safe_bytes > self.safe_bytes:
            self.safe_bytes = reply.safe_bytes
            self._source.acknowledge(reply.safe_bytes)
        self.has_begun = True

    def frames(self) -> Iterator[Frame]:
        """Yield the frames that are not safe yet."""
        return self._source.frames(MAX_VOLSIZE_BYTES)


def _send(channel: Channel, safe: _Safe, first: Deadline) -> shapes.Json:
    reply = channel.hear(first, _patience)
    if not isinstance(reply, Progress):
        return value_of(reply)  # refused, or written by this operation before
    safe.heed(reply)
    for frame in safe.frames():
        try:
            channel.send_contents(encode_head(frame.head), _patience())
            channel.send_contents(frame.data, _patience())
        except ConnectionLost:
            break  # an agent that gave up is gone, and what it said is heard below
        while channel.has_words():
            early = channel.hear(_patience())
            if not isinstance(early, Progress):
                return value_of(early)
            safe.heed(early)
    return value_of(safe.hear(channel))


def _receive(channel: Channel, sink: Sink, first: Deadline) -> shapes.Json:
    reply = channel.hear(first, _patience)
    if not isinstance(reply, Progress):
        return value_of(reply)
    if channel.has_more:
        message = "the agent sent contents before it was told where to begin"
        raise RemoteProtocolError(message)
    track = Track(MAX_VOLSIZE_BYTES, sink.begin())
    channel.send_contents(encode_head(Frame(Kind.HOLE, track.position_bytes).head), _patience())
    incoming = _Incoming(channel)
    while not track.is_done:
        raw = incoming.take(HEAD_BYTES, whole_unless=_LINE_BEGINS)
        if raw.startswith(_LINE_BEGINS):
            channel.give_back(raw)
            break
        head = decode_head(raw)
        track.follow(head)
        sink.put(Frame(head.kind, head.offset_bytes, incoming.take(head.length_bytes)))
    channel.give_back(incoming.rest)
    last = channel.hear(_patience())
    if isinstance(last, Progress) or (isinstance(last, Answer) and not track.is_done):
        message = "the agent ended contents without their last frame"
        raise RemoteProtocolError(message)
    return value_of(last)


class _Incoming:
    """What came and has not been taken yet: at most one frame and one read."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._buffer = bytearray()

    @property
    def rest(self) -> bytes:
        """What came behind the last that was taken."""
        return bytes(self._buffer)

    def take(self, length: int, *, whole_unless: bytes | None = None) -> bytes:
        """Return so many bytes; less only where they begin with a certain one."""
        while len(self._buffer) < length:
            if whole_unless and self._buffer.startswith(whole_unless):
                length = len(self._buffer)
                break
            self._buffer += self._channel.receive_contents(_patience())
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken


def _patience() -> Deadline:
    return Deadline.after(_SILENCE_SECONDS)


def _checked(method: Callable[..., T], value: shapes.Json) -> T:
    try:
        result: T = shapes.result(method)(value)
    except InvalidRequest as err:
        message = f"the agent answered {method.__name__} with {err.message}"
        raise RemoteProtocolError(message) from err
    return result
