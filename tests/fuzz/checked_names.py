"""Fuzz target for zolder.names: what passes is what the independent predicates say, and its rows fit."""

from __future__ import annotations

from typing import Final

from tests.fuzz.predicates import PREDICATES, is_initiator
from zolder import names, properties
from zolder.errors import InvalidRequest
from zolder.names import DatasetName, InitiatorName, Name, SnapshotName, TargetPrefix, VolumeId, ZvolName

KINDS: Final[dict[str, type[Name]]] = {
    kind: getattr(names, kind, None) or getattr(properties, kind) for kind in PREDICATES
}
LONGEST_ZVOL: Final = ZvolName("z" * names.MAX_LEAF_BYTES)
LONGEST_SNAPSHOT: Final = SnapshotName("s" * names.MAX_LEAF_BYTES)
LONGEST_MESSAGE: Final = 1000
INITIATOR: Final = InitiatorName("nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000001")
PREFIX: Final = TargetPrefix("iqn.2010-10.org.openstack:")
VOLUME_ID: Final = VolumeId("3f0c1b6e-5a52-4c1e-9a0b-0123456789ab")


def check_name(data: bytes) -> None:
    """A text is a name of a class exactly where the predicate says so; else it is an InvalidRequest."""
    text = _text(data)
    for kind, is_good in PREDICATES.items():
        refused = ""
        try:
            name = KINDS[kind](text)
        except InvalidRequest as err:
            refused = err.message
        else:
            check_checked(kind, name)
            assert name == text
        # The two libraries spell some IPv6 addresses in two ways; ours takes what both accept.
        assert not refused or kind == "Portal" or not is_good(text), f"{kind} refused {text!a}: {refused}"
        assert len(refused) < LONGEST_MESSAGE, "a message that grows with the input"


def check_checked(kind: str, name: str) -> None:
    """Hold a name that passed to its predicate and to what is built from it."""
    assert PREDICATES[kind](name), f"{kind} let {name!a} pass"
    assert name.isascii()
    assert name.isprintable()
    assert not name.startswith("-")
    if isinstance(name, DatasetName):
        longest = names.snapshot_dataset(name, LONGEST_ZVOL, LONGEST_SNAPSHOT)
        assert len(longest.encode()) <= names.MAX_DATASET_BYTES
        assert name.zpool == name.split("/", maxsplit=1)[0]
    elif isinstance(name, ZvolName):
        origin = names.clone_origin(DatasetName("d"), name, VOLUME_ID)
        assert names.is_own_snapshot(origin)
        assert len(origin) <= names.MAX_DATASET_BYTES
    elif isinstance(name, SnapshotName):
        assert not names.is_own_snapshot(f"d/z@{name}")
    elif isinstance(name, TargetPrefix):
        assert is_initiator(names.target_name(name, LONGEST_ZVOL)), "no IQN of at most 223 characters"
        subsystem = names.subsystem_name(name, LONGEST_ZVOL, INITIATOR)
        assert is_initiator(subsystem), "no NQN of at most 223 characters"
        assert subsystem.startswith("nqn.")
    elif isinstance(name, InitiatorName):
        assert name.is_nqn == (name[:3] == "nqn")
        assert is_initiator(names.subsystem_name(PREFIX, LONGEST_ZVOL, name))
    elif isinstance(name, VolumeId):
        assert len(names.unit_serial(name)) == 32


def _text(data: bytes) -> str:
    """Return a text for any bytes: what is no UTF-8 becomes lone surrogates."""
    return data.decode("utf-8", "surrogateescape")
