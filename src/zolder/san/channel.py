"""Lines to and from one client on two descriptors, with limits of size and time.

A line has a longest size; once its first byte has come the rest must follow within a time, and so must a
client's first line. A client that does not read what it is sent is given up. Between requests a channel may
stay idle for ever: sshd ends one whose client has vanished (ClientAliveInterval). One thread.
"""

from __future__ import annotations

import array
import os
import select
import signal
import socket
import time
from collections import deque
from contextlib import suppress
from typing import Final, NoReturn

from zolder.errors import ConnectionLost, RemoteProtocolError
from zolder.wire import MAX_REQUEST_BYTES, LineReader, Notice, Progress, Reply, encode_reply

HELLO_SECONDS: Final = 30.0
LINE_SECONDS: Final = 30.0
WRITE_SECONDS: Final = 60.0
# For which a client may leave contents unsent or unread: what it reads them from may be slow.
CONTENTS_SECONDS: Final = 120.0
# What ends a channel's process, between two requests or between two frames.
ENDING: Final = frozenset((signal.SIGTERM, signal.SIGHUP, signal.SIGINT))

_READ_BYTES: Final = 65536
_LOOK_SECONDS: Final = 0.5


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
        # Between the word that contents may go and their last frame.
        self.carries_contents = False
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
        while not self.carries_contents and not self._closed and not self._lines and self._readable.poll(0):
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

    def write_descriptor(self, notice: Notice, descriptor: int) -> None:
        """Send an open descriptor along with a notice, over a Unix socket (unix(7), SCM_RIGHTS).

        :raises BrokenPipeError: the client is gone.
        """
        with socket.socket(fileno=os.dup(self._outgoing)) as outgoing:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
            outgoing.sendmsg([encode_reply(notice)], [rights])

    def begin_contents(self, progress: Progress) -> None:
        """Tell a client that contents may go; until `end_contents` no line is read.

        :raises RemoteProtocolError: it has sent something behind its request.
        """
        if self._lines or self._reader.pending:
            message = "contents came before they were asked for"
            raise RemoteProtocolError(message)
        self.carries_contents = True
        self.write(progress)

    def end_contents(self) -> None:
        """Read lines again."""
        self.carries_contents = False

    def read_into(self, view: memoryview) -> None:
        """Fill a view with what comes.

        :raises ConnectionLost: the client is gone, or this process is to end.
        :raises RemoteProtocolError: it sends nothing for long.
        """
        while view:
            self._await(self._readable, "sends nothing")
            count = os.readv(self._incoming, [view])
            if not count:
                self._lose()
            view = view[count:]

    def write_contents(self, *parts: bytes | memoryview) -> None:
        """Send bytes.

        :raises ConnectionLost: the client is gone, or this process is to end.
        :raises RemoteProtocolError: it reads nothing for long.
        """
        # A blocking write of so much would wait for its end, however long that takes (pipe(7)).
        os.set_blocking(self._outgoing, False)
        try:
            for part in parts:
                view = memoryview(part)
                while view:
                    self._await(self._writable, "reads nothing")
                    with suppress(BlockingIOError):
                        view = view[os.write(self._outgoing, view) :]
        except BrokenPipeError:
            self._lose()
        finally:
            os.set_blocking(self._outgoing, True)

    def require_listener(self) -> None:
        """Make sure that a client that has nothing to send is still there.

        :raises ConnectionLost: it is gone, or this process is to end.
        :raises RemoteProtocolError: it sent something all the same.
        """
        self._heed_signals()
        if self._readable.poll(0):
            if os.read(self._incoming, 1):
                message = "something came while contents are read"
                raise RemoteProtocolError(message)
            self._lose()

    def _await(self, ready: select.poll, fault: str) -> None:
        end = time.monotonic() + CONTENTS_SECONDS
        while not ready.poll(_LOOK_SECONDS * 1000):
            self._heed_signals()
            if time.monotonic() > end:
                message = f"the client {fault} for {CONTENTS_SECONDS:.0f} s"
                raise RemoteProtocolError(message)
        self._heed_signals()

    @staticmethod
    def _heed_signals() -> None:
        if signal.sigpending() & ENDING:
            message = "this channel's agent is told to end"
            raise ConnectionLost(message)

    def _lose(self) -> NoReturn:
        self._closed = True
        message = "the client went away in the middle of the contents"
        raise ConnectionLost(message)

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
