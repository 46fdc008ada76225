"""Groups on real ZFS: one writer over two zvols, and snapshots of both that agree with each other."""

from __future__ import annotations

import itertools
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import pytest

from tests.contract.ground import FAST, MIB, PARENT
from tests.support.san import connected
from zolder.client.remote import RemoteStorage
from zolder.errors import InvalidRequest, PoolUnavailable
from zolder.model import ZvolSnapshot
from zolder.names import DatasetName, SnapshotName, VolumeId, ZvolName

if TYPE_CHECKING:
    from lab import Lab

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


def make(storage: RemoteStorage, parent: DatasetName = PARENT) -> ZvolName:
    """Create a sparse zvol under a fresh name."""
    name = ZvolName(f"volume-group-{next(_numbers)}")
    storage.create_zvol(parent, name, volume_id=VolumeId(str(uuid.uuid4())), volsize_bytes=SIZE, sparse=True)
    return name


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
