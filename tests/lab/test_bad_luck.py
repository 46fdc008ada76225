"""What goes wrong around the agent on real ZFS: zpools that go away, lines that drop, holders that stay."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.contract.ground import FAST, INITIATOR, MIB, PARENT, ROUTE
from tests.support.san import connected, suspend_second_zpool
from zolder.client.remote import RemoteStorage
from zolder.errors import Busy, PoolSuspended, PoolUnavailable, TransportError
from zolder.model import Zvol
from zolder.names import DatasetName, SnapshotName, VolumeId, ZvolName

if TYPE_CHECKING:
    from lab import Lab

SIZE = 32 * MIB
SNAPSHOT = SnapshotName("snapshot-1")
_numbers = itertools.count(1)


@pytest.fixture
def san(lab: Lab) -> Iterator[RemoteStorage]:
    """The pristine SAN, both parents set up."""
    lab.reset()
    with connected(lab) as storage:
        storage.get_figures(FAST)
        yield storage


def make(storage: RemoteStorage, parent: DatasetName = PARENT) -> Zvol:
    """Create a sparse zvol under a fresh name."""
    name = ZvolName(f"volume-luck-{next(_numbers)}")
    volume_id = VolumeId(str(uuid.uuid4()))
    return storage.create_zvol(parent, name, volume_id=volume_id, volsize_bytes=SIZE, sparse=True).value


def test_exported_zpool(lab: Lab, san: RemoteStorage) -> None:
    """While a zpool is exported nothing in it is called absent, and all is there after its import."""
    made = make(san, FAST)
    lab.san.succeed("zpool export fast")
    attempts: list[Callable[[], object]] = [
        lambda: san.delete_zvol(FAST, made.name),
        lambda: san.delete_snapshot(FAST, made.name, SNAPSHOT),
        lambda: san.get_zvol(FAST, made.name),
        lambda: san.get_figures(FAST),
        lambda: make(san, FAST),
        lambda: san.withdraw_zvol(FAST, made.name, None, attachment=None),
    ]
    for attempt in attempts:
        with pytest.raises(PoolUnavailable, match="fast"):
            attempt()
    assert san.list_exports(FAST) == ()
    lab.san.succeed("zpool import fast")
    assert san.get_zvol(FAST, made.name) == made
    assert san.delete_zvol(FAST, made.name).changed


def test_another_zpool_of_that_name(lab: Lab, san: RemoteStorage) -> None:
    """A zpool made anew under the same names is not taken for the one that was set up, nor given volumes."""
    made = make(san, FAST)
    lab.san.succeed(
        "set -e; zpool export fast; truncate -s 256M /tmp/other; zpool create fast /tmp/other;"
        "zfs create fast/volumes"
    )
    with pytest.raises(PoolUnavailable, match="guid"):
        san.delete_zvol(FAST, made.name)
    with pytest.raises(PoolUnavailable, match="guid"):
        san.get_figures(FAST)
    with pytest.raises(PoolUnavailable, match="guid"):
        make(san, FAST)


def test_suspended_zpool(lab: Lab, san: RemoteStorage) -> None:
    """A suspended zpool is told at once and hangs nobody; the other zpool goes on."""
    made = make(san, FAST)
    suspend_second_zpool(lab)
    started = time.monotonic()
    for attempt in (
        lambda: san.delete_zvol(FAST, made.name),
        lambda: san.get_figures(FAST),
        lambda: make(san, FAST),
    ):
        with pytest.raises(PoolSuspended, match="zpool clear fast"):
            attempt()
    assert time.monotonic() - started < 10
    assert make(san, PARENT).parent == PARENT


def hold_open(lab: Lab, node: str, *, seconds: int) -> None:
    """Have a process on the SAN hold a zvol's device open for so long."""
    lab.san.succeed(f"setsid sleep {seconds} < {node} > /dev/null 2>&1 &")
    lab.san.wait_until("readlink /proc/$(pgrep -x sleep)/fd/0 | grep -q /dev/zd", 30, "the zvol's holder")


def test_held_open(lab: Lab, san: RemoteStorage, caplog: pytest.LogCaptureFixture) -> None:
    """A zvol that a process holds is waited for, announced, and then the process is named."""
    made = make(san)
    node = f"/dev/zvol/{PARENT}/{made.name}"
    lab.san.wait_until(f"test -e {node}", 30, "the zvol's link")
    hold_open(lab, node, seconds=600)
    with caplog.at_level(logging.INFO, "zolder"), pytest.raises(Busy, match="sleep") as refused:
        san.delete_zvol(PARENT, made.name)
    assert "sleep" in str(refused.value.details["holders"])
    assert any("is busy: waiting up to" in record.getMessage() for record in caplog.records)
    assert san.get_zvol(PARENT, made.name) == made
    lab.san.succeed("pkill -x sleep")
    assert san.delete_zvol(PARENT, made.name).changed


def test_released_in_time(lab: Lab, san: RemoteStorage) -> None:
    """A holder that lets go within the wait does not make a delete fail."""
    made = make(san)
    node = f"/dev/zvol/{PARENT}/{made.name}"
    lab.san.wait_until(f"test -e {node}", 30, "the zvol's link")
    hold_open(lab, node, seconds=3)
    assert san.delete_zvol(PARENT, made.name).changed


