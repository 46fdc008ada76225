"""The pump between two SANs: lines that are lost on either side, failures, and what it keeps in memory."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.memory import random_bytes
from zolder.cinder.imagefile import Progress
from zolder.cinder.pump import pump
from zolder.errors import ConnectionLost, Error, NoSpace, NotFound
from zolder.frames import MAX_DATA_BYTES, Frame, Kind, Sink, Source, Track

COUNT = 60
SIZE = (2 * COUNT + 1) * MAX_DATA_BYTES
DATA = random_bytes(MAX_DATA_BYTES, 5)


class Zvol:
    """What is read from, in frames with a hole behind each, its one buffer used again for each of them."""

    def __init__(self, lost_at: tuple[int, ...] = ()) -> None:
        """Lose the line before some of the frames, once each."""
        self.lost_at = list(lost_at)
        self.read_frames = 0

    def read(self, sink: Sink) -> None:
        """Read as the client does: a line that is lost is taken up again where the sink says."""
        while True:
            try:
                for frame in self._frames(sink.begin()):
                    sink.put(frame)
            except ConnectionLost:
                continue
            return

    def _frames(self, begin: int) -> Iterator[Frame]:
        buffer = bytearray(MAX_DATA_BYTES)
        for number in range(COUNT):
            offset = 2 * number * MAX_DATA_BYTES
            if number in self.lost_at:
                self.lost_at.remove(number)
                message = "the line was lost"
                raise ConnectionLost(message)
            if offset >= begin:
                self.read_frames += 1
                buffer[:] = bytes([number]) + DATA[1:]
                yield Frame(Kind.DATA, offset, memoryview(buffer))
        yield Frame(Kind.HOLE, SIZE - MAX_DATA_BYTES)
        yield Frame(Kind.DONE, SIZE)


class Copy:
    """What is written to: a line says only now and then what lies safe, and loses the rest with itself."""

    def __init__(self, lost_at: tuple[int, ...] = (), *, safe_each: int = 8) -> None:
        """Lose the line before some of the frames that come, once each."""
        self.lost_at = list(lost_at)
        self.safe_each = safe_each
        self.safe: dict[int, bytes] = {}
        self.position = 0
        self.taken = 0

    def write(self, source: Source) -> None:
        """Write as the client does."""
        while True:
            try:
                self._take(source)
            except ConnectionLost:
                continue
            return

    def _take(self, source: Source) -> None:
        unsafe: dict[int, bytes] = {}
        track = Track(SIZE, self.position)
        for frame in source.frames(SIZE):
            track.follow(frame.head)
            self.taken += 1
            if self.taken in self.lost_at:
                message = "the line was lost"
                raise ConnectionLost(message)
            if frame.data:
                unsafe[frame.offset_bytes] = bytes(frame.data)
            if len(unsafe) == self.safe_each or track.is_done:
                self.safe |= unsafe
                unsafe = {}
                self.position = track.position_bytes
                source.acknowledge(self.position)


def carry(read: Callable[[Sink], object], write: Callable[[Source], object]) -> None:
    """Pump, and leave no thread behind whatever happens."""
    before = threading.active_count()
    try:
        pump(read, write, Progress("it", SIZE))
    finally:
        assert threading.active_count() == before


@pytest.mark.parametrize(
    ("reading", "writing"),
    [((), ()), ((0, 31, 59), ()), ((), (1, 5, 40, 61)), ((7, 30), (9, 33, 62))],
    ids=["no line", "lines here", "lines there", "lines on both sides"],
)
def test_lines_that_are_lost(reading: tuple[int, ...], writing: tuple[int, ...]) -> None:
    """All that was read is in the copy, and nothing was read twice."""
    zvol, copy = Zvol(reading), Copy(writing)
    carry(zvol.read, copy.write)
    assert copy.safe == {2 * number * MAX_DATA_BYTES: bytes([number]) + DATA[1:] for number in range(COUNT)}
    assert zvol.read_frames == COUNT
    assert not zvol.lost_at
    assert copy.taken >= COUNT + 2 + len(writing)


def test_the_end_is_sent_again() -> None:
    """Where the line is lost behind the last frame, that frame follows once more."""
    copy, answers = Copy(), iter([ConnectionLost("lost"), None])

    def write(source: Source) -> None:
        for answer in answers:
            copy.write(source)
            if answer is None:
                return

    carry(Zvol().read, write)
    assert copy.position == SIZE
    assert copy.taken == COUNT + 3


def test_reading_waits_for_writing() -> None:
    """No more is read ahead than a few frames."""
    zvol = Zvol()
    ahead = []

    def write(source: Source) -> None:
        for taken, _ in enumerate(source.frames(SIZE), 1):
            ahead.append(zvol.read_frames - taken)

    carry(zvol.read, write)
    assert max(ahead) <= 17


def test_reading_fails() -> None:
    """The writing side ends with its next frame, and the reading side's error is raised."""

    def read(sink: Sink) -> None:
        sink.put(Frame(Kind.DATA, 0, DATA))
        message = "gone"
        raise NotFound(message)

    with pytest.raises(NotFound, match="gone"):
        carry(read, Copy().write)


def test_reading_fails_at_once() -> None:
    """Nothing has come, and nobody waits for it."""

    def read(_: Sink) -> None:
        message = "gone"
        raise NotFound(message)

    with pytest.raises(NotFound, match="gone"):
        carry(read, Copy().write)


@pytest.mark.parametrize("behind", [0, 1, 40])
def test_writing_fails(behind: int) -> None:
    """The reading side ends with its next frame, whether it waits for room or for a new line."""

    def write(source: Source) -> None:
        for taken, _ in enumerate(source.frames(SIZE)):
            if taken == behind:
                message = "no room"
                raise NoSpace(message)

    with pytest.raises(NoSpace, match="no room"):
        carry(Zvol((50,)).read, write)


def test_a_process_that_is_told_to_end() -> None:
    """What ends the caller's thread ends the other, too."""

    def write(source: Source) -> None:
        next(source.frames(SIZE))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry(Zvol().read, write)


def test_a_reader_that_fails_behind_the_end() -> None:
    """A copy whose source would not say that this was all is not taken for whole."""

    def read(sink: Sink) -> None:
        Zvol().read(sink)
        message = "it was written to"
        raise Error(message)

    with pytest.raises(Error, match="written to"):
        carry(read, Copy().write)


def test_under_eventlet() -> None:
    """Both sides are green threads there, and others have their turns meanwhile."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.green_pump"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.stdout == "True True", done.stderr
