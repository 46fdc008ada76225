from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.support.waiting import wait_until
from zolder.errors import RemoteProtocolError
from zolder.san.channel import Channel
from zolder.wire import MAX_REQUEST_BYTES, Answer, Notice, decode_reply

SHORT = 0.1
# Longer than any test may last, so that the limit that is not meant is never the one that ends it.
LONG = 60.0
# More than a pipe ever holds here.
LARGE = Answer(1, ["x" * 4000] * 500)


class Ends:
    """The four ends of two pipes."""

    def __init__(self) -> None:
        """Open both."""
        self.incoming, self.to_agent = os.pipe()
        self.from_agent, self.outgoing = os.pipe()
        self._open = {self.incoming, self.to_agent, self.from_agent, self.outgoing}

    def channel(
        self, *, hello_seconds: float = LONG, line_seconds: float = LONG, write_seconds: float = LONG
    ) -> Channel:
        """Return the agent's end."""
        return Channel(
            self.incoming,
            self.outgoing,
            hello_seconds=hello_seconds,
            line_seconds=line_seconds,
            write_seconds=write_seconds,
        )

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        os.write(self.to_agent, data)

    def fill(self) -> None:
        """Leave no room for a single byte more on the way to the client."""
        os.set_blocking(self.outgoing, False)
        for size in (65536, 1):
            with suppress(BlockingIOError):
                while os.write(self.outgoing, b"x" * size):
                    pass
        os.set_blocking(self.outgoing, True)

    def close(self, *descriptors: int) -> None:
        """Close some of the ends once; without any, the client's."""
        for descriptor in descriptors or (self.to_agent, self.from_agent):
            if descriptor in self._open:
                self._open.remove(descriptor)
                os.close(descriptor)


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Two pipes."""
    opened = Ends()
    yield opened
    opened.close(opened.incoming, opened.outgoing, opened.to_agent, opened.from_agent)


@pytest.fixture
def meanwhile() -> Iterator[Callable[[Callable[[], None]], None]]:
    """What runs something beside the test, which waits for its end."""
    with ExitStack() as undo:

        def begin(work: Callable[[], None]) -> None:
            thread = threading.Thread(target=work)
            thread.start()
            undo.callback(thread.join, 10)

        yield begin


@pytest.mark.parametrize("beginning", [b"", b"{", b"x" * 1000])
def test_no_hello_in_time(ends: Ends, beginning: bytes) -> None:
    """A first line that is not whole in time is refused, whether it has begun or not."""
    channel = ends.channel(hello_seconds=SHORT)
    ends.send(beginning)
    began = time.monotonic()
    with pytest.raises(RemoteProtocolError, match="no whole request came in time"):
        channel.read_line()
    assert SHORT / 2 < time.monotonic() - began < 5


def test_the_hello_in_time(ends: Ends) -> None:
    """The limit of the first line is over with it: a channel that has nothing to say is left alone."""
    channel = ends.channel(hello_seconds=SHORT, line_seconds=SHORT)
    ends.send(b"hello\n")
    assert channel.read_line() == b"hello\n"
    time.sleep(2 * SHORT)
    ends.send(b"next\n")
    assert channel.read_line() == b"next\n"


@pytest.mark.parametrize("line", [b"hello\nbegun", b"hello\nnext\nbegun"])
def test_a_line_that_does_not_end(ends: Ends, line: bytes) -> None:
    """What is whole is read, and what begins behind it and does not end in time is refused."""
    channel = ends.channel(line_seconds=SHORT)
    ends.send(line)
    for _ in range(line.count(b"\n")):
        assert channel.read_line() is not None
    with pytest.raises(RemoteProtocolError, match="in time"):
        channel.read_line()


def test_a_line_that_trickles(ends: Ends, meanwhile: Callable[[Callable[[], None]], None]) -> None:
    """A line's time runs from its first byte: more bytes buy no more time."""
    channel = ends.channel(line_seconds=SHORT)
    ends.send(b"hello\n")
    assert channel.read_line() == b"hello\n"
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(SHORT / 10):
            ends.send(b"x")

    meanwhile(trickle)
    try:
        began = time.monotonic()
        with pytest.raises(RemoteProtocolError, match="in time"):
            channel.read_line()
        assert time.monotonic() - began < 5
    finally:
        stop.set()


def test_each_line_has_its_own_time(ends: Ends) -> None:
    """A line that begins in the same read as another ends has the whole time for itself."""
    channel = ends.channel(hello_seconds=SHORT, line_seconds=LONG)
    ends.send(b"hello\nbe")
    assert channel.read_line() == b"hello\n"
    time.sleep(2 * SHORT)
    ends.send(b"gun\n")
    assert channel.read_line() == b"begun\n"


