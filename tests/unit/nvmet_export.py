"""The export over NVMe that the tests of nvmet ask for, on an nvmet tree and a folder of device nodes.

A module that needs its fixtures takes them by name: ``root = nvmet_export.root``.
"""

from __future__ import annotations

import base64
import os
import re
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from tests.unit.kernel_tree import picture
from tests.unit.nvmet_tree import NvmetTree
from zolder.model import Chap
from zolder.names import DatasetName, InitiatorName, Portal, TargetPrefix, VolumeId, ZvolName, subsystem_name
from zolder.san import nvmet_subsystem
from zolder.san.exporter import Subject
from zolder.san.nvmet import Nvmet
from zolder.san.nvmet_port import _numbers

PREFIX = TargetPrefix("iqn.2012-12.org.example:")
ZVOL = ZvolName("volume-1")
SUBJECT = Subject(DatasetName("data/volumes"), ZVOL, PREFIX)
VOLUME = VolumeId("3f0c6a1e-8d2b-4c5f-a7e0-9b1d2c3f4a5b")
PORTALS = (Portal("192.0.2.1:4420"), Portal("[2001:db8::1]:4420"))
PORTS = tuple(f"ports/{_numbers(portal)[0]}" for portal in PORTALS)
ALICE = InitiatorName("nqn.2014-08.org.nvmexpress:uuid:aaaaaaaa-0000-4000-8000-000000000001")
BOB = InitiatorName("nqn.2014-08.org.nvmexpress:uuid:bbbbbbbb-0000-4000-8000-000000000002")
NQN = subsystem_name(PREFIX, ZVOL, ALICE)
SUBSYSTEM = f"subsystems/{NQN}"
NAMESPACE = f"{SUBSYSTEM}/namespaces/1"
HOST = f"hosts/{ALICE}"


def key_of(content: bytes, kind: str = "00") -> str:
    """Return a DH-HMAC-CHAP key in the form that nvme-cli makes."""
    whole = content + zlib.crc32(content).to_bytes(4, "little")
    return f"DHHC-1:{kind}:{base64.b64encode(whole).decode()}:"


SECRET = Chap("unused", key_of(b"0123456789abcdef0123456789abcdef"))
OTHER_SECRET = Chap("unused", key_of(b"fedcba9876543210fedcba9876543210"))


def seen_in(root: Path) -> dict[str, str]:
    """Return a picture of a tree without its shut ports: one without links, which is all that may be left."""
    seen = picture(root)
    shut = [
        name
        for name in seen
        if re.fullmatch(r"ports/\d+", name) and not any((root / name / "subsystems").iterdir())
    ]
    return {
        name: text
        for name, text in seen.items()
        if not any(name == port or name.startswith(f"{port}/") for port in shut)
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return an nvmet tree as the modules leave it."""
    return make_root(tmp_path / "nvmet")


def make_root(root: Path) -> Path:
    """Make an empty nvmet tree."""
    for folder in ("hosts", "ports", "subsystems"):
        (root / folder).mkdir(parents=True)
    return root


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of nodes: a plain file each, whose text is the name that the ioctl answers."""
    dev = tmp_path / "dev"
    dev.mkdir()
    (dev / "zd16").write_text(SUBJECT.dataset)

    def name_in_file(descriptor: int) -> str:
        return os.pread(descriptor, 256, 0).decode()

    monkeypatch.setattr(nvmet_subsystem, "read_zvol_name", name_in_file)
    return dev


@pytest.fixture
def ensure(root: Path, dev: Path) -> Callable[..., bool]:
    """Return a call for the export of these tests, with what differs."""

    def ask(
        *,
        tree: NvmetTree | None = None,
        subject: Subject = SUBJECT,
        device: Path = dev / "zd16",
        volume_id: VolumeId = VOLUME,
        portals: tuple[Portal, ...] = PORTALS,
        initiator: InitiatorName = ALICE,
        chap: Chap | None = None,
        hosts_lock: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> bool:
        return Nvmet(dev=dev, tree=tree or NvmetTree(root), hosts_lock=hosts_lock).ensure_export(
            subject,
            device=device,
            volume_id=volume_id,
            portals=portals,
            initiator=initiator,
            chap=chap,
            read_only=False,
        )

    return ask


@pytest.fixture
def nvmet(root: Path, dev: Path) -> Nvmet:
    """Return the exporter on the tree of these tests."""
    return Nvmet(dev=dev, tree=NvmetTree(root))


def steps_of_export(ensure: Callable[..., bool], tmp_path: Path) -> int:
    """Return how many steps a first export with CHAP takes."""
    tree = NvmetTree(make_root(tmp_path / "counted"))
    ensure(tree=tree, chap=SECRET)
    return len(tree.steps)
