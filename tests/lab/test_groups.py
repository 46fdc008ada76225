"""Groups on real ZFS: one writer over two zvols, and snapshots of both that agree with each other."""

from __future__ import annotations

import itertools
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.contract.ground import FAST, MIB, PARENT
from tests.support.san import connected
from zolder.client.remote import RemoteStorage
from zolder.errors import InvalidRequest, PoolUnavailable
from zolder.model import ZvolCopy, ZvolSnapshot
from zolder.names import DatasetName, SnapshotName, VolumeId, ZvolName
from zolder.shapes import encode

if TYPE_CHECKING:
    from lab import Lab

INSIDE: Final = Path(__file__).parents[2] / "lab/inside"
CUT: Final = 9
SIZE: Final = 16 * MIB
ROUNDS: Final = 5
_numbers = itertools.count(1)

# Writes a number to the first zvol and then to the second, on stable storage each time, until the file is
# there: at every moment the first has the second's number or the next one.
WRITER: Final = """
import mmap, os, sys
first, second, end = sys.argv[1:]
disks = [os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC) for path in (first, second)]
block, number = mmap.mmap(-1, 4096), 0
while not os.path.exists(end):
    number += 1
    block[:8] = number.to_bytes(8, 'big')
    for disk in disks:
        os.pwrite(disk, block, 0)
print(number)
"""


@pytest.fixture(scope="module")
def san(lab: Lab) -> Iterator[RemoteStorage]:
    """The pristine SAN, both parents set up."""
    lab.reset()
    with connected(lab) as storage:
        storage.get_figures(FAST)
        yield storage


def own_snapshots(lab: Lab) -> str:
    """Return how many snapshots of the agent's own there are."""
    # grep's own exit status says only that it counted none.
    return lab.san.succeed("zfs list -Ht snapshot -o name | grep -c zolder-clone- || true").strip()


def make(storage: RemoteStorage, parent: DatasetName = PARENT) -> ZvolName:
    """Create a sparse zvol under a fresh name."""
    name = ZvolName(f"volume-group-{next(_numbers)}")
    storage.create_zvol(parent, name, volume_id=VolumeId(str(uuid.uuid4())), volsize_bytes=SIZE, sparse=True)
    return name


def copy_of(source: ZvolName, *, volsize_bytes: int = SIZE, sparse: bool = True) -> ZvolCopy:
    """Return what is to be a clone of a zvol under a fresh name."""
    name = ZvolName(f"volume-copy-{next(_numbers)}")
    return ZvolCopy(PARENT, source, name, VolumeId(str(uuid.uuid4())), volsize_bytes, sparse)


def number_in(lab: Lab, dataset: str) -> int:
    """Return the number at the beginning of a zvol."""
    node = f"/dev/zvol/{dataset}"
    lab.san.wait_until(f"test -e {node}", 20, node)
    text = lab.san.succeed(f"dd if={node} bs=4096 count=1 iflag=direct status=none | od -An -tx1 -N8")
    return int(text.replace(" ", ""), 16)


def moments(lab: Lab, members: tuple[ZvolSnapshot, ...]) -> list[str]:
    """Return the transaction groups in which snapshots were taken."""
    names = " ".join(f"{member.parent}/{member.zvol}@{member.name}" for member in members)
    return lab.san.succeed(f"zfs get -Hpo value createtxg {names}").split()


def test_one_writer_two_zvols(lab: Lab, san: RemoteStorage, note: Callable[[str], None]) -> None:
    """While one program writes to both, every pair of snapshots is of one transaction group and agrees."""
    one, two = make(san), make(san)
    paths = [f"/dev/zvol/{PARENT}/{name}" for name in (one, two)]
    for path in paths:
        lab.san.wait_until(f"test -e {path}", 20, path)
    lab.san.write_file("/run/writer.py", WRITER.encode())
    said: list[str] = []
    writer = threading.Thread(
        target=lambda: said.append(lab.san.succeed(["python3", "/run/writer.py", *paths, "/run/writer.end"]))
    )
    writer.start()
    pairs = []
    try:
        lab.san.wait_until(
            f"! cmp -s -n 4096 {paths[1]} /dev/zero", 30, "the writer's first number on the second zvol"
        )
        for turn in range(ROUNDS):
            name = SnapshotName(f"snapshot-{turn}")
            members = (ZvolSnapshot(PARENT, two, name), ZvolSnapshot(PARENT, one, name))
            assert san.create_snapshots(PARENT, members).changed
            assert not san.create_snapshots(PARENT, members).changed
            assert len(set(moments(lab, members))) == 1
            pairs.append(members)
    finally:
        lab.san.succeed("touch /run/writer.end")
        writer.join(60)
    numbers = []
    for second, first in pairs:
        found = []
        for member in (first, second):
            clone = ZvolName(f"volume-clone-{next(_numbers)}")
            san.clone_zvol(
                PARENT,
                member.zvol,
                member.name,
                clone,
                volume_id=VolumeId(str(uuid.uuid4())),
                volsize_bytes=SIZE,
                sparse=True,
            )
            found.append(number_in(lab, f"{PARENT}/{clone}"))
        assert found[0] - found[1] in {0, 1}, f"{first} has {found[0]} and {second} has {found[1]}"
        numbers.append(found[1])
    assert numbers == sorted(numbers)
    assert 0 < numbers[0] < numbers[-1] <= int(said[0])
    note(f"{ROUNDS} pairs of snapshots under {said[0].strip()} pairs of writes: {json.dumps(numbers)}")


