"""Between a request's properties and ZFS's: to what the libraries and the command take, and back. No I/O.

The kernel keeps a property's value as a number and libzfs has the table, so none is written down here. One is
a zvol's own where its source is the zvol itself; what an administrator chose that no request can is let be.
"""

from __future__ import annotations

from typing import Final

from zolder.errors import AlreadyExists, InvalidRequest
from zolder.properties import KINDS, BlockSize, ZvolProperties, given
from zolder.san import libzfs
from zolder.san.libzfs import Properties

_BLOCK_SIZE: Final = "volblocksize"


def spelled(properties: ZvolProperties, volblocksize: BlockSize | None) -> dict[str, str]:
    """Return the properties that a new zvol is to have, as the ``zfs`` command takes them."""
    return given(properties) | ({_BLOCK_SIZE: str(volblocksize)} if volblocksize else {})


def numbered(properties: ZvolProperties, volblocksize: BlockSize | None = None) -> dict[str, int]:
    """Return the properties that a new zvol is to have, as the kernel takes them.

    :raises InvalidRequest: this SAN's OpenZFS knows no such value.
    """
    found = {}
    for name, value in given(properties).items():
        number = libzfs.library().number_of(name, value)
        if number is None:
            message = f"this SAN's OpenZFS knows no {name}={value}"
            raise InvalidRequest(message)
        found[name] = number
    return found | ({_BLOCK_SIZE: volblocksize.size_bytes} if volblocksize else {})


def own_properties(found: Properties, dataset: str) -> ZvolProperties:
    """Return the properties that a zvol has of its own, of those that a request can choose."""
    values = {}
    for name, kind in KINDS.items():
        if name in found and found[name].source == dataset:
            value = found[name].value
            text = libzfs.library().text_of(name, value) if isinstance(value, int) else value
            if text in kind.values:
                values[name] = kind(text)
    return ZvolProperties(**values)  # type: ignore[arg-type]  # each by the kind of its own field


def require_block_size(found: Properties, dataset: str, volblocksize: BlockSize | None) -> None:
    """Make sure that a zvol that exists has the volblocksize that is asked for.

    :raises AlreadyExists: it has another.
    """
    has = _block_size(found)
    if volblocksize and volblocksize.size_bytes != has:
        message = f"{dataset} exists with a volblocksize of {has} bytes, not {volblocksize}"
        raise AlreadyExists(message, volblocksize_bytes=has)


def require_origin_blocks(found: Properties, origin: str, volblocksize: BlockSize | None) -> None:
    """Make sure that a clone can have the volblocksize that is asked for: it is its origin's.

    :raises InvalidRequest: it cannot.
    """
    has = _block_size(found)
    if volblocksize and volblocksize.size_bytes != has:
        message = (
            f"a clone of {origin} has its volblocksize, {has} bytes, and not {volblocksize}: ask for none, or"
            " copy the data into a new volume"
        )
        raise InvalidRequest(message)


def _block_size(found: Properties) -> int:
    value = found[_BLOCK_SIZE].value if _BLOCK_SIZE in found else 0
    return value if isinstance(value, int) else 0
