"""The channels to one agent: reused, replaced when broken, never more than a limit.

A channel is handed to one thread for one request. The most recently used goes first, so that the others grow
old and are closed, down to the minimum. Safe between threads, and under eventlet between green ones. There is
no thread of its own: what has to be tidied up is tidied up when a channel comes back.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from zolder.client.channel import Channel, Route
from zolder.client.deadline import Deadline
from zolder.client.diagnosis import ConnectDenied
from zolder.errors import ConnectFailed, DeadlineExceeded
from zolder.names import OperationId
from zolder.shapes import Json
from zolder.wire import Welcome

LOG = logging.getLogger(__name__)

# Before the 2nd, 3rd … attempt to connect; sshd's MaxStartups drops bursts, so the pauses grow and vary.
_PAUSES_SECONDS: Final = (0.2, 0.5, 1.0, 2.0)
_IDLE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Idle:
    channel: Channel
    since: float


class Pool:
    """At most ``max_channels`` channels along one route."""

    def __init__(
        self, route: Route, *, min_channels: int = 1, max_channels: int = 5, open_seconds: float = 45.0
    ) -> None:
        """Remember the limits; the first request opens the first channel.

        :param min_channels: how many idle ones are kept open.
        :param open_seconds: the longest that one attempt to open a channel may take.
        """
        self.route = route
        self._min = min(min_channels, max_channels)
        self._max = max_channels
        self._open_seconds = open_seconds
        self._idle: deque[_Idle] = deque()
        self._count = 0
        self._changed = threading.Condition()
        self.requests = 0
        self.connections = 0

    @property
    def peer(self) -> str:
        """The agent as messages name it."""
        return self.route.peer

    @property
    def max_channels(self) -> int:
        """The most that are open at once."""
        return self._max

    def greet(self, deadline: Deadline) -> Welcome:
        """Return what the agent said of itself on a channel that is open now.

        :raises TransportError: no channel could be had.
        :raises VersionMismatch: the agent is of another protocol.
        """
        with self._channel(deadline) as channel:
            return channel.welcome

    def exchange(
        self, method: str, operation: OperationId, params: dict[str, Json], deadline: Deadline
    ) -> Json:
        """Send one request over any channel and return the value of its answer.

        :raises ConnectFailed: no channel could be opened; nothing was sent.
        :raises DeadlineExceeded: no channel was free in time, or no answer came.
        :raises Error: as Channel.exchange.
        """
        with self._channel(deadline) as channel:
            with self._changed:
                self.requests += 1
            return channel.exchange(method, operation, params, deadline)

    def close(self) -> None:
        """Close all idle channels for good; those in use are closed when they come back."""
        with self._changed:
            self._min = self._max = 0
            idle = self._take_all_idle()
        self._discard(*idle)

    @contextlib.contextmanager
    def _channel(self, deadline: Deadline) -> Iterator[Channel]:
        channel = self._take(deadline)
        try:
            yield channel
        finally:
            self._give_back(channel)

    def _take(self, deadline: Deadline) -> Channel:
        while (channel := self._take_idle(deadline)) is not None:
            if channel.is_usable:
                return channel
            LOG.debug("an idle channel to %s had ended; replacing it", self.peer)
            self._discard(channel)
        try:
            return self._open(deadline)
        except BaseException:
            self._forget(1)
            raise

    def _take_idle(self, deadline: Deadline) -> Channel | None:
        """Return an idle channel, or None after counting one that the caller shall open."""
        with self._changed:
            while not self._idle and self._count >= self._max:
                if self._max == 0:
                    message = f"The pool of channels to {self.peer} is closed."
                    raise ConnectDenied(message)
                if not self._changed.wait(deadline.remaining_seconds) and not deadline.remaining_seconds:
                    message = f"All {self._max} channels to {self.peer} were in use until the deadline."
                    raise DeadlineExceeded(message)
            if self._idle:
                return self._idle.pop().channel
            self._count += 1
            return None

    def _open(self, deadline: Deadline) -> Channel:
        for pause in (*_PAUSES_SECONDS, None):
            try:
                channel = Channel.open(self.route, deadline.sooner(self._open_seconds))
            except ConnectDenied:
                raise
            except ConnectFailed as err:
                if pause is None or deadline.remaining_seconds < 2 * pause:
                    raise
                LOG.debug("%s Trying again.", err.message)
                # No secret depends on this; it keeps many waiting processes from coming back together.
                time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
            else:
                with self._changed:
                    self.connections += 1
                return channel
        raise AssertionError  # the last pause is None, so the loop ends above

    def _give_back(self, channel: Channel) -> None:
        now = time.monotonic()
        usable = channel.is_usable
        with self._changed:
            if not usable:
                # The others may be as dead, without a word yet: no later request shall wait for them.
                old = [channel, *self._take_all_idle()]
            elif self._count > self._max:
                old = [channel]
            else:
                self._idle.append(_Idle(channel, now))
                self._changed.notify()
                old = self._take_aged(now)
        self._discard(*old)

    def _take_all_idle(self) -> list[Channel]:
        idle = [entry.channel for entry in self._idle]
        self._idle.clear()
        return idle

    def _take_aged(self, now: float) -> list[Channel]:
        aged = []
        while len(self._idle) > self._min and now - self._idle[0].since > _IDLE_SECONDS:
            aged.append(self._idle.popleft().channel)
        return aged

    def _discard(self, *channels: Channel) -> None:
        for channel in channels:
            channel.close()
        self._forget(len(channels))

    def _forget(self, count: int) -> None:
        with self._changed:
            self._count -= count
            self._changed.notify(count)
