"""What the libraries lack, done by the ``zfs`` command: reservations, setting properties, listing clones.

Takes whole dataset names built from checked parts. Its text is read strictly: an error is recognised only
where the whole sentence matches and names our object, as seen with OpenZFS 2.3 (tests/lab); anything else
is a BackendError. Source: zfs-create(8), zfs-set(8).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from typing import Final

from zolder.san.lzc import ZfsError
from zolder.san.run import Finished, run

ZFS: Final = "/usr/sbin/zfs"

_SENTENCES: Final = {
    "cannot create '{}': out of space": errno.ENOSPC,
    "cannot create '{}': dataset already exists": errno.EEXIST,
    "cannot create '{}': parent does not exist": errno.ENOENT,
    "cannot create '{}': permission denied": errno.EPERM,
    "cannot open '{}': dataset does not exist": errno.ENOENT,
    "cannot set property for '{}': out of space": errno.ENOSPC,
    "cannot set property for '{}': size is greater than available space": errno.ENOSPC,
    "cannot set property for '{}': dataset is busy": errno.EBUSY,
    "cannot set property for '{}': permission denied": errno.EPERM,
}


def create_thick_zvol(dataset: str, volsize_bytes: int, properties: Mapping[str, str]) -> None:
    """Create a zvol with the reservation that its size needs on this zpool's layout.

    :raises ZfsError: as the kernel would answer.
    """
    options = [word for name, value in properties.items() for word in ("-o", f"{name}={value}")]
    _zfs(dataset, "create", *options, "-V", str(volsize_bytes), dataset)


def set_volsize(dataset: str, volsize_bytes: int) -> None:
    """Change a zvol's size and, where it has one, its reservation with it."""
    _zfs(dataset, "set", f"volsize={volsize_bytes}", dataset)


def reserve(dataset: str) -> None:
    """Give a zvol the reservation that its size needs, making it thick."""
    _zfs(dataset, "set", "refreservation=auto", dataset)


def release(dataset: str) -> None:
    """Take a zvol's reservation away, making it sparse."""
    _zfs(dataset, "set", "refreservation=none", dataset)


def clones_of(dataset: str) -> dict[str, tuple[str, ...]]:
    """Return every snapshot of a zvol with the clones that depend on it.

    :raises BackendError: ZFS cannot say.
    """
    finished = run([ZFS, "list", "-Hp", "-d", "1", "-t", "snapshot", "-o", "name,clones", dataset])
    if finished.exit_status:
        raise finished.error()
    rows = (line.split("\t") for line in finished.stdout.splitlines())
    return {name: tuple(clones.split(",")) if clones not in {"", "-"} else () for name, clones in rows}


def recognise(finished: Finished, dataset: str) -> int | None:
    """Return the errno that a failed command's text names for our dataset, or None."""
    lines: Sequence[str] = finished.stderr.strip().splitlines()
    for sentence, number in _SENTENCES.items():
        if sentence.format(dataset) in lines:
            return number
    return None


def _zfs(dataset: str, *words: str) -> None:
    finished = run([ZFS, *words])
    if finished.exit_status == 0:
        return
    number = recognise(finished, dataset)
    if number is None:
        raise finished.error()
    raise ZfsError(number, os.strerror(number), dataset)
