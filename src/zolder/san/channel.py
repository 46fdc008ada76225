"""Lines to and from one client on two descriptors, with limits of size and time.

A line has a longest size; once its first byte has come the rest must follow within a time, and so must a
client's first line. A client that does not read what it is sent is given up. Between requests a channel may
stay idle for ever: sshd ends one whose client has vanished (ClientAliveInterval). One thread.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from contextlib import suppress
from typing import Final

from zolder.errors import RemoteProtocolError
from zolder.wire import MAX_REQUEST_BYTES, LineReader, Notice, Reply, encode_reply

HELLO_SECONDS: Final = 30.0
LINE_SECONDS: Final = 30.0
WRITE_SECONDS: Final = 60.0

_READ_BYTES: Final = 65536


class Channel:
    """The two descriptors of a channel, and the lines that came in."""

    def __init__(
        self,
        incoming: int,
        outgoing: int,
        *,
        hello_seconds: float = HELLO_SECONDS,
        line_seconds: float = LINE_SECONDS,
        write_seconds: float = WRITE_SECONDS,
    ) -> None:
        """Use two open descriptors; they stay the caller's.

        :param hello_seconds: within which the first line must be whole.
        :param line_seconds: within which a line that has begun must end.
        :param write_seconds: for which a client may leave an answer unread.
        """
        self._incoming = incoming
        self._outgoing = outgoing
        self._reader = LineReader(MAX_REQUEST_BYTES)
        self._lines: deque[bytes] = deque()
        self._readable = select.poll()
        self._readable.register(incoming, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(outgoing, select.POLLOUT)
        self._closed = False
        self._line_seconds = line_seconds
        self._write_seconds = write_seconds
        # When the line that is awaited must be whole; None while none has begun.
        self._due: float | None = time.monotonic() + hello_seconds

    def read_line(self) -> bytes | None:
        """Wait for the next line; None when the client has closed.

        :raises RemoteProtocolError: a line is too long, or does not end in time.
        """
        while not self._lines and not self._closed:
            seconds = None if self._due is None else max(self._due - time.monotonic(), 0)
            if not self._readable.poll(None if seconds is None else seconds * 1000):
                message = "no whole request came in time"
                raise RemoteProtocolError(message)
            self._fill()
        return self._lines.popleft() if self._lines else None

    def peer_is_there(self) -> bool:
        """Whether the client's end is still open, without waiting."""
        while not self._closed and not self._lines and self._readable.poll(0):
            self._fill()
        return not self._closed

    def write(self, reply: Reply) -> None:
        """Send a reply whole.

        :raises BrokenPipeError: the client is gone, or does not read.
        """
        view = memoryview(encode_reply(reply))
        while view:
            if not self._writable.poll(self._write_seconds * 1000):
                message = "the client does not read its answer"
                raise BrokenPipeError(message)
            # So much never blocks on a pipe or socket that can be written to (pipe(7)).
            view = view[os.write(self._outgoing, view[: select.PIPE_BUF]) :]

    def write_if_ready(self, notice: Notice) -> None:
        """Send a notice unless the client is not reading: locks are held meanwhile, so never wait."""
        line = encode_reply(notice)
        if len(line) <= select.PIPE_BUF and any(
            event & select.POLLOUT for _, event in self._writable.poll(0)
        ):
            with suppress(BrokenPipeError):  # `peer_is_there` says it in its turn
                os.write(self._outgoing, line)

    def _fill(self) -> None:
        data = os.read(self._incoming, _READ_BYTES)
        if not data:
            self._closed = True
        whole = list(self._reader.feed(data))
        self._lines.extend(whole)
        if not self._reader.pending:
            self._due = None
        elif whole or self._due is None:
            self._due = time.monotonic() + self._line_seconds
