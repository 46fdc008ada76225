"""Reverting on real ZFS: the data come back, clones keep theirs, and a cut leaves a whole volume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from lab.conversation import Conversation
from lab.inside.blocks import checksum_of
from tests.contract.ground import MIB, PARENT
from tests.contract.test_storage import SIZE, SNAPSHOT, clone, create
from tests.support.san import connected
from zolder.model import Zvol
from zolder.names import SnapshotName

if TYPE_CHECKING:
    from lab import Lab
    from zolder.client.remote import RemoteStorage

INSIDE: Final = Path(__file__).parents[2] / "lab/inside"
OLDER: Final = SnapshotName("snapshot-0")
CUT: Final = 9


@pytest.fixture(scope="module")
def storage(lab: Lab) -> Iterator[RemoteStorage]:
    """A SAN that nobody has used."""
    lab.reset()
    lab.san.write_file("/run/zolder-lab/cut.py", (INSIDE / "cut.py").read_bytes())
    with connected(lab, channels=1) as found:
        yield found


@pytest.fixture(scope="module")
def disks(lab: Lab, storage: RemoteStorage) -> Iterator[Conversation]:  # noqa: ARG001 - after its reset
    """What writes and reads the SAN's zvols."""
    with Conversation(lab.san, [INSIDE / "blocks.py"], "python3 -S blocks.py") as program:
        yield program


class Written:
    """A volume with two snapshots, a clone that was made behind them, and what each holds."""

    def __init__(self, storage: RemoteStorage, disks: Conversation, *, sparse: bool = True) -> None:
        """Make it, and write to it at each stage."""
        self.storage, self.disks = storage, disks
        self.volume = create(storage, sparse=sparse)
        for text, name in (("first", OLDER), ("second", SNAPSHOT)):
            self.write(text)
            storage.create_snapshot(PARENT, self.volume.name, name)
        self.write("third")
        self.copy = clone(storage, self.volume, None)
        self.write("fourth")

    def write(self, text: str) -> None:
        """Write one block that changes each time, and one that stays."""
        self.disks.ask("write", dataset=f"{PARENT}/{self.volume.name}", number=0, text=text)
        self.disks.ask("write", dataset=f"{PARENT}/{self.volume.name}", number=len(text), text=text)

    def holds(self, zvol: Zvol) -> dict[str, str]:
        """Return what a zvol holds."""
        found: dict[str, str] = self.disks.ask("read", dataset=f"{PARENT}/{zvol.name}")
        return found

    def remove(self) -> None:
        """Delete all of it, the sources first, and see that nothing is left."""
        for name in (SNAPSHOT, OLDER):
            self.storage.delete_snapshot(PARENT, self.volume.name, name)
        self.storage.delete_zvol(PARENT, self.volume.name)
        assert self.holds(self.copy) == expected("first", "second", "third")
        self.storage.delete_zvol(PARENT, self.copy.name)
        assert self.storage.list_put_aside(PARENT) == ()
        assert self.storage.list_zvols(PARENT) == ()


def expected(*texts: str) -> dict[str, str]:
    """Return what a zvol holds to which these were written, one after the other."""
    return {str(len(text)): checksum_of(text) for text in texts} | {"0": checksum_of(texts[-1])}


def test_past_a_clone(lab: Lab, storage: RemoteStorage, disks: Conversation) -> None:
    """Its data are the snapshot's, the clone's are its own, and the older snapshot is what it was."""
    written = Written(storage, disks, sparse=False)
    reserved = lab.san.succeed(f"zfs get -Hpo value refreservation {PARENT}/{written.volume.name}")
    storage.revert_zvol(PARENT, written.volume.name, SNAPSHOT, volsize_bytes=SIZE)
    assert written.holds(written.volume) == expected("first", "second")
    assert written.holds(written.copy) == expected("first", "second", "third")
    assert lab.san.succeed(f"zfs get -Hpo value refreservation {PARENT}/{written.volume.name}") == reserved
    older = clone(storage, written.volume, OLDER)
    assert written.holds(older) == expected("first")
    storage.delete_zvol(PARENT, older.name)
    written.remove()


