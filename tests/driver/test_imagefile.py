"""A raw file as a source and as a sink of contents: extents, holes, odd sizes, and going on in the middle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.memory import MemorySink, random_bytes, whole
from zolder.cinder.imagefile import ImageSink, ImageSource
from zolder.frames import (
    ALIGNMENT_BYTES,
    LONGEST_SILENCE_BYTES,
    MAX_DATA_BYTES,
    Frame,
    Kind,
    Track,
    encode_head,
)

KIB = 1024
MIB = 2**20
LIMIT = 8 * MIB


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Yield a descriptor."""
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def make(path: Path, pieces: dict[int, bytes], size: int) -> Path:
    """Make a sparse file."""
    with path.open("wb") as file:
        for begin, data in pieces.items():
            file.seek(begin)
            file.write(data)
        file.truncate(size)
    return path


def carried(source: ImageSource, limit: int = LIMIT) -> MemorySink:
    """Return what a source's frames come to, each held to the order and to what may be sent."""
    sink, track = MemorySink(), Track(limit)
    for frame in source.frames(limit):
        encode_head(frame.head)
        track.follow(frame.head)
        sink.put(frame)
    assert track.is_done
    return sink


@settings(max_examples=40)
@given(
    pieces=st.dictionaries(st.integers(0, 6 * MIB), st.integers(1, 300 * KIB), max_size=5),
    size=st.integers(7 * MIB - 5000, 7 * MIB),
    safe=st.integers(0, 7 * MIB // ALIGNMENT_BYTES),
)
def test_any_file(
    tmp_path_factory: pytest.TempPathFactory, pieces: dict[int, int], size: int, safe: int
) -> None:
    """Whatever is in a file arrives, and of one that was carried in part the rest does."""
    data = {begin: random_bytes(length, begin) for begin, length in pieces.items()}
    path = make(tmp_path_factory.mktemp("image") / "raw", data, size)
    wanted = path.read_bytes().ljust(7 * MIB, b"\0")
    with opened(path) as descriptor:
        source = ImageSource(descriptor, "An image")
        found = carried(source)
        assert bytes(found.contents).ljust(7 * MIB, b"\0") == wanted
        position = safe * ALIGNMENT_BYTES
        source.acknowledge(position)
        rest = carried(source)
        assert bytes(rest.contents).ljust(7 * MIB, b"\0")[position:] == wanted[position:]
        assert rest.data_bytes <= len(wanted) - position


def test_holes_are_not_read(tmp_path: Path) -> None:
    """What is carried is what the file system has allocated, and not the file."""
    path = make(tmp_path / "raw", {4 * MIB: random_bytes(MIB)}, LIMIT)
    with opened(path) as descriptor:
        assert carried(ImageSource(descriptor, "An image")).data_bytes == MIB


@pytest.mark.parametrize("size", [0, 1, 511, 512, 4095, 4096, 4097, MIB - 1, MIB + 1, 3 * MIB + 513])
def test_sizes(tmp_path: Path, size: int) -> None:
    """An image of any size is carried whole, with zeros up to the end of its last block."""
    data = random_bytes(size)
    with opened(make(tmp_path / "raw", {0: data}, size)) as descriptor:
        found = carried(ImageSource(descriptor, "An image"))
    assert bytes(found.contents) == data.ljust(-(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES, b"\0")


def test_long_holes_are_told(tmp_path: Path) -> None:
    """No silence is longer than the agent has patience for."""
    far = 3 * LONGEST_SILENCE_BYTES
    path = make(tmp_path / "raw", {far: b"x"}, far + MIB)
    with opened(path) as descriptor:
        frames = list(ImageSource(descriptor, "An image").frames(2 * far))
    assert [frame.kind for frame in frames] == [Kind.HOLE, Kind.HOLE, Kind.DATA, Kind.DONE]


def test_a_frame_is_bounded(tmp_path: Path) -> None:
    """Whatever is in a file, no more of it is in memory than a frame has."""
    with opened(make(tmp_path / "raw", {0: random_bytes(3 * MIB + 100)}, LIMIT)) as descriptor:
        lengths = [len(frame.data) for frame in ImageSource(descriptor, "An image").frames(LIMIT)]
    assert max(lengths) == MAX_DATA_BYTES


def test_a_sink_is_sparse(tmp_path: Path) -> None:
    """What is read lies where it belongs, the rest are holes, and it knows where it is."""
    path = tmp_path / "raw"
    path.touch()
    piece = random_bytes(64 * KIB)
    with opened(path, os.O_WRONLY) as descriptor:
        sink = ImageSink(descriptor, "A volume", 64 * MIB)
        assert sink.begin() == 0
        sink.put(Frame(Kind.DATA, 32 * MIB, piece))
        assert sink.begin() == 32 * MIB + len(piece)
        sink.put(Frame(Kind.HOLE, 48 * MIB))
        assert sink.begin() == 48 * MIB
        sink.put(Frame(Kind.DONE, 64 * MIB))
    assert path.read_bytes() == whole({32 * MIB: piece}, 64 * MIB)
    assert path.stat().st_blocks * 512 < MIB
