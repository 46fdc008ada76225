"""The block device of a zvol, found and proven by the zvol's own name, and held open while it is used.

The node (``/dev/zdN``) comes from the kernel as the zvol is created; the ``/dev/zvol`` link comes from udev,
late, and after many creates at once sometimes never. An ioctl on a node's open descriptor answers with the
dataset's name, and only then is a node believed. While the descriptor is open its number cannot come to mean
another zvol, and the zvol cannot be destroyed: close it soon. One thread; nothing is kept between calls.
Source: BLKZNAME in include/sys/fs/zfs.h, zvol_open() and zvol_ioctl() in zvol_os.c of OpenZFS 2.3.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from zolder.errors import BackendError

# _IOR(0x12, 125, char[ZFS_MAX_DATASET_NAME_LEN]), as asm-generic/ioctl.h encodes it (x86, arm, riscv, s390).
_NAME_BYTES: Final = 256
_BLKZNAME: Final = 2 << 30 | _NAME_BYTES << 16 | 0x12 << 8 | 125

# zd0 and zd16 are whole disks, zd0p1 is a partition.
_WHOLE_DISK: Final = re.compile(r"zd[0-9]+", re.ASCII)

_FIRST_PAUSE_SECONDS: Final = 0.002
_LONGEST_PAUSE_SECONDS: Final = 0.1

# To open a zvol keeps it from being destroyed that long, so at first few that may be others' are
# opened: the node of a zvol just made is nearly always the newest.
_FIRST_BREADTH: Final = 4


@dataclass(frozen=True, slots=True)
class ZvolDevice:
    """A zvol's whole disk, open for reading on ``descriptor`` and proven to be that zvol's."""

    path: Path
    descriptor: int


@contextmanager
def open_zvol(dataset: str, *, timeout_seconds: float, dev: Path = Path("/dev")) -> Iterator[ZvolDevice]:
    """Find and hold a zvol's device: by udev's link, else among all nodes, newest first.

    :param dataset: the zvol's whole name.
    :param timeout_seconds: how long to wait for a node that is not there yet; 0 looks once.
    :raises BackendError: no node carried that name in time.
    """
    found = _Search(dataset, dev).wait(timeout_seconds)
    try:
        yield found
    finally:
        os.close(found.descriptor)


def read_zvol_name(descriptor: int) -> str:
    """Return the dataset name of the zvol that is open on a descriptor.

    :raises OSError: it is no zvol (ENOTTY).
    """
    return fcntl.ioctl(descriptor, _BLKZNAME, bytes(_NAME_BYTES)).partition(b"\0")[0].decode()


def find_zvol_name(node: Path) -> str | None:
    """Return the dataset name of the zvol that a node is; None where it is none, or has gone."""
    with suppress(OSError):
        descriptor = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return read_zvol_name(descriptor)
        finally:
            os.close(descriptor)
    return None


class _Search:
    """One search for a zvol's node; a node that was proven to be another zvol's is not opened again."""

    def __init__(self, dataset: str, dev: Path) -> None:
        self._dataset = dataset
        self._dev = dev
        self._inodes_of_others: set[int] = set()
        self._last_error: OSError | None = None

    def wait(self, timeout_seconds: float) -> ZvolDevice:
        """Look again and again, with growing pauses and at more and more nodes, until the time is up."""
        end = time.monotonic() + timeout_seconds
        pause, breadth = _FIRST_PAUSE_SECONDS, _FIRST_BREADTH
        while True:
            found = self._by_link() or self._among_newest(breadth)
            if found:
                return found
            if time.monotonic() + pause > end:
                message = (
                    f"no block device of {self._dataset} came within {timeout_seconds:g} s:"
                    f" is its volmode dev or default, and does {self._dev} show zd* nodes?"
                )
                raise BackendError(message) from self._last_error
            time.sleep(pause)
            pause, breadth = min(pause * 2, _LONGEST_PAUSE_SECONDS), breadth * 2

    def _by_link(self) -> ZvolDevice | None:
        try:
            name = (self._dev / "zvol" / self._dataset).readlink().name
        except OSError as err:
            self._last_error = err  # udev has not come to it, or it is no link
            return None
        return self._open(name) if _WHOLE_DISK.fullmatch(name) else None

    def _among_newest(self, breadth: int) -> ZvolDevice | None:
        unseen = [node for node in _list_nodes(self._dev) if node.inode not in self._inodes_of_others]
        unseen.sort(key=lambda node: node.touched_ns, reverse=True)
        return next((found for node in unseen[:breadth] if (found := self._open(node.name))), None)

    def _open(self, name: str) -> ZvolDevice | None:
        """Open a node and keep it open if it is the zvol's."""
        path = self._dev / name
        with ExitStack() as undo:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                undo.callback(os.close, descriptor)
                carried = read_zvol_name(descriptor)
            except OSError as err:
                # Not there, on its way in or out, or ZFS is busy with another zvol: told when the time is up.
                self._last_error = err
                return None
            if carried != self._dataset:
                self._inodes_of_others.add(os.fstat(descriptor).st_ino)
                return None
            undo.pop_all()
        return ZvolDevice(path, descriptor)


class _Node(NamedTuple):
    name: str
    inode: int
    touched_ns: int  # when the kernel made it, or udev or a writer touched it last


def _list_nodes(dev: Path) -> list[_Node]:
    """Return the whole disks of all zvols; a node made anew has another inode."""
    nodes = []
    with os.scandir(dev) as entries:
        for entry in entries:
            if _WHOLE_DISK.fullmatch(entry.name):
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # its zvol went while we looked
                nodes.append(_Node(entry.name, status.st_ino, status.st_mtime_ns))
    return nodes
