"""One request's lifetime on the SAN: its id, its deadline and whether anybody still waits for it.

After taking its locks and before it acts, an operation looks again: an orphan must never act late on a
volume that has moved on (docs/design.md, 5). One thread; lives for one request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from zolder.errors import ConnectionLost, DeadlineExceeded
from zolder.names import OperationId

if TYPE_CHECKING:
    from zolder.san.requestline import RequestLine

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.005
LONGEST_PAUSE_SECONDS = 0.25


class Operation:
    """A request under way."""

    def __init__(
        self,
        operation_id: OperationId,
        *,
        seconds: float,
        peer_is_there: Callable[[], bool],
        notify: Callable[[str], None],
        line: RequestLine | None = None,
    ) -> None:
        """Start its clock.

        :param seconds: from now until the deadline.
        :param peer_is_there: whether the client's end of the channel is still open.
        :param notify: sends the client a sentence for its log.
        :param line: what else than frames may go over the channel.
        """
        self.id = operation_id
        self._deadline = time.monotonic() + seconds
        self._peer_is_there = peer_is_there
        self.notify = notify
        self._line = line

    @property
    def line(self) -> RequestLine:
        """The channel, for contents and descriptors."""
        if self._line is None:
            raise AssertionError  # only what comes over a channel is carried over one
        return self._line

    def require_listener(self) -> None:
        """Make sure, in the middle of what takes long, that the client is still there.

        :raises ConnectionLost: it is not, or this process is told to end.
        """
        if self._line is not None:
            self._line.require_listener()

    @property
    def remaining_seconds(self) -> float:
        """The time until the deadline; negative behind it."""
        return self._deadline - time.monotonic()

    def allow(self, seconds: float) -> None:
        """Have the deadline come that late at least: what takes long is done, and its end is left."""
        self._deadline = max(self._deadline, time.monotonic() + seconds)

    @contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        """Have the deadline come that soon for a block, as for one part of many; later never."""
        whole = self._deadline
        self._deadline = min(whole, time.monotonic() + seconds)
        try:
            yield
        finally:
            self._deadline = whole

    @contextmanager
    def unheard(self, seconds: float) -> Iterator[None]:
        """Have a block go on for that long although nobody may wait for it any more.

        For what is right whoever has asked, at whatever time, and is asked for by nobody again.
        """
        deadline, peer_is_there = self._deadline, self._peer_is_there
        self._deadline = max(deadline, time.monotonic() + seconds)
        self._peer_is_there = lambda: True
        try:
            yield
        finally:
            self._deadline, self._peer_is_there = deadline, peer_is_there

    def check(self) -> None:
        """Make sure that acting now still makes sense.

        :raises DeadlineExceeded: the client has given up by now.
        :raises ConnectionLost: the client's end of the channel is closed.
        """
        if self.remaining_seconds <= 0:
            message = "the deadline passed before the SAN could begin"
            raise DeadlineExceeded(message)
        if not self._peer_is_there():
            message = "the client went away before the SAN could begin"
            raise ConnectionLost(message)

    def wait_for(self, attempt: Callable[[], T | None], *, seconds: float, announce: str) -> T | None:
        """Repeat ``attempt`` with growing pauses until it returns something other than None.

        :param seconds: the longest wait; the deadline may cut it shorter.
        :param announce: told to the client once, when the first attempt was in vain.
        :return: what the attempt returned, or None when time ran out.
        """
        end = time.monotonic() + min(seconds, max(self.remaining_seconds, 0))
        pause = FIRST_PAUSE_SECONDS
        announced = False
        while (outcome := attempt()) is None:
            if time.monotonic() >= end:
                return None
            if not announced and pause > LONGEST_PAUSE_SECONDS / 4:
                self.notify(announce)
                announced = True
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            self.check()
        return outcome
