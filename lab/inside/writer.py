"""Writes to a disk for as long as it is told to, and says afterwards whether every byte is there.

Runs as root in the compute guest and imports the standard library alone. Each block's content follows from
its place and its turn, each is on stable storage before the next is written (O_DIRECT, O_DSYNC), and only
what was acknowledged counts. One writer at a time; answers are given while it writes.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
import time
from pathlib import Path
from typing import Any

BLOCK_BYTES = 64 * 1024
# Past the page cache, which might know better than the disk.
DIRECT = os.O_DIRECT


class Writer:
    """Goes round and round over the first blocks of a disk, in a thread of its own."""

    def __init__(self, device: str, blocks: int) -> None:
        """Begin."""
        self.device = device
        self.blocks = blocks
        self.written = 0
        self.error = ""
        self.longest_seconds = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Let it finish the block at hand.

        :raises TimeoutError: it did not in that time.
        """
        self._stop.set()
        self._thread.join(seconds)
        if self._thread.is_alive():
            message = f"a write to {self.device} hangs for more than {seconds} s"
            raise TimeoutError(message)

    def _write(self) -> None:
        try:
            descriptor = os.open(self.device, os.O_WRONLY | DIRECT | os.O_DSYNC)
            try:
                # O_DIRECT wants memory that begins at a page: open(2).
                with mmap.mmap(-1, BLOCK_BYTES) as buffer:
                    while not self._stop.is_set():
                        self._write_one(descriptor, buffer)
            finally:
                os.close(descriptor)
        except OSError as err:
            self.error = str(err)

    def _write_one(self, descriptor: int, buffer: mmap.mmap) -> None:
        place, turn = self.written % self.blocks, self.written // self.blocks
        buffer[:] = content(place, turn)
        began = time.monotonic()
        if os.pwrite(descriptor, buffer, place * BLOCK_BYTES) != BLOCK_BYTES:
            message = "a block was written in part"
            raise OSError(message)
        self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
        self.written += 1


def content(place: int, turn: int) -> bytes:
    """Return a block that is like no other and does not compress."""
    return hashlib.shake_128(f"{place} {turn}".encode()).digest(BLOCK_BYTES)


_writers: list[Writer] = []


def start(device: str, blocks: int = 128) -> None:
    """Begin to write."""
    _writers[:] = [Writer(device, blocks)]


def progress() -> dict[str, Any]:
    """Return how many blocks were acknowledged, the first error, and how long the slowest took."""
    (writer,) = _writers
    return {
        "written": writer.written,
        "error": writer.error,
        "longest_seconds": round(writer.longest_seconds, 3),
    }


def stop(seconds: float = 60) -> dict[str, Any]:
    """End it, and return what `progress` does."""
    (writer,) = _writers
    writer.stop(seconds)
    return progress()


def count_wrong(device: str | None = None) -> int:
    """Return how many of the places that were written do not hold what was acknowledged last.

    :param device: where the disk is now; None for where it was written.
    """
    (writer,) = _writers
    device, wrong = device or writer.device, 0
    descriptor = os.open(device, os.O_RDONLY | DIRECT)
    with mmap.mmap(-1, BLOCK_BYTES) as buffer:
        for place in range(min(writer.written, writer.blocks)):
            turn = (writer.written - 1 - place) // writer.blocks
            os.preadv(descriptor, [buffer], place * BLOCK_BYTES)
            wrong += buffer[:] not in acceptable(writer, place, turn)
    os.close(descriptor)
    return wrong


def acceptable(writer: Writer, place: int, turn: int) -> tuple[bytes, ...]:
    """Return what a place may hold: a write that failed may have arrived all the same."""
    last = content(place, turn)
    if writer.error and place == writer.written % writer.blocks:
        return (last, content(place, turn + 1))
    return (last,)


def sum_of(device: str, count: int) -> str:
    """Return the checksum of a disk's first blocks, read past the page cache."""
    digest = hashlib.sha256()
    descriptor = os.open(device, os.O_RDONLY | DIRECT)
    with mmap.mmap(-1, BLOCK_BYTES) as buffer:
        for place in range(count):
            os.preadv(descriptor, [buffer], place * BLOCK_BYTES)
            digest.update(buffer)
    os.close(descriptor)
    return digest.hexdigest()


def size_of(device: str) -> int:
    """Return a disk's size in bytes, as the kernel has it now."""
    return int(Path("/sys/class/block", Path(device).name, "size").read_text()) * 512


if __name__ == "__main__":
    from answering import answer_all  # type: ignore[import-not-found]  # beside this script in the guest

    answer_all(start, progress, stop, count_wrong, sum_of, size_of)
