"""The properties of a zvol that a request may choose: names and values from closed lists, and no others.

What is not in a list never reaches ZFS. The words are those of zfsprops(7); None means that the zvol inherits
what its parent has. ``BlockSize`` stands apart: ZFS fixes it when a zvol is made. No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final, Self

from zolder.errors import InvalidRequest
from zolder.names import Name


class Choice(Name):
    """One word of a closed list."""

    __slots__ = ()
    values: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        """Derive the pattern from the list."""
        cls.pattern = re.compile("|".join(cls.values), re.ASCII)
        cls.max_length = max(len(value) for value in cls.values)

    def __new__(cls, value: str) -> Self:
        """Check and keep ``value``.

        :raises InvalidRequest: it is not in the list; the message has the whole list.
        """
        if value not in cls.values:
            message = f"{cls.what}: {value!r:.40} is none of {', '.join(cls.values)}"
            raise InvalidRequest(message)
        return super().__new__(cls, value)


class Compression(Choice):
    """How blocks are compressed from now on."""

    __slots__ = ()
    what = "compression"
    values = (
        *("on", "off", "lz4", "zle", "gzip", *(f"gzip-{level}" for level in range(1, 10))),
        *("zstd", *(f"zstd-{level}" for level in range(1, 20)), "zstd-fast"),
    )


class Checksum(Choice):
    """How blocks are checked from now on."""

    __slots__ = ()
    what = "checksum"
    values = ("on", "off", "fletcher4", "sha256", "sha512", "skein", "edonr", "blake3")


class Copies(Choice):
    """How many copies of each block are kept, beside what the zpool's layout keeps."""

    __slots__ = ()
    what = "copies"
    values = ("1", "2", "3")


class Dedup(Choice):
    """Whether equal blocks are kept once, found by which checksum, and whether they are then compared."""

    __slots__ = ()
    what = "dedup"
    values = ("on", "off", "verify", "sha256", "sha512", "skein", "blake3")


class LogBias(Choice):
    """What a synchronous write is to be good at."""

    __slots__ = ()
    what = "logbias"
    values = ("latency", "throughput")


class Cached(Choice):
    """What of a zvol is kept in a cache: in memory, or on the zpool's cache devices."""

    __slots__ = ()
    what = "cached"
    values = ("all", "metadata", "none")


class Sync(Choice):
    """When a write that has to be safe counts as safe."""

    __slots__ = ()
    what = "sync"
    values = ("standard", "always", "disabled")


class BlockSize(Choice):
    """The volblocksize of a zvol: fixed when it is made, and a clone's is that of its origin."""

    __slots__ = ()
    what = "volblocksize"
    values = ("4k", "8k", "16k", "32k", "64k", "128k")

    @property
    def size_bytes(self) -> int:
        """The same in bytes."""
        return int(self.removesuffix("k")) * 1024


class Daring(Choice):
    """What a policy must allow by name: it takes space or memory beyond the volume's, or lets data go."""

    __slots__ = ()
    what = "daring property"
    values = ("checksum=off", "copies", "dedup", "sync=disabled")


@dataclass(frozen=True, slots=True)
class ZvolProperties:
    """The properties that a zvol has of its own; null is inherited from its parent."""

    compression: Compression | None = None
    checksum: Checksum | None = None
    copies: Copies | None = None
    dedup: Dedup | None = None
    logbias: LogBias | None = None
    primarycache: Cached | None = None
    secondarycache: Cached | None = None
    sync: Sync | None = None


KINDS: Final[Mapping[str, type[Choice]]] = {
    "compression": Compression,
    "checksum": Checksum,
    "copies": Copies,
    "dedup": Dedup,
    "logbias": LogBias,
    "primarycache": Cached,
    "secondarycache": Cached,
    "sync": Sync,
}
INHERITED: Final = ZvolProperties()


def given(properties: ZvolProperties) -> dict[str, str]:
    """Return those that are not inherited, by their names."""
    values: dict[str, Any] = {field.name: getattr(properties, field.name) for field in fields(properties)}
    return {name: str(value) for name, value in values.items() if value is not None}


def daring(properties: ZvolProperties) -> Iterator[Daring]:
    """Yield what a policy must allow of these properties."""
    for name, value in given(properties).items():
        if f"{name}={value}" in Daring.values:
            yield Daring(f"{name}={value}")
        elif name in Daring.values and value not in {"1", "off"}:
            yield Daring(name)


def check_reservable(properties: ZvolProperties, *, sparse: bool) -> None:
    """Check that ZFS can reserve what a zvol with these properties may take.

    It reserves one copy of each block, whatever ``copies`` is (OpenZFS 2.3: tests/lab/test_types.py).

    :raises InvalidRequest: it is thick, and keeps its blocks more than once.
    """
    if not sparse and properties.copies not in {None, "1"}:
        message = f"copies={properties.copies} goes with thin provisioning alone: ZFS reserves one copy"
        raise InvalidRequest(message)
