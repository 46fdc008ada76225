"""How many channels an identity has open at once, over all agents of this SAN.

A channel holds one byte of a file locked (see zolder.san.locks) for as long as its process lives, so nothing
has to be cleaned up behind one that was killed.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Final

from zolder.errors import BackendError, Busy
from zolder.names import Identity
from zolder.san.locks import try_lock

# Each identity's bytes in the file begin at a place of its own; two that met would share their number.
_SPREAD_BITS: Final = 20


def take_channel(folder: Path, identity: Identity, most: int) -> None:
    """Take one of an identity's channels until this process ends.

    :param folder: the one that all agents share.
    :raises Busy: all are taken.
    :raises BackendError: the folder is missing or not the agent's.
    """
    try:
        descriptor = os.open(folder / "channels", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as err:
        message = f"{folder} cannot be used ({err.strerror}): run 'zolder-san install' as root"
        raise BackendError(message) from err
    first = zlib.crc32(identity.encode()) << _SPREAD_BITS
    if not any(try_lock(descriptor, first + number) for number in range(most)):
        os.close(descriptor)
        message = (
            f"identity {identity} has {most} channels open, the most it may have at once"
            " (max_channels in this SAN's policy)"
        )
        raise Busy(message, holders=[])
