from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.memory import MemorySink, MemorySource, random_bytes, whole
from zolder.errors import BackendError, ConnectionLost, NoSpace
from zolder.frames import Kind
from zolder.san import blocks
from zolder.san.blocks import Blocks, runs_of_data

MIB = 2**20
SIZE = 8 * MIB
DATASET = "data/volumes/volume-1"
GRAIN = 64 * 1024


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    """A file that stands for a zvol's device, full of data, opened past the page cache as that is."""
    path = tmp_path / "device"
    path.write_bytes(random_bytes(SIZE))
    opened = os.open(path, os.O_RDWR | os.O_DIRECT)
    yield opened
    os.close(opened)


def contents(descriptor: int) -> bytes:
    """Return what is in the file."""
    with open(f"/proc/self/fd/{descriptor}", "rb") as file:  # noqa: PTH123 - no path of its own
        return file.read()


class Aligned(MemorySource):
    """A source whose data lies on whole pages, as that of a channel does."""

    def frames(self, limit_bytes: int):  # type: ignore[no-untyped-def]  # noqa: ANN201 - as the one above
        buffer = mmap.mmap(-1, MIB)
        for frame in super().frames(limit_bytes):
            buffer[: len(frame.data)] = bytes(frame.data)
            yield type(frame)(frame.kind, frame.offset_bytes, memoryview(buffer)[: len(frame.data)])


def test_write(descriptor: int) -> None:
    """Each piece lands where it belongs, and nothing beside it is touched."""
    before = bytearray(contents(descriptor))
    pieces = {4096: random_bytes(2 * MIB, 1), SIZE - 4096: random_bytes(4096, 2)}
    source = Aligned(pieces)
    Blocks(descriptor, DATASET, SIZE).write(source)
    for begin, data in pieces.items():
        before[begin : begin + len(data)] = data
    assert contents(descriptor) == before
    assert source.acknowledged == [SIZE]


