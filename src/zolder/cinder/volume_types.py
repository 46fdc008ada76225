"""What a volume's type decides of its zvol: the extra specs ``zolder:*``, read strictly.

A word that is not known is refused when a volume is made or retyped, with what would do: a type that is
spelled wrong must not pass for one that works. docs/volume-types.md has the table. No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from cinder import exception

from zolder.errors import InvalidRequest
from zolder.properties import (
    KINDS,
    BlockSize,
    Checksum,
    Choice,
    Compression,
    Copies,
    Dedup,
    LogBias,
    Sync,
    ZvolProperties,
    check_reservable,
)

PREFIX: Final = "zolder"
_BLOCK_SIZE: Final = "volblocksize"
_PROVISIONING: Final = "provisioning"
# Cinder's own: the first is what its CapacityFilter reads, the others are what CapabilitiesFilter compares.
_CINDERS_PROVISIONING: Final = "provisioning:type"
_THIN, _THICK = "thin_provisioning_support", "thick_provisioning_support"


class Provisioning(Choice):
    """Whether a volume takes what is written to it, or has its whole size reserved."""

    __slots__ = ()
    what = "provisioning"
    values = ("thin", "thick")


SPECS: Final[Mapping[str, type[Choice]]] = {
    **KINDS,
    _BLOCK_SIZE: BlockSize,
    _PROVISIONING: Provisioning,
}
# The title and description of each, as get-capabilities shows them; {} is the list of what is allowed.
TEXTS: Final[Mapping[str, tuple[str, str]]] = {
    "compression": ("Compression", f"{Compression.__doc__} Inherited from the parent if not given."),
    "checksum": ("Checksum", f"{Checksum.__doc__} Inherited if not given."),
    "copies": ("Copies", f"{Copies.__doc__} Thin volumes only; the SAN's policy must allow more than one."),
    "dedup": ("Deduplication", f"{Dedup.__doc__} The SAN's policy must allow it."),
    "logbias": ("Log bias", f"{LogBias.__doc__} Inherited if not given."),
    "primarycache": (
        "Primary cache",
        "What of a volume is kept in the SAN's memory. Inherited if not given.",
    ),
    "secondarycache": ("Secondary cache", "What of a volume goes to cache devices. Inherited if not given."),
    "sync": ("Synchronous writes", f"{Sync.__doc__} The SAN's policy must allow disabled."),
    _BLOCK_SIZE: ("Block size", "volblocksize: fixed when a volume is made; another one takes a migration."),
    _PROVISIONING: ("Provisioning", "thin or thick; san_thin_provision says it if not given."),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """What a type comes to for a zvol."""

    sparse: bool
    properties: ZvolProperties
    volblocksize: BlockSize | None


def read_kind(specs: Mapping[str, str], *, sparse: bool) -> Kind:
    """Read a type's extra specs.

    :param sparse: what the back end does where the type does not say it.
    :raises VolumeBackendAPIException: a spec of ours is unknown, or its value is not allowed.
    """
    chosen: dict[str, Any] = {}
    for key, value in specs.items():
        prefix, _, name = key.partition(":")
        if prefix == PREFIX:
            chosen[name] = _read(key, name, value)
    thin = _is_thin(specs, chosen.pop(_PROVISIONING, None), sparse=sparse)
    volblocksize = chosen.pop(_BLOCK_SIZE, None)
    properties = ZvolProperties(**chosen)
    try:
        check_reservable(properties, sparse=thin)
    except InvalidRequest as err:
        _refuse(f"{PREFIX}:copies", err.message, cause=err)
    return Kind(thin, properties, volblocksize)


def _read(key: str, name: str, value: str) -> Choice:
    if name not in SPECS:
        known = ", ".join(f"{PREFIX}:{known}" for known in SPECS)
        _refuse(key, f"there is no such property; there are {known}")
    try:
        return SPECS[name](value)
    except InvalidRequest as err:
        _refuse(key, err.message, cause=err)


def _is_thin(specs: Mapping[str, str], ours: str | None, *, sparse: bool) -> bool:
    cinders = specs.get(_CINDERS_PROVISIONING)
    if cinders is not None and cinders not in Provisioning.values:
        message = f"{cinders!r:.40} is none of {', '.join(Provisioning.values)}"
        _refuse(_CINDERS_PROVISIONING, message)
    if ours and cinders and ours != cinders:
        message = f"{PREFIX}:{_PROVISIONING}={ours} and {_CINDERS_PROVISIONING}={cinders} are both given"
        _refuse(f"{PREFIX}:{_PROVISIONING}", message)
    if said := ours or cinders:
        return str(said) == "thin"
    wants_thin, wants_thick = (_is_wanted(specs.get(name)) for name in (_THIN, _THICK))
    return wants_thin if wants_thin != wants_thick else sparse


def _is_wanted(spec: str | None) -> bool:
    """Say whether a spec asks for a capability, in the words of the scheduler's extra_specs_ops.py."""
    words = (spec or "").lower().split()
    return words in (["<is>", "true"], ["true"])


def _refuse(what: str, why: str, *, cause: Exception | None = None) -> NoReturn:
    message = f"The volume type's {what} will not do: {why}."
    raise exception.VolumeBackendAPIException(message=message) from cause
