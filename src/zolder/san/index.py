"""The sizes of a parent's zvols, kept beside the locks, so that figures cost no listing.

Listing costs 17 ms for each zvol (docs/design.md, 15); Cinder asks for figures every minute. So each zvol
has an empty sparse file here, one byte long for each MiB of its volsize: adding, changing and removing one
is a single idempotent step, and the sum is a folder scan. A cache of what the pool says, never the truth:
rebuilt from ZFS when it is missing, old or in doubt.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from zolder.api import MIB
from zolder.names import DatasetName, ZvolName

MAX_AGE_SECONDS: Final = 3600
_COMPLETE: Final = "@complete"
_STARTED: Final = "@started"


class Index:
    """The sizes of the zvols of one parent."""

    def __init__(self, folder: Path, parent: DatasetName, parent_guid: int) -> None:
        """Use (and make) the parent's folder; another guid is another parent."""
        self._folder = folder / "index" / f"{parent.replace('/', ':')}.{parent_guid}"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, zvol: ZvolName, volsize_bytes: int) -> None:
        """Note a zvol's size."""
        descriptor = os.open(self._folder / zvol, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, -(-volsize_bytes // MIB))
        finally:
            os.close(descriptor)

    def remove(self, zvol: ZvolName) -> None:
        """Forget a zvol."""
        (self._folder / zvol).unlink(missing_ok=True)

    @contextmanager
    def changing(self, zvol: ZvolName, volsize_bytes: int) -> Iterator[None]:
        """Note a zvol's size for a block that brings it there; what a killed block leaves counts too much."""
        try:
            before = (self._folder / zvol).stat().st_size * MIB
        except FileNotFoundError:
            before = None
        self.put(zvol, volsize_bytes)
        try:
            yield
        except BaseException:
            if before is None:
                self.remove(zvol)
            else:
                self.put(zvol, before)
            raise
        self.put(zvol, volsize_bytes)  # a listing from before the block's end has forgotten it

    def sum(self, list_sizes: Callable[[], Mapping[ZvolName, int]]) -> tuple[int, int]:
        """Return the sum of the sizes in bytes and their number.

        :param list_sizes: asks ZFS, when this cache cannot be trusted.
        """
        if not self._is_fresh():
            self._rebuild(list_sizes)
        sizes = [status.st_size for _, status in self._entries()]
        return sum(sizes) * MIB, len(sizes)

    def _entries(self) -> Iterator[tuple[str, os.stat_result]]:
        for entry in os.scandir(self._folder):
            if entry.name in {_COMPLETE, _STARTED}:
                continue
            try:
                yield entry.name, entry.stat()
            except FileNotFoundError:
                continue  # another agent has just deleted that zvol

    def _is_fresh(self) -> bool:
        try:
            return time.time() - (self._folder / _COMPLETE).stat().st_mtime < MAX_AGE_SECONDS
        except FileNotFoundError:
            return False

    def _rebuild(self, list_sizes: Callable[[], Mapping[ZvolName, int]]) -> None:
        # Against the file system's own clock, which lags behind time.time() by some milliseconds.
        (self._folder / _STARTED).touch(mode=0o600)
        started = (self._folder / _STARTED).stat().st_mtime_ns
        known = list_sizes()
        # What another agent noted while we listed is newer than the list.
        newer = {name for name, status in self._entries() if status.st_mtime_ns >= started}
        for name, _ in self._entries():
            if name not in known and name not in newer:
                (self._folder / name).unlink(missing_ok=True)
        for zvol, volsize_bytes in known.items():
            if zvol not in newer:
                self.put(zvol, volsize_bytes)
        (self._folder / _COMPLETE).touch(mode=0o600)
