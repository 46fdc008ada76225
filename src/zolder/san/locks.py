"""Locks between all agents of this SAN, by name, gone with the process that holds them.

One file serves any number of locks: each name is one byte of it, locked through an open file description
(fcntl(2) ``F_OFD_SETLK``), so nothing grows, nothing is left behind and no lock outlives its holder.
Two names that share a byte only wait for each other needlessly. An operation takes all its locks at once, in
one order for everybody, so no two can wait for each other; the one without a name comes behind all others.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from zolder.errors import Busy
from zolder.san.operation import Operation

# struct flock on 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid (0 for OFD locks).
_FLOCK: Final = struct.Struct("hhqqi4x")


class Locks:
    """The named locks of one SAN."""

    def __init__(self, file: Path) -> None:
        """Use (and make) the file that all who are to wait for each other share."""
        self._file = file

    @contextmanager
    def hold(self, operation: Operation, *names: str) -> Iterator[None]:
        """Hold the locks of ``names`` for the block; look again whether the operation is still wanted.

        :raises Busy: another operation held one until the deadline.
        :raises DeadlineExceeded, ConnectionLost: nobody waits for this operation any more.
        """
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            for offset, name in sorted({_byte_of(name): name for name in names}.items()):
                self._take(descriptor, offset, name, operation)
            operation.check()
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def hold_briefly(self) -> Iterator[None]:
        """Hold the one lock without a name, for a block that waits for nothing: the wait for it has no bound.

        Locks of flock(2) and of fcntl(2) do not see each other, so it may be taken while names are held.
        """
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @staticmethod
    def _take(descriptor: int, offset: int, name: str, operation: Operation) -> None:
        taken = operation.wait_for(
            lambda: try_lock(descriptor, offset),
            seconds=operation.remaining_seconds,
            announce=f"waiting for another operation on {name}",
        )
        if taken is None:
            message = f"another operation on {name} did not end in time"
            raise Busy(message, holders=["another operation of Zolder"])


def _byte_of(name: str) -> int:
    return zlib.crc32(name.encode())


def try_lock(descriptor: int, offset: int) -> bool | None:
    """Lock one byte of an open file; None where another holds it. Closing the descriptor lets go."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _one_byte(offset))
    except (BlockingIOError, PermissionError):
        return None
    return True


def _one_byte(offset: int) -> bytes:
    return _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
