"""What a checked name is, said a second time and in another way: without regular expressions, byte by byte.

An oracle for zolder.names: whatever a class there lets through must pass here. It knows the classes by their
names alone and shares no line with them, so a mistake would have to be made twice.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Final

_LOWER: Final = frozenset("abcdefghijklmnopqrstuvwxyz")
_UPPER: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DIGITS: Final = frozenset("0123456789")
_HEX: Final = _DIGITS | frozenset("abcdef")
_WORD: Final = _LOWER | _DIGITS
_UUID_PARTS: Final = [8, 4, 4, 4, 12]


def is_dataset(text: str) -> bool:
    """Whether it is a dataset whose zvols' and snapshots' names always fit into 255 bytes."""
    first = _LOWER | _UPPER
    parts = text.split("/")
    return (
        len(text) <= 255 - 2 * (96 + 1)
        and text[:1] in first
        and all(part[:1] in first | _DIGITS and _only(part, first | _DIGITS | set("_.-")) for part in parts)
    )


def is_zvol(text: str) -> bool:
    """Whether it is the leaf of a zvol, which stands in an IQN too."""
    return len(text) <= 96 and text[:1] in _WORD and _only(text, _WORD | set(".-"))


def is_snapshot(text: str) -> bool:
    """Whether it is the leaf of a snapshot that is not the agent's own."""
    return (
        len(text) <= 96
        and text[:1] in _WORD
        and _only(text, _WORD | set("_.-"))
        and not text.startswith("zolder-")
    )


def is_uuid(text: str) -> bool:
    """Whether it is a UUID in lower case, with its four dashes."""
    parts = text.split("-")
    return [len(part) for part in parts] == _UUID_PARTS and all(_only(part, _HEX) for part in parts)


def is_initiator(text: str) -> bool:
    """Whether it is an iSCSI name of one of the three kinds, or NVMe-oF's kind."""
    kind, _, rest = text.partition(".")
    if kind == "eui":
        return len(rest) == 16 and _only(rest, _HEX)
    if kind == "naa":
        return len(rest) in {16, 32} and _only(rest, _HEX)
    head, colon, tail = text.partition(":")
    if kind == "nqn":
        capitals = _WORD | _UPPER | set("._:-")
        return len(text) <= 223 and _is_authority(head.replace("nqn", "iqn", 1)) and _only(tail, capitals)
    return (
        len(text) <= 223
        and _is_authority(head)
        and bool(tail) == bool(colon)
        and _only(tail, _WORD | set(".:_-"), empty=True)
    )


def is_exporter(text: str) -> bool:
    """Whether it is one of the three ways to export."""
    return text in {"lio", "tgt", "nvmet"}


def is_target_prefix(text: str) -> bool:
    """Whether an IQN may begin with it, with room for the longest leaf, a colon and 16 letters."""
    head, colon, tail = text.partition(":")
    return (
        len(text) <= 223 - 96 - 17
        and bool(colon)
        and _is_authority(head)
        and _only(tail, _WORD | set(".:-"), empty=True)
    )


def is_portal(text: str) -> bool:
    """Whether it is an address with a port, each as Python's own library spells it."""
    address, _, port = text.rpartition(":")
    if not _only(port, _DIGITS) or port[0] == "0" or not 0 < int(port) <= 65535:
        return False
    try:
        if address[:1] == "[" and address[-1:] == "]":
            return str(ipaddress.IPv6Address(address[1:-1])) == address[1:-1]
        return str(ipaddress.IPv4Address(address)) == address
    except ValueError:
        return False


def is_identity(text: str) -> bool:
    """Whether it may stand in a forced command."""
    return len(text) <= 32 and text[:1] in _LOWER and _only(text, _WORD | set("_-"))


def is_compression(text: str) -> bool:
    """Whether it is a way to compress, with its level where it has any."""
    name, dash, level = text.partition("-")
    if not dash:
        return name in {"on", "off", "lz4", "zle", "gzip", "zstd"}
    if text == "zstd-fast":
        return True
    if not _only(level, _DIGITS) or level[0] == "0":
        return False
    return (name == "gzip" and len(level) == 1) or (name == "zstd" and len(level) < 3 and int(level) < 20)


def one_of(*words: str) -> Callable[[str], bool]:
    """Return whether a text is one of some words."""
    return lambda text: text in words


def _is_authority(text: str) -> bool:
    """Whether it is ``iqn.YYYY-MM.`` and a domain."""
    kind, _, rest = text.partition(".")
    date, _, domain = rest.partition(".")
    year, dash, month = date[:4], date[4:5], date[5:]
    return (
        kind == "iqn"
        and dash == "-"
        and len(month) == 2
        and _only(year, _DIGITS)
        and _only(month, _DIGITS)
        and domain[:1] in _WORD
        and _only(domain, _WORD | set(".-"))
    )


def _only(text: str, allowed: frozenset[str] | set[str], *, empty: bool = False) -> bool:
    return (bool(text) or empty) and all(char in allowed for char in text)


# By the name of the class in zolder.names.
PREDICATES: Final[Mapping[str, Callable[[str], bool]]] = {
    "DatasetName": is_dataset,
    "ZvolName": is_zvol,
    "SnapshotName": is_snapshot,
    "VolumeId": is_uuid,
    "OperationId": is_uuid,
    "AttachmentId": is_uuid,
    "ExporterName": is_exporter,
    "InitiatorName": is_initiator,
    "TargetPrefix": is_target_prefix,
    "Portal": is_portal,
    "Identity": is_identity,
    "Compression": is_compression,
    "Checksum": one_of("on", "off", "fletcher4", "sha256", "sha512", "skein", "edonr", "blake3"),
    "Copies": one_of("1", "2", "3"),
    "Dedup": one_of("on", "off", "verify", "sha256", "sha512", "skein", "blake3"),
    "LogBias": one_of("latency", "throughput"),
    "Cached": one_of("all", "metadata", "none"),
    "Sync": one_of("standard", "always", "disabled"),
    "BlockSize": one_of("4k", "8k", "16k", "32k", "64k", "128k"),
    "Daring": one_of("checksum=off", "copies", "dedup", "sync=disabled"),
}
