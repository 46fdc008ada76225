"""Locks between all agents of this SAN, by name, gone with the process that holds them.

One file serves any number of locks: each name is one byte of it, locked through an open file description
(fcntl(2) ``F_OFD_SETLK``), so nothing grows, nothing is left behind and no lock outlives its holder.
Two names that share a byte only wait for each other needlessly. A name that is held for as long as contents
take has a second byte locked: who else wants it is told so at once. An operation takes all its locks at once,
in one order for everybody, so no two can wait for each other; the one without a name comes behind all others.
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
# Behind all bytes that names have.
_HELD_FOR_LONG: Final = 2**32


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
    def hold_for_long(self, operation: Operation, *names: str) -> Iterator[int]:
        """Hold locks for as long as it takes; who wants one meanwhile by `hold` is refused at once.

        Others that want one for long wait: it may be the same operation, whose former line was lost.

        :return: the open file that the locks belong to: a program that inherits it keeps them until it ends.
        :raises Error: as `hold`, but for the deadline, which is that for the beginning.
        """
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            for offset, name in sorted({_byte_of(name): name for name in names}.items()):
                self._take(descriptor, offset, name, operation, patiently=True)
            for name in names:
                try_lock(descriptor, _byte_of(name) + _HELD_FOR_LONG)
            operation.check()
            yield descriptor
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
    def _take(
        descriptor: int, offset: int, name: str, operation: Operation, *, patiently: bool = False
    ) -> None:
        def attempt() -> bool | None:
            taken = try_lock(descriptor, offset)
            if taken is None and not patiently and _is_locked(descriptor, offset + _HELD_FOR_LONG):
                message = (
                    f"{name} is being written to, as from an image, or moved: ask again when that has ended"
                )
                raise Busy(message, holders=["an operation of Zolder that writes or moves it"])
            return taken

        taken = operation.wait_for(
            attempt,
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


def _is_locked(descriptor: int, offset: int) -> bool:
    found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _one_byte(offset))
    return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)


def _one_byte(offset: int) -> bytes:
    return _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
