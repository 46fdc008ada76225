"""A raw image in a temporary file, as what is written to a zvol and as what a zvol is read into.

Only what the file system has allocated is read (lseek(2), SEEK_DATA), and zeros are left as holes, so an
image costs what is in it. Both know how far they are, so a line that was lost is taken up again; both say so
in the log. One thread.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterator
from typing import Final

from zolder.frames import (
    ALIGNMENT_BYTES,
    LONGEST_SILENCE_BYTES,
    MAX_DATA_BYTES,
    Frame,
    Kind,
    Sink,
    Source,
)

LOG = logging.getLogger(__name__)

# A line in the log at each such part of the whole, and no more often than that.
_PARTS: Final = 10
_LEAST_SECONDS: Final = 5.0
_MIB: Final = 2**20


class Progress:
    """Says in the log how far contents have come."""

    def __init__(
        self, what: str, whole_bytes: int, *, parts: int = _PARTS, least_seconds: float | None = None
    ) -> None:
        """Begin.

        :param what: begins each line, such as ``Image x to volume y``.
        :param parts: a line at each such part of the whole, and no more often than ``least_seconds``.
        """
        self._what = what
        self._parts = parts
        self._least_seconds = _LEAST_SECONDS if least_seconds is None else least_seconds
        self._whole = max(whole_bytes, 1)
        self._told_part = 0
        self._told_at = self._began = time.monotonic()

    def reach(self, offset_bytes: int, carried_bytes: int) -> None:
        """Take note of an offset, and of how much was carried for it."""
        part, now = offset_bytes * self._parts // self._whole, time.monotonic()
        if part > self._told_part and now - self._told_at > self._least_seconds:
            self._told_part, self._told_at = part, now
            self._say(offset_bytes, carried_bytes)

    def end(self, carried_bytes: int) -> None:
        """Say that it is whole."""
        self._say(self._whole, carried_bytes)

    def _say(self, offset_bytes: int, carried_bytes: int) -> None:
        LOG.info(
            "%s: %d %% (%d of %d MiB), %d MiB carried in %.0f s",
            self._what,
            offset_bytes * 100 // self._whole,
            offset_bytes // _MIB,
            self._whole // _MIB,
            carried_bytes // _MIB,
            time.monotonic() - self._began,
        )


class ImageSource(Source):
    """A raw file that is written to a zvol."""

    def __init__(self, descriptor: int, what: str) -> None:
        """Use an open file, which stays the caller's.

        :param what: begins each line in the log.
        """
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._safe = 0
        self._progress = Progress(what, self._size)
        self.carried_bytes = 0

    def frames(self, limit_bytes: int) -> Iterator[Frame]:
        """Yield the data of each extent behind what lies safe, in whole blocks; see ``Source``."""
        position = self._safe
        while (extent := self._extent_from(position)) is not None:
            begin, end = extent
            while begin - position > LONGEST_SILENCE_BYTES:
                position += LONGEST_SILENCE_BYTES
                yield Frame(Kind.HOLE, position)
            for offset in range(begin, end, MAX_DATA_BYTES):
                data = self._read(offset, min(MAX_DATA_BYTES, end - offset))
                self.carried_bytes += len(data)
                yield Frame(Kind.DATA, offset, data)
            position = end
        yield Frame(Kind.DONE, min(_up(self._size), limit_bytes))

    def acknowledge(self, offset_bytes: int) -> None:
        """See ``Source``."""
        self._safe = offset_bytes
        self._progress.reach(offset_bytes, self.carried_bytes)
        if offset_bytes >= self._size:
            self._progress.end(self.carried_bytes)

    def _extent_from(self, position: int) -> tuple[int, int] | None:
        """Return where the next data begins and ends, in whole blocks; None where all behind is zeros."""
        if position >= self._size:
            return None
        try:
            begin = os.lseek(self._descriptor, position, os.SEEK_DATA)
        except OSError as err:
            if err.errno == errno.ENXIO:
                return None
            raise
        end = os.lseek(self._descriptor, begin, os.SEEK_HOLE)
        # Never before what was yielded: a file system may tell extents by bytes.
        return max(begin - begin % ALIGNMENT_BYTES, position), _up(end)

    def _read(self, offset: int, length: int) -> bytes:
        data = bytearray()
        while len(data) < length and (
            more := os.pread(self._descriptor, length - len(data), offset + len(data))
        ):
            data += more
        # Behind its end an image goes on with zeros: a zvol is of whole blocks.
        return bytes(data.ljust(length, b"\0"))


class ImageSink(Sink):
    """A sparse raw file that a zvol is read into."""

    def __init__(self, descriptor: int, what: str, whole_bytes: int) -> None:
        """Use an open and empty file, which stays the caller's."""
        self._descriptor = descriptor
        self._position = 0
        self._progress = Progress(what, whole_bytes)
        self.carried_bytes = 0

    def begin(self) -> int:
        """See ``Sink``."""
        return self._position

    def put(self, frame: Frame) -> None:
        """Write data where it belongs, and leave the rest as holes."""
        rest, offset = memoryview(frame.data), frame.offset_bytes
        while rest:
            count = os.pwrite(self._descriptor, rest, offset)
            rest, offset = rest[count:], offset + count
        self.carried_bytes += len(frame.data)
        self._position = frame.head.end_bytes
        self._progress.reach(self._position, self.carried_bytes)
        if frame.kind is Kind.DONE:
            os.ftruncate(self._descriptor, self._position)
            self._progress.end(self.carried_bytes)


def _up(length: int) -> int:
    return -(-length // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
