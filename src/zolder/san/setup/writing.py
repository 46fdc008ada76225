"""Putting a file in place whole: never half written, never with a wrong mode, never through a link."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, text: str, mode: int, *, owner: int = 0, group: int = 0) -> None:
    """Write a file beside ``path``, with owner and mode, bring it to the disk, rename it over ``path``.

    :raises OSError: that failed; what was at ``path`` is there still.
    """
    # The dot keeps it out of what sshd, udev and systemd read in the meantime.
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        fresh.unlink()  # of a process that had our number and was cut short
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(fresh, flags, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
            file.flush()
            status = os.fstat(descriptor)
            if (status.st_uid, status.st_gid) != (owner, group):
                # Not asked for in vain: the root helper's unit forbids the call.
                os.fchown(descriptor, owner, group)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        fresh.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            fresh.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Bring a folder's names to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
