"""A zvol's blocks behind an open descriptor: cleared, written and read, one buffer at a time.

The descriptor may have been opened past the page cache, so buffers are whole pages and offsets whole blocks
(zolder.frames holds them to that). What was written lies safe only after a sync. One thread.
Sources: BLKDISCARD and BLKZEROOUT in include/uapi/linux/fs.h; zvol_bio() in zvol_os.c of OpenZFS 2.3, which
frees whole blocks at a discard, so that they read as zeros.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

from zolder.errors import BackendError, NoSpace, RemoteProtocolError
from zolder.frames import LONGEST_SILENCE_BYTES, MAX_DATA_BYTES, Frame, Kind, Sink, Source

_BLKDISCARD: Final = 0x12 << 8 | 119
_BLKZEROOUT: Final = 0x12 << 8 | 127
_RANGE: Final = struct.Struct("QQ")
# So much is cleared between two looks at who waits for it.
_CLEARED_EACH_BYTES: Final = 4 * 2**30
# So much is written between two syncs; what a lost line makes the client send again is no more.
SAFE_EACH_BYTES: Final = 32 * 2**20
# The smallest run of zeros that is left out: less saves nothing.
_GRAIN_BYTES: Final = 64 * 1024


class Blocks:
    """The blocks of one zvol."""

    def __init__(self, descriptor: int, dataset: str, size_bytes: int) -> None:
        """Use a descriptor, which stays the caller's."""
        self._descriptor = descriptor
        self._dataset = dataset
        self._size = size_bytes

    def clear(self, going_on: Callable[[], None]) -> None:
        """Have all read as zeros: freed where the device takes discards, else overwritten.

        :param going_on: called again and again meanwhile; may raise.
        :raises BackendError: it takes neither.
        """
        request = _BLKDISCARD
        position = 0
        while position < self._size:
            length = min(_CLEARED_EACH_BYTES, self._size - position)
            try:
                fcntl.ioctl(self._descriptor, request, _RANGE.pack(position, length))
            except OSError as err:
                if err.errno == errno.EOPNOTSUPP and request == _BLKDISCARD:
                    request = _BLKZEROOUT
                    continue
                self._fail("clear", err)
            position += length
            going_on()

    def write(self, source: Source) -> None:
        """Write what a source has, and tell it how far that lies safe.

        :raises NoSpace: there is no room for it.
        :raises BackendError: the device refuses.
        """
        unsafe = 0
        for frame in source.frames(self._size):
            self._write_frame(frame)
            unsafe += len(frame.data)
            if unsafe >= SAFE_EACH_BYTES or frame.kind is Kind.DONE:
                self._sync()
                unsafe = 0
                source.acknowledge(frame.head.end_bytes)

    def read(self, sink: Sink) -> None:
        """Give all that is not zeros to a sink.

        :raises RemoteProtocolError: it wants to begin behind the end.
        :raises BackendError: the device refuses.
        """
        begin = sink.begin()
        if begin > self._size:
            message = f"{self._dataset} has {self._size} bytes: nothing is at {begin}"
            raise RemoteProtocolError(message)
        told = begin
        for frame in self._frames(begin):
            if frame.kind is Kind.DATA or frame.offset_bytes - told >= LONGEST_SILENCE_BYTES:
                sink.put(frame)
                told = frame.head.end_bytes
        sink.put(Frame(Kind.DONE, self._size))

    def _frames(self, begin: int) -> Iterator[Frame]:
        """Yield the data of each buffer, and behind each how far it goes."""
        # Of whole pages, as O_DIRECT wants it.
        buffer = mmap.mmap(-1, MAX_DATA_BYTES)
        view = memoryview(buffer)
        position = begin
        while position < self._size:
            wanted = min(MAX_DATA_BYTES, self._size - position)
            try:
                count = os.preadv(self._descriptor, [view[:wanted]], position)
            except OSError as err:
                self._fail("read", err)
            if count != wanted:
                message = f"{self._dataset} ended at {position + count} of {self._size} bytes"
                raise BackendError(message)
            for start, end in runs_of_data(buffer, count):
                yield Frame(Kind.DATA, position + start, view[start:end])
            position += count
            yield Frame(Kind.HOLE, position)

    def _write_frame(self, frame: Frame) -> None:
        rest, offset = memoryview(frame.data), frame.offset_bytes
        while rest:
            try:
                count = os.pwritev(self._descriptor, [rest], offset)
            except OSError as err:
                self._fail("write", err)
            rest, offset = rest[count:], offset + count

    def _sync(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as err:
            self._fail("sync", err)

    def _fail(self, what: str, error: OSError) -> NoReturn:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            message = f"{self._dataset} has no room for what is written to it: the zpool or a quota is full"
            raise NoSpace(message) from error
        message = f"the device of {self._dataset} refused to {what}: {error.strerror}"
        raise BackendError(message, errno=error.errno or 0) from error


def runs_of_data(buffer: mmap.mmap, length: int) -> Iterator[tuple[int, int]]:
    """Yield the beginning and the end of each run that is not zeros, in grains, up to a length."""
    begin: int | None = None
    for start in range(0, length, _GRAIN_BYTES):
        end = min(start + _GRAIN_BYTES, length)
        # A slice of an mmap is bytes, which are compared at the speed of memory; a view's items are not.
        if buffer[start:end] == _ZEROS[: end - start]:
            if begin is not None:
                yield begin, start
            begin = None
        elif begin is None:
            begin = start
    if begin is not None:
        yield begin, length


_ZEROS: Final = bytes(_GRAIN_BYTES)
