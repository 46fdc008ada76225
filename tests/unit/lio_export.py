"""The export over LIO that the tests of it ask for, on a target tree.

A module that needs its fixture takes it by name: ``root = lio_export.root``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.target_tree import TargetTree
from zolder.model import Chap
from zolder.names import DatasetName, InitiatorName, Portal, TargetPrefix, VolumeId, ZvolName
from zolder.san.exporter import Exported, Subject
from zolder.san.iblock import backstore_path
from zolder.san.lio import Lio

PREFIX = TargetPrefix("iqn.2012-12.org.example:")
SUBJECT = Subject(DatasetName("data/volumes"), ZvolName("volume-1"), PREFIX)
TARGET = "iqn.2012-12.org.example:volume-1"
STORE = "data:volumes:volume-1"
ID = VolumeId("3f0c6a1e-8d2b-4c5f-a7e0-9b1d2c3f4a5b")
SERIAL = "3f0c6a1e8d2b4c5fa7e09b1d2c3f4a5b"
DEVICE = Path("/dev/zd16")
PORTALS = (Portal("192.0.2.1:3260"), Portal("[2001:db8::1]:3260"))
ALICE = InitiatorName("iqn.1993-08.org.debian:alice")
BOB = InitiatorName("iqn.1993-08.org.debian:bob")
SECRET = Chap("zolder", "not-for-any-log-1")
MUTUAL = Chap("zolder", "not-for-any-log-1", "san", "not-for-any-log-2")

HBA = backstore_path(STORE).rpartition("/")[0]
TPG = f"iscsi/{TARGET}/tpgt_1"
ACL = f"{TPG}/acls/{ALICE}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a target tree as the modules leave it."""
    return make_root(tmp_path / "target")


def make_root(root: Path) -> Path:
    """Make an empty target tree."""
    (root / "core").mkdir(parents=True)
    TargetTree(root).make_folder("iscsi")
    return root


def ensure(
    root: Path,
    *,
    tree: TargetTree | None = None,
    subject: Subject = SUBJECT,
    **changed: Any,  # noqa: ANN401 - any of ensure_export's own
) -> bool:
    """Ask for the export of these tests, with what differs."""
    wanted: dict[str, Any] = {
        "device": DEVICE,
        "volume_id": ID,
        "portals": PORTALS,
        "initiator": ALICE,
        "chap": SECRET,
        "read_only": False,
    }
    return Lio(tree=tree or TargetTree(root)).ensure_export(subject, **wanted | changed)


def exported(root: Path) -> Exported | None:
    """Return the one export of these tests as it stands."""
    found = {export.target: export for export in Lio(tree=TargetTree(root)).list_exports(PREFIX)}
    return found.get(TARGET)


def steps_of_export(tmp_path: Path) -> int:
    """Return how many steps a first export takes."""
    root = make_root(tmp_path / "counted")
    tree = TargetTree(root)
    ensure(root, tree=tree)
    return len(tree.steps)
