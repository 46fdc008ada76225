"""Opens a zvol's device for whoever may not open it: root's step, past the page cache.

The device is found and proven by its own name (zolder.san.device), and opened a second time through that very
descriptor, so nothing can come between. To write it is claimed (open(2), O_EXCL on a block device): whoever
has claimed it, as LIO does, keeps others out, and the other way round.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zolder.errors import BackendError, Busy
from zolder.san.device import open_zvol

# A zvol's node comes some milliseconds after the zvol, seconds on a machine under load.
_DEVICE_SECONDS = 20
# What is read goes past the page cache too: LIO writes past it, and what is kept there would be old.
_PLAIN = os.O_DIRECT | os.O_CLOEXEC


@contextmanager
def open_zvol_device(dataset: str, *, to_write: bool, dev: Path = Path("/dev")) -> Iterator[int]:
    """Open a zvol's device for a block.

    :raises Busy: it is to be written and something has claimed it.
    :raises BackendError: it cannot be opened.
    """
    flags = _PLAIN | (os.O_WRONLY | os.O_EXCL if to_write else os.O_RDONLY)
    with open_zvol(dataset, timeout_seconds=_DEVICE_SECONDS, dev=dev) as found:
        try:
            descriptor = os.open(f"/proc/self/fd/{found.descriptor}", flags)
        except OSError as err:
            if err.errno == errno.EBUSY:
                message = f"{dataset} is not written: something on this SAN has claimed its device"
                raise Busy(message, holders=["the kernel"]) from err
            message = f"the device of {dataset} cannot be opened: {err.strerror}"
            raise BackendError(message, errno=err.errno or 0) from err
    try:
        yield descriptor
    finally:
        os.close(descriptor)