def test_what_is_acknowledged_was_synced(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No word that something lies safe comes before the sync behind it, and none is missing at the end."""
    events: list[str] = []
    real = os.fsync

    def sync(number: int) -> None:
        real(number)
        events.append("sync")

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(blocks, "SAFE_EACH_BYTES", 2 * MIB)

    class Noting(Aligned):
        def acknowledge(self, offset_bytes: int) -> None:
            super().acknowledge(offset_bytes)
            events.append(f"safe {offset_bytes // MIB}")

    Blocks(descriptor, DATASET, SIZE).write(Noting({0: random_bytes(5 * MIB)}))
    assert events == ["sync", "safe 2", "sync", "safe 4", "sync", "safe 5"]


def test_read(descriptor: int) -> None:
    """All data comes in order, and zeros do not."""
    pieces = {GRAIN: b"\x01" * 4096, 3 * MIB: random_bytes(MIB + 4096, 3)}
    os.pwrite(descriptor, memoryview(_page_aligned(bytes(SIZE))), 0)
    for begin, data in pieces.items():
        os.pwrite(descriptor, memoryview(_page_aligned(data)), begin)
    sink = MemorySink()
    Blocks(descriptor, DATASET, SIZE).read(sink)
    assert sink.contents == whole(pieces, SIZE)
    assert sink.data_bytes == 2 * GRAIN + MIB


def _page_aligned(data: bytes) -> mmap.mmap:
    buffer = mmap.mmap(-1, len(data))
    buffer[:] = data
    return buffer


def test_long_zeros_are_told(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stretch of zeros says from time to time how far it goes."""
    os.ftruncate(descriptor, 0)
    os.ftruncate(descriptor, SIZE)
    monkeypatch.setattr(blocks, "LONGEST_SILENCE_BYTES", 3 * MIB)
    told = []

    class Noting(MemorySink):
        def put(self, frame) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - as the one above
            told.append((frame.kind, frame.offset_bytes // MIB))

    Blocks(descriptor, DATASET, SIZE).read(Noting())
    assert told == [(Kind.HOLE, 3), (Kind.HOLE, 6), (Kind.DONE, 8)]


@given(st.lists(st.booleans(), min_size=1, max_size=16), st.integers(0, 15))
def test_runs(grains: list[bool], short: int) -> None:
    """The runs are those grains that have a byte in them, and none else."""
    length = len(grains) * GRAIN - short * 4096
    buffer = mmap.mmap(-1, MIB)
    for number, has_data in enumerate(grains):
        if has_data:
            buffer[number * GRAIN] = 1
    runs = list(runs_of_data(buffer, length))
    covered = [any(begin <= number * GRAIN < end for begin, end in runs) for number in range(len(grains))]
    assert covered == grains
    assert all(0 <= begin < end <= length for begin, end in runs)


class Kernel:
    """A device that notes what it is asked to clear, and refuses what it is told to."""

    def __init__(self, refused: dict[int, int]) -> None:
        """Refuse requests with these errors."""
        self._refused = refused
        self.asked: list[tuple[int, int, int]] = []

    def ioctl(self, _: int, request: int, argument: bytes) -> bytes:
        """Be fcntl.ioctl."""
        self.asked.append((request, *struct.unpack("QQ", argument)))
        if request in self._refused:
            raise OSError(self._refused[request], os.strerror(self._refused[request]))
        return argument


DISCARD, ZEROOUT = 0x1277, 0x127F


def test_clear_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a large zvol is discarded, part by part, and who waits is thought of in between."""
    kernel = Kernel({})
    monkeypatch.setattr(fcntl, "ioctl", kernel.ioctl)
    looks = []
    Blocks(0, DATASET, 10 * 2**30).clear(lambda: looks.append(1))
    gib = 2**30
    assert kernel.asked == [(DISCARD, 0, 4 * gib), (DISCARD, 4 * gib, 4 * gib), (DISCARD, 8 * gib, 2 * gib)]
    assert len(looks) == 3


def test_clear_where_nothing_is_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that takes no discards is overwritten with zeros; one that takes neither is not written."""
    kernel = Kernel({DISCARD: errno.EOPNOTSUPP})
    monkeypatch.setattr(fcntl, "ioctl", kernel.ioctl)
    Blocks(0, DATASET, SIZE).clear(lambda: None)
    assert kernel.asked == [(DISCARD, 0, SIZE), (ZEROOUT, 0, SIZE)]
    monkeypatch.setattr(fcntl, "ioctl", Kernel({DISCARD: errno.EOPNOTSUPP, ZEROOUT: errno.EOPNOTSUPP}).ioctl)
    with pytest.raises(BackendError, match="refused to clear"):
        Blocks(0, DATASET, SIZE).clear(lambda: None)


def test_clearing_ends_with_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's zvol is cleared any further."""
    kernel = Kernel({})
    monkeypatch.setattr(fcntl, "ioctl", kernel.ioctl)

    def leave() -> None:
        raise ConnectionLost("gone")  # noqa: EM101 - of a test

    with pytest.raises(ConnectionLost):
        Blocks(0, DATASET, 10 * 2**30).clear(leave)
    assert len(kernel.asked) == 1


def test_a_device_that_ends_early(descriptor: int) -> None:
    """One that is shorter than its zvol is no zero-filled zvol but a fault."""
    os.ftruncate(descriptor, SIZE - 4096)
    with pytest.raises(BackendError, match="ended at"):
        Blocks(descriptor, DATASET, SIZE).read(MemorySink())


def test_no_room(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zpool that is full is told from a device that is broken."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(NoSpace, match="the zpool or a quota is full"):
        Blocks(descriptor, DATASET, SIZE).write(Aligned({0: random_bytes(4096)}))


def test_a_device_that_refuses(tmp_path: Path) -> None:
    """What the kernel says goes into the error, with the zvol's name."""
    path = tmp_path / "device"
    path.write_bytes(bytes(SIZE))
    opened = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(BackendError, match=f"{DATASET} refused to write: Bad file descriptor"):
            Blocks(opened, DATASET, SIZE).write(MemorySource({0: bytes(4096)}))
    finally:
        os.close(opened)
