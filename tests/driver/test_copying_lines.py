"""A volume's way to another SAN over real channels to two agents, which are cut in the middle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.contract.ground import MIB, PARENT, PARENTS
from tests.support.memory import MemorySource, random_bytes
from tests.support.shared_fake import shared
from zolder.cinder.copying import Copying
from zolder.cinder.destination import Place
from zolder.cinder.volume_types import Kind
from zolder.client import contents
from zolder.client.contents import Carrier
from zolder.client.local import LocalAgent
from zolder.client.pool import Pool
from zolder.client.remote import RemoteStorage
from zolder.fake import FakeStorage
from zolder.names import VolumeId, ZvolName
from zolder.properties import INHERITED

VOLUME = VolumeId("3f0c0000-0000-4000-8000-000000000001")
ZVOL = ZvolName(f"volume-{VOLUME}")
SIZE = 256 * MIB
PIECES = {MIB: random_bytes(40 * MIB, 1), SIZE - MIB: random_bytes(MIB, 2)}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits before it goes on."""
    monkeypatch.setattr(contents, "_PAUSE_SECONDS", 0.01)


@contextmanager
def place(san: FakeStorage, folder: Path, cut: int | None) -> Iterator[Place]:
    """Yield a SAN as its agent's clients reach it, the line of whose contents is cut once."""
    folder.mkdir()
    with shared(san, folder) as command:
        pool = Pool(LocalAgent(command))
        storage = RemoteStorage(pool, deadline_seconds=30)
        if cut is not None:
            route = LocalAgent((*command, str(cut)))
            storage._carrier = Carrier(route, deadline_seconds=30, most=2)
        try:
            yield Place(storage, PARENT, san.san)
        finally:
            pool.close()
            assert (folder / "agents.socket.cut").exists() is (cut is not None)


@pytest.mark.parametrize(
    ("reading", "writing"),
    [(None, None), (20 * MIB, None), (None, 20 * MIB), (3 * MIB, 30 * MIB), (35 * MIB, 1000)],
    ids=["no line", "the one here", "the one there", "both", "both, at other places"],
)
def test_lines_that_are_cut(tmp_path: Path, reading: int | None, writing: int | None) -> None:
    """Whichever is cut, and wherever, the copy is whole and the volume has moved."""
    here, there = FakeStorage(PARENTS, san="here"), FakeStorage(PARENTS, san="there")
    here.create_zvol(PARENT, ZVOL, volume_id=VOLUME, volsize_bytes=SIZE, sparse=True)
    here.write_zvol(PARENT, ZVOL, MemorySource(PIECES))
    dataset = f"{PARENT}/{ZVOL}"
    before = here.read_blocks(dataset)
    with ExitStack() as open_meanwhile:
        source = open_meanwhile.enter_context(place(here, tmp_path / "here", reading))
        destination = open_meanwhile.enter_context(place(there, tmp_path / "there", writing))
        kind = Kind(sparse=True, properties=INHERITED, volblocksize=None)
        Copying(ZVOL, VOLUME, SIZE, kind, source, destination, lambda: None).run()
    assert there.read_blocks(dataset) == before
    assert (here.list_zvols(PARENT), len(there.list_zvols(PARENT))) == ((), 1)
