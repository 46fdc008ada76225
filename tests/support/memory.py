"""Contents in memory: what a test writes to a zvol, and what it reads from one."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from zolder.frames import MAX_DATA_BYTES, Frame, Kind, Sink, Source


class MemorySource(Source):
    """Pieces of data by their offsets."""

    def __init__(self, pieces: Mapping[int, bytes]) -> None:
        """Take pieces that do not overlap."""
        self._pieces = sorted(pieces.items())
        self.acknowledged: list[int] = []
        self.sent_bytes = 0

    def frames(self, limit_bytes: int) -> Iterator[Frame]:
        """See ``Source``."""
        safe = self.acknowledged[-1] if self.acknowledged else 0
        end = 0
        for begin, data in self._pieces:
            for start in range(0, len(data), MAX_DATA_BYTES):
                part = data[start : start + MAX_DATA_BYTES]
                end = begin + start + len(part)
                if end > safe:
                    self.sent_bytes += len(part)
                    yield Frame(Kind.DATA, begin + start, part)
        yield Frame(Kind.DONE, min(end, limit_bytes))

    def acknowledge(self, offset_bytes: int) -> None:
        """See ``Source``."""
        self.acknowledged.append(offset_bytes)


class MemorySink(Sink):
    """A zvol's contents, as far as they have come."""

    def __init__(self, position: int = 0) -> None:
        """Begin at a position."""
        self.position = position
        self.contents = bytearray()
        self.data_bytes = 0

    def begin(self) -> int:
        """See ``Sink``."""
        return self.position

    def put(self, frame: Frame) -> None:
        """See ``Sink``."""
        end = frame.offset_bytes + len(frame.data)
        self.contents.extend(bytes(end - len(self.contents)))
        self.contents[frame.offset_bytes : end] = frame.data
        self.data_bytes += len(frame.data)
        self.position = end


def random_bytes(length: int, seed: int = 7) -> bytes:
    """Return bytes that no compression makes smaller, always the same."""
    return random.Random(seed).randbytes(length)  # noqa: S311 - no secret


def whole(pieces: Mapping[int, bytes], size: int) -> bytes:
    """Return what a zvol of a size has in it with nothing but these pieces."""
    contents = bytearray(size)
    for begin, data in pieces.items():
        contents[begin : begin + len(data)] = data
    return bytes(contents)