def test_late_link(lab: Lab, san: RemoteStorage) -> None:
    """An export does not wait for udev: it finds the zvol's node without its link."""
    lab.san.succeed("udevadm control --stop-exec-queue")
    made = make(san)
    lab.san.fail(f"test -e /dev/zvol/{PARENT}/{made.name}")
    exported = san.export_zvol(PARENT, made.name, INITIATOR, route=ROUTE, attachment=None, chap=None)
    assert exported.changed
    lab.san.succeed("udevadm control --start-exec-queue")
    lab.san.wait_until(f"test -e /dev/zvol/{PARENT}/{made.name}", 30, "the zvol's link")


def own_channels() -> list[int]:
    """Return the ssh processes that this process's channels are."""
    # Each thread has those that it started.
    children = [
        pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()
    ]
    return [
        int(pid) for pid in children if Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"zolder-san\0")
    ]


def cut_at_random(lab: Lab, request: Callable[[], object], chance: random.Random) -> None:
    """Begin a request and, at a random moment, cut its line or kill its agent on the SAN."""

    def ask() -> None:
        # What the client could not mend by asking again by itself, the test asks again.
        with contextlib.suppress(TransportError):
            request()

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(chance.uniform(0, 0.5))
    if chance.random() < 0.5:
        lab.san.run("pkill -9 -f '[s]erve --identity lab'")
    else:
        for pid in own_channels():
            os.kill(pid, signal.SIGKILL)
    thread.join()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
def test_cut_lines(lab: Lab, san: RemoteStorage, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """A line cut or an agent killed during any request: asked again, each is done exactly once."""
    chance = random.Random(seed)  # noqa: S311 - which moment is cut, repeatably
    name, twin = ZvolName("volume-cut"), ZvolName("volume-twin")
    ids = VolumeId(str(uuid.uuid4())), VolumeId(str(uuid.uuid4()))
    make_it = partial(san.create_zvol, PARENT, name, volume_id=ids[0], volsize_bytes=SIZE, sparse=True)
    clone_it = partial(
        san.clone_zvol, PARENT, name, None, twin, volume_id=ids[1], volsize_bytes=2 * SIZE, sparse=False
    )
    export_it = partial(san.export_zvol, PARENT, twin, INITIATOR, route=ROUTE, attachment=None, chap=None)
    requests: list[Callable[[], object]] = [
        make_it,
        partial(san.create_snapshot, PARENT, name, SNAPSHOT),
        clone_it,
        export_it,
    ]
    for request in requests:
        cut_at_random(lab, request, chance)
        request()
    assert [zvol.name for zvol in san.list_zvols(PARENT)] == [name, twin]
    assert san.get_zvol(PARENT, twin).volsize_bytes == 2 * SIZE
    assert [export.initiators for export in san.list_exports(PARENT)] == [(INITIATOR,)]
    for request in (
        partial(san.delete_zvol, PARENT, twin),
        partial(san.delete_snapshot, PARENT, name, SNAPSHOT),
        partial(san.delete_zvol, PARENT, name),
    ):
        cut_at_random(lab, request, chance)
        request()
    assert "Asking again" in caplog.text, "no cut met a request under way"
    assert lab.san.succeed(f"zfs list -H -t all -r -o name {PARENT}").split() == [PARENT]
    assert "iqn." not in lab.san.succeed("ls /sys/kernel/config/target/iscsi")
    assert "iblock" not in lab.san.succeed("ls /sys/kernel/config/target/core")


def test_a_clone_that_nobody_asks_for_again(lab: Lab, san: RemoteStorage) -> None:
    """What a clone that was cut short left on its source does not hold that; what others made does."""
    made = make(san)
    dataset, clone_id = f"{PARENT}/{made.name}", uuid.uuid4()
    left, others = f"zolder-clone-{clone_id}", f"zolder-clone-{uuid.uuid4()}"
    lab.san.succeed(
        f"zfs snapshot -o zolder:snapshot={left} {dataset}@{left} && zfs snapshot {dataset}@{others}"
    )
    with pytest.raises(Busy, match=others):
        san.delete_zvol(PARENT, made.name)
    lab.san.succeed(f"zfs destroy {dataset}@{others}")
    assert san.delete_zvol(PARENT, made.name).changed
    lab.san.fail(f"zfs list {dataset}")


def test_two_at_once(san: RemoteStorage) -> None:
    """The same create asked by eight threads at once is done once, and so is its delete."""
    name, volume_id = ZvolName("volume-twins"), VolumeId(str(uuid.uuid4()))
    changes: list[bool] = []

    def race(request: Callable[[], bool]) -> list[bool]:
        changes.clear()
        threads = [threading.Thread(target=lambda: changes.append(request())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return changes

    def create() -> bool:
        return san.create_zvol(PARENT, name, volume_id=volume_id, volsize_bytes=SIZE, sparse=True).changed

    assert sorted(race(create)) == [False] * 7 + [True]
    assert sorted(race(lambda: san.delete_zvol(PARENT, name).changed)) == [False] * 7 + [True]