def test_grown_since(storage: RemoteStorage, disks: Conversation) -> None:
    """What was grown since keeps its size, and is empty behind the snapshot's end."""
    written = Written(storage, disks)
    size = SIZE + 4 * MIB
    storage.grow_zvol(PARENT, written.volume.name, volsize_bytes=size)
    dataset = f"{PARENT}/{written.volume.name}"
    disks.ask("write", dataset=dataset, number=SIZE // 4096, text="behind")
    storage.revert_zvol(PARENT, written.volume.name, SNAPSHOT, volsize_bytes=size)
    assert storage.get_zvol(PARENT, written.volume.name).volsize_bytes == size
    assert written.holds(written.volume) == expected("first", "second")
    written.remove()


def test_in_place(storage: RemoteStorage, disks: Conversation) -> None:
    """To its newest snapshot it goes back in place; what was written behind it is gone."""
    written = Written(storage, disks)
    newest = SnapshotName("snapshot-9")
    storage.create_snapshot(PARENT, written.volume.name, newest)
    written.write("fifth, and last")
    storage.revert_zvol(PARENT, written.volume.name, newest, volsize_bytes=SIZE)
    assert written.holds(written.volume) == expected("first", "second", "third", "fourth")
    storage.delete_snapshot(PARENT, written.volume.name, newest)
    written.remove()


def cut(lab: Lab, written: Written, step: int) -> list[str] | None:
    """Revert with the agent's own code, cut before a step; return all steps where it came to its end."""
    arguments = {"parent": PARENT, "zvol": written.volume.name, "snapshot": SNAPSHOT, "volsize_bytes": SIZE}
    program = "runuser -u zolder -- python3 -I -S /run/zolder-lab/cut.py"
    done = lab.san.run(f"{program} revert_zvol {step} '{json.dumps(arguments)}'")
    if done.exit_status == CUT:
        return None
    assert done.exit_status == 0, done.stderr
    steps: list[str] = json.loads(done.stdout)
    return steps


@pytest.mark.timeout(600)
@pytest.mark.parametrize("repeated", [True, False], ids=["asked again", "met by another"])
def test_cut_at_every_step(lab: Lab, storage: RemoteStorage, disks: Conversation, *, repeated: bool) -> None:
    """Cut before each step, it is whole for whoever comes next, and each copy holds its own."""
    outcomes, steps = [], None
    for step in range(20):
        written = Written(storage, disks)
        steps = cut(lab, written, step)
        if repeated:
            storage.revert_zvol(PARENT, written.volume.name, SNAPSHOT, volsize_bytes=SIZE)
        assert storage.get_zvol(PARENT, written.volume.name) == written.volume
        reverted = written.holds(written.volume) == expected("first", "second")
        if not reverted:
            assert written.holds(written.volume) == expected("first", "second", "third", "fourth")
        outcomes.append(reverted)
        assert written.holds(written.copy) == expected("first", "second", "third")
        written.remove()
        if steps is not None:
            break
    assert steps is not None
    assert {"clone", "promote", "rename"} <= set(steps), "it was cut around each of these"
    assert len(outcomes) == len(steps) + 1
    assert outcomes == sorted(outcomes), "from some step on it is reverted, and before it is not"
    assert all(outcomes) or not repeated


@pytest.mark.timeout(600)  # a boot under emulation
def test_the_plug_is_pulled(lab: Lab, storage: RemoteStorage, disks: Conversation) -> None:
    """The SAN loses power in the middle: after its boot the volume is reverted, and the clone is whole."""
    written = Written(storage, disks)
    assert cut(lab, written, 5) is None
    lab.san.power_off_hard()
    lab.san.boot()
    lab.san.succeed(f"until zfs list {PARENT} >/dev/null 2>&1; do :; done")
    with (
        connected(lab, channels=1) as again,
        Conversation(lab.san, [INSIDE / "blocks.py"], "python3 -S blocks.py") as program,
    ):
        written.storage, written.disks = again, program
        assert again.get_zvol(PARENT, written.volume.name) == written.volume
        assert written.holds(written.volume) == expected("first", "second")
        written.remove()
