"""Writes single blocks of zvols on the SAN, and says what every block of a zvol holds.

Runs as root in the SAN and imports the standard library alone. Past the page cache, so what is read is what
ZFS has, whatever was reverted or renamed since.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import time
from pathlib import Path

BLOCK_BYTES = 4096
CHUNK_BYTES = 1024 * 1024
# _IOR(0x12, 125, char[ZFS_MAX_DATASET_NAME_LEN]) in sys/fs/zfs.h: whose device it is.
NAME_BYTES = 256
BLKZNAME = 2 << 30 | NAME_BYTES << 16 | 0x12 << 8 | 125
# How long udev may take for a link.
LINK_SECONDS = 30.0


def content(text: str) -> bytes:
    """Return a block that follows from a text and does not compress."""
    return hashlib.shake_128(text.encode()).digest(BLOCK_BYTES)


def checksum_of(text: str) -> str:
    """Return what `read` says of a block that was written with a text."""
    return hashlib.sha256(content(text)).hexdigest()


def write(dataset: str, number: int, text: str) -> None:
    """Write one block of a zvol; it is on stable storage when this returns."""
    descriptor = _open(dataset, os.O_WRONLY | os.O_DSYNC)
    try:
        with mmap.mmap(-1, BLOCK_BYTES) as buffer:
            buffer[:] = content(text)
            os.pwrite(descriptor, buffer, number * BLOCK_BYTES)
    finally:
        os.close(descriptor)


def read(dataset: str) -> dict[int, str]:
    """Return the checksum of every block of a zvol that is not all zeros."""
    descriptor = _open(dataset, os.O_RDONLY)
    found = {}
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        with mmap.mmap(-1, CHUNK_BYTES) as buffer:
            for offset in range(0, size, CHUNK_BYTES):
                os.preadv(descriptor, [buffer], offset)
                if any(buffer[:]):
                    for within in range(0, CHUNK_BYTES, BLOCK_BYTES):
                        block = buffer[within : within + BLOCK_BYTES]
                        if any(block):
                            found[(offset + within) // BLOCK_BYTES] = hashlib.sha256(block).hexdigest()
    finally:
        os.close(descriptor)
    return found


def _open(dataset: str, mode: int) -> int:
    """Open a zvol whose link may be on its way, or may still lead to the one that had its name before."""
    end = time.monotonic() + LINK_SECONDS
    while True:
        descriptor, said = -1, ""
        try:
            descriptor = os.open(Path("/dev/zvol", dataset), mode | os.O_DIRECT)
            said = fcntl.ioctl(descriptor, BLKZNAME, bytes(NAME_BYTES)).partition(b"\0")[0].decode()
        except OSError as err:
            said = str(err)
        if said == dataset:
            return descriptor
        if descriptor >= 0:
            os.close(descriptor)
        if time.monotonic() > end:
            message = f"no device of {dataset} came: {said}"
            raise OSError(message)
        time.sleep(0.02)


if __name__ == "__main__":
    from answering import answer_all  # type: ignore[import-not-found]  # beside this script in the guest

    answer_all(write, read)