def test_pipelined(ends: Ends) -> None:
    """Lines that come at once are read one by one, and then comes the end."""
    channel = ends.channel()
    ends.send(b"".join(b"%d\n" % number for number in range(100)) + b"half")
    ends.close(ends.to_agent)
    assert [channel.read_line() for _ in range(100)] == [b"%d\n" % number for number in range(100)]
    assert [channel.read_line(), channel.read_line()] == [None, None]


def test_a_line_in_pieces(ends: Ends, meanwhile: Callable[[Callable[[], None]], None]) -> None:
    """A line that comes byte by byte is the same line."""
    channel = ends.channel()

    def send() -> None:
        for byte in b"hello\nnext\n":
            ends.send(bytes([byte]))

    meanwhile(send)
    assert [channel.read_line(), channel.read_line()] == [b"hello\n", b"next\n"]


def test_a_close_in_the_middle(ends: Ends) -> None:
    """A client that goes in the middle of a line has asked nothing."""
    channel = ends.channel()
    ends.send(b'{"id":1,')
    ends.close()
    assert channel.read_line() is None


def test_a_close_while_waiting(ends: Ends, meanwhile: Callable[[Callable[[], None]], None]) -> None:
    """A client that goes while nothing is asked ends the wait."""
    channel = ends.channel()
    meanwhile(ends.close)
    assert channel.read_line() is None


def test_a_line_too_long(ends: Ends, meanwhile: Callable[[Callable[[], None]], None]) -> None:
    """A line beyond the limit is refused as soon as it is, whether it ends or not."""
    channel = ends.channel()

    def send() -> None:
        with suppress(BrokenPipeError):
            for _ in range(MAX_REQUEST_BYTES // 4096 + 64):
                ends.send(b"x" * 4096)

    meanwhile(send)
    with pytest.raises(RemoteProtocolError, match=f"longer than {MAX_REQUEST_BYTES} bytes"):
        channel.read_line()
    ends.close(ends.incoming)


def test_peer_is_there(ends: Ends) -> None:
    """The client is there for as long as its end is open, whatever it has sent."""
    channel = ends.channel()
    assert channel.peer_is_there()
    ends.send(b"hel")
    assert channel.peer_is_there()
    ends.close(ends.to_agent)
    assert not channel.peer_is_there()
    assert channel.read_line() is None


def test_looking_loses_nothing(ends: Ends) -> None:
    """What came in while somebody looked is read afterwards, and the end behind it, too."""
    channel = ends.channel()
    ends.send(b"hello\nnext\n")
    assert channel.peer_is_there()
    ends.close()
    assert [channel.read_line(), channel.read_line(), channel.read_line()] == [b"hello\n", b"next\n", None]
    assert not channel.peer_is_there()


def test_a_client_that_does_not_read(ends: Ends) -> None:
    """An answer that the client leaves unread for too long is given up."""
    channel = ends.channel(write_seconds=SHORT)
    began = time.monotonic()
    with pytest.raises(BrokenPipeError, match="does not read"):
        channel.write(LARGE)
    assert SHORT / 2 < time.monotonic() - began < 5


def test_a_client_that_reads_slowly(ends: Ends, meanwhile: Callable[[Callable[[], None]], None]) -> None:
    """An answer larger than the pipe arrives whole at whoever goes on reading."""
    channel = ends.channel(write_seconds=5)
    got = bytearray()

    def read() -> None:
        while not got.endswith(b"\n"):
            got.extend(os.read(ends.from_agent, 3000))

    meanwhile(read)
    channel.write(LARGE)
    wait_until(lambda: got.endswith(b"\n"), 5, "all has been read")
    assert decode_reply(bytes(got)) == LARGE


def test_a_client_that_has_gone(ends: Ends) -> None:
    """An answer to nobody is a broken pipe, at once."""
    channel = ends.channel()
    ends.close()
    with pytest.raises(BrokenPipeError):
        channel.write(Answer(1, None))


def test_a_notice(ends: Ends) -> None:
    """A notice goes out where there is room for it."""
    notice = Notice(1, "waiting for another operation")
    ends.channel().write_if_ready(notice)
    assert decode_reply(os.read(ends.from_agent, 65536)) == notice


def test_a_notice_never_waits(ends: Ends) -> None:
    """A notice for which there is no room, or that could be cut in two, is left out."""
    channel = ends.channel()
    channel.write_if_ready(Notice(1, "x" * 4096))
    ends.fill()
    before = time.monotonic()
    channel.write_if_ready(Notice(1, "waiting"))
    assert time.monotonic() - before < 1
    assert set(os.read(ends.from_agent, 2**20)) == {ord("x")}


def test_a_notice_to_nobody(ends: Ends) -> None:
    """A notice to a client that has gone is no fault of the operation: the next look says that it has."""
    channel = ends.channel()
    ends.close()
    channel.write_if_ready(Notice(1, "waiting"))
    assert not channel.peer_is_there()