def test_one_after_the_other_is_noticed(lab: Lab, san: RemoteStorage) -> None:
    """Two snapshots of two requests have two transaction groups, by which they are told from a pair."""
    name = SnapshotName("snapshot-apart")
    members = tuple(ZvolSnapshot(PARENT, make(san), name) for _ in range(2))
    for member in members:
        san.create_snapshot(PARENT, member.zvol, name)
    assert len(set(moments(lab, members))) == 2


def test_clones_are_of_one_moment(lab: Lab, san: RemoteStorage) -> None:
    """The snapshots that two clones come from are of one transaction group, and go with the clones."""
    members = [make(san) for _ in range(2)]
    copies = tuple(copy_of(member) for member in members)
    moment = VolumeId(str(uuid.uuid4()))
    san.clone_zvols(PARENT, copies, moment=moment)
    names = " ".join(f"{PARENT}/{member}@zolder-clone-{moment}" for member in members)
    assert len(set(lab.san.succeed(f"zfs get -Hpo value createtxg {names}").split())) == 1
    assert set(lab.san.succeed(f"zfs get -Hpo value defer_destroy {names}").split()) == {"on"}
    for copy in copies:
        san.delete_zvol(PARENT, copy.zvol)
    assert own_snapshots(lab) == "0"


@pytest.mark.timeout(900)
def test_a_cut_anywhere(lab: Lab, san: RemoteStorage, note: Callable[[str], None]) -> None:
    """Wherever a group's copy is cut, a repeat completes it, and without one every zvol can be deleted."""
    lab.san.write_file("/run/zolder-lab/cut.py", (INSIDE / "cut.py").read_bytes())
    for repeated in (True, False):
        at, whole = 0, False
        while not whole:
            members = [make(san) for _ in range(2)]
            copies = tuple(copy_of(member, volsize_bytes=SIZE + MIB, sparse=False) for member in members)
            moment = VolumeId(str(uuid.uuid4()))
            asked = {"parent": PARENT, "copies": encode(copies), "moment": moment}
            program = "runuser -u zolder -- python3 -I -S /run/zolder-lab/cut.py"
            ended = lab.san.run(f"{program} clone_zvols {at} '{json.dumps(asked)}'")
            whole = ended.exit_status == 0
            assert whole or ended.exit_status == CUT, ended.stderr
            if repeated:
                made = san.clone_zvols(PARENT, copies, moment=moment)
                assert [san.get_zvol(PARENT, copy.zvol) for copy in copies] == list(made.value)
                names = " ".join(f"{PARENT}/{member}@zolder-clone-{moment}" for member in members)
                assert set(lab.san.succeed(f"zfs get -Hpo value defer_destroy {names}").split()) == {"on"}
            # The sources first: nothing that no client knows of is in their way.
            for name in (*members, *(copy.zvol for copy in copies)):
                san.delete_zvol(PARENT, name)
            assert san.list_put_aside(PARENT) == ()
            assert own_snapshots(lab) == "0"
            at += 1
        note(f"a copy of two zvols was cut before each of {at - 1} changes, repeated: {repeated}")


def test_another_zpool_has_another_moment(lab: Lab, san: RemoteStorage) -> None:
    """Zvols of two zpools are refused, and neither is snapshotted."""
    name = SnapshotName("snapshot-both")
    here, there = make(san), make(san, FAST)
    members = (ZvolSnapshot(PARENT, here, name), ZvolSnapshot(FAST, there, name))
    for parent in (PARENT, FAST):
        with pytest.raises(InvalidRequest, match="one zpool only"):
            san.create_snapshots(parent, members)
    assert "snapshot-both" not in lab.san.succeed("zfs list -Ht snapshot -o name")


def test_an_exported_zpool(lab: Lab, san: RemoteStorage) -> None:
    """While the zpool is away no member is called absent."""
    name = SnapshotName("snapshot-away")
    members = tuple(ZvolSnapshot(FAST, make(san, FAST), name) for _ in range(2))
    lab.san.succeed("zpool export fast")
    with pytest.raises(PoolUnavailable, match="fast"):
        san.create_snapshots(FAST, members)
    lab.san.succeed("zpool import fast")
    assert san.create_snapshots(FAST, members).changed
