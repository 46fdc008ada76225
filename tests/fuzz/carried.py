"""Fuzz target for contents: frames in both directions, at the agent's end of a channel and at the client's.

The readers, the checks and the writers are the real ones; between them and the bytes is nothing but a file in
memory, or a line that gives them in cuts.
"""

from __future__ import annotations

import os
from typing import Any, Final

from tests.contract.ground import PARENT
from tests.support.memory import MemorySink
from zolder.api import MIB
from zolder.client import contents
from zolder.client.deadline import Deadline
from zolder.errors import ConnectionLost, Error, ProtocolError
from zolder.fake import FakeStorage
from zolder.fake_state import BLOCK_BYTES
from zolder.names import VolumeId, ZvolName
from zolder.san.carrying import CarriedContents
from zolder.san.channel import Channel
from zolder.san.requestline import RequestLine
from zolder.wire import Answer, Failure, LineReader, Progress, decode_reply

_ZVOL: Final = ZvolName("volume-1")
_ID: Final = VolumeId("00000000-0000-4000-8000-000000000001")
_SIZE: Final = 4 * MIB


def check_contents(data: bytes) -> None:
    """Whatever frames say, what is not in order is refused, and nothing lands outside the zvol.

    The first byte says which end reads the rest: the agent's, of a write (``w``) or a read, or the client's.
    """
    if data[:1] == b"c":
        _check_client(data[1:])
    else:
        _check_agent(data[1:], is_write=data[:1] == b"w")


def _check_agent(data: bytes, *, is_write: bool) -> None:
    storage = FakeStorage((PARENT,))
    storage.create_zvol(PARENT, _ZVOL, volume_id=_ID, volsize_bytes=_SIZE, sparse=True)
    incoming, outgoing = os.memfd_create("incoming"), os.memfd_create("outgoing")
    try:
        os.write(incoming, data)
        os.lseek(incoming, 0, os.SEEK_SET)
        carried = CarriedContents(storage, RequestLine(Channel(incoming, outgoing), 1))
        try:
            if is_write:
                carried.write_zvol(PARENT, _ZVOL, resumed=False)
            else:
                carried.read_zvol(PARENT, _ZVOL)
        except (ProtocolError, ConnectionLost):
            pass  # what is no frame, not in order, or cut
        sent = os.lseek(outgoing, 0, os.SEEK_CUR)
        assert sent <= 4096 + len(data), "more is answered than was asked for"
    finally:
        os.close(incoming)
        os.close(outgoing)
    for number, block in storage.read_blocks(f"{PARENT}/{_ZVOL}").items():
        assert 0 <= number < _SIZE // BLOCK_BYTES
        assert len(block) == BLOCK_BYTES


class _Line:
    """A channel at the client's end that gives bytes in cuts of a prime length, and then ends."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._reader = LineReader(2**20)
        self._lines: list[bytes] = []
        self._greeted = False

    def hear(self, *_: object) -> Answer | Failure | Progress:
        if not self._greeted:
            self._greeted = True
            return Progress(1, 0)
        while not self._lines:
            self._lines.extend(self._reader.feed(self.receive_contents(None)))
        reply = decode_reply(self._lines.pop(0))
        if not isinstance(reply, Answer | Failure | Progress):
            raise ConnectionLost("a notice says nothing here")  # noqa: EM101, TRY003 - of a test
        return reply

    has_more = False

    def send_contents(self, data: bytes, _: object) -> None:
        assert len(data) == 16

    def receive_contents(self, _: object) -> bytes:
        cut, self._data = self._data[:1013], self._data[1013:]
        if not cut:
            raise ConnectionLost("cut")  # noqa: EM101 - of a test
        return cut

    def give_back(self, data: bytes) -> None:
        self._lines.extend(self._reader.feed(data))


def _check_client(data: bytes) -> None:
    sink = _Bounded()
    line: Any = _Line(data)
    try:
        contents._receive(line, sink, Deadline.after(1))
    except Error:
        return  # whatever the agent said, or what is no frame


class _Bounded(MemorySink):
    """A sink that holds what it is given to the order that was promised, and keeps nothing."""

    def put(self, frame: Any) -> None:  # noqa: ANN401 - a frame
        assert frame.offset_bytes >= self.position
        assert len(frame.data) <= MIB
        assert frame.offset_bytes % BLOCK_BYTES == 0
        self.position = frame.offset_bytes + len(frame.data)
