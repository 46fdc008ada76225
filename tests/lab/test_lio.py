"""Exports in the real kernel: LIO on zvols, and open-iscsi on the other side."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.ground import INITIATOR, PORTALS, PREFIX, SECOND_INITIATOR
from tests.support.beside import Beside
from tests.support.initiator import Initiator
from zolder.model import Chap
from zolder.names import InitiatorName

if TYPE_CHECKING:
    from lab import Lab

SECRET = Chap("zolder", "a-lab-secret-123")
OTHER_SECRET = Chap("second", "a-lab-secret-456")
VOLUME_ID = "6f0c6a1e-8d2b-4c5f-a7e0-9b1d2c3f4a5b"

_EXPORT = """
with device.open_zvol(given["dataset"], timeout_seconds=20) as held:
    changed = lio.Lio().ensure_export(
        subject_of(given),
        device=held.path,
        volume_id=VolumeId(given["volume_id"]),
        portals=tuple(map(Portal, given["portals"])),
        initiator=InitiatorName(given["initiator"]),
        chap=Chap(*given["chap"]) if given["chap"] else None,
        read_only=False,
    )
answer(changed)
"""

_CLOSE = """
changed = lio.Lio().remove_initiator(subject_of(given), InitiatorName(given["initiator"]))
answer([changed, lio.Lio().initiators_of(subject_of(given))])
"""

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Volume:
    """A zvol in the lab and what its export is called."""

    beside: Beside
    name: str
    volume_id: str

    @property
    def serial(self) -> str:
        """The disk's serial."""
        return self.volume_id.replace("-", "")

    @property
    def dataset(self) -> str:
        """The zvol."""
        return f"data/volumes/{self.name}"

    @property
    def target(self) -> str:
        """The IQN."""
        return f"{PREFIX}{self.name}"

    def ask(self, piece: str, **more: object) -> Any:  # noqa: ANN401 - whatever the piece answers
        """Run a piece of Python in the SAN that knows this volume."""
        given = {
            "dataset": self.dataset,
            "prefix": PREFIX,
            "volume_id": self.volume_id,
            "portals": PORTALS,
        }
        return self.beside.run(piece, **{**given, **more})

    def export(self, initiator: InitiatorName = INITIATOR, chap: Chap | None = SECRET) -> bool:
        """Let an initiator reach it."""
        pair = [chap.user, chap.secret, chap.target_user, chap.target_secret] if chap else None
        changed: bool = self.ask(_EXPORT, initiator=initiator, chap=pair)
        return changed

    def close(self, initiator: InitiatorName = INITIATOR) -> tuple[bool, list[str]]:
        """Shut an initiator out."""
        changed, remaining = self.ask(_CLOSE, initiator=initiator)
        return changed, remaining


@pytest.fixture(scope="module")
def beside(lab: Lab) -> Iterator[Beside]:
    """A Python in the SAN."""
    with Beside(lab.san) as python:
        yield python


@pytest.fixture
def volume(lab: Lab, beside: Beside) -> Iterator[Volume]:
    """A zvol of its own for each test; all of it is gone afterwards, or the test fails."""
    number = next(_numbers)
    made = Volume(beside, f"volume-lio-{number}", f"{number:08x}{VOLUME_ID[8:]}")
    lab.san.succeed(f"zfs create -s -V 64M {made.dataset}")
    yield made
    made.ask("answer(lio.Lio().remove_export(subject_of(given)))")
    # udev may be looking into one that a test has just made anew.
    lab.san.wait_until(f"zfs destroy {made.dataset}", 30, "the zvol to be let go")
    left = lab.san.succeed("ls /sys/kernel/config/target/core")
    assert left == "alua\n"


@pytest.fixture
def compute(lab: Lab, volume: Volume) -> Iterator[Initiator]:
    """The compute machine's own initiator."""
    initiator = Initiator(lab.compute)
    yield initiator
    initiator.logout(volume.target)


@pytest.fixture
def second(lab: Lab, volume: Volume) -> Iterator[Initiator]:
    """A second initiator in the compute machine."""
    initiator = Initiator(lab.compute, SECOND_INITIATOR)
    yield initiator
    initiator.logout(volume.target)
    lab.compute.succeed("iscsiadm -m iface -I second -o delete")


def test_an_initiator_logs_in_and_sees_the_disk_as_it_is(
    lab: Lab, volume: Volume, compute: Initiator
) -> None:
    """The disk has the volume's serial and NAA, a write cache that is flushed, FUA, and discards."""
    assert volume.export() is True
    assert volume.export() is False
    assert compute.login(volume.target, SECRET) == 0
    disk = compute.disk(volume.target)
    show = lab.compute.succeed
    assert show(f"tail -c +5 /sys/block/{disk}/device/vpd_pg80 | tr -d '\\0'").strip() == volume.serial
    assert show(f"cat /sys/block/{disk}/device/wwid").strip() == f"naa.6001405{volume.serial[:25]}"
    assert show(f"cat /sys/block/{disk}/queue/write_cache").strip() == "write back"
    assert show(f"cat /sys/block/{disk}/queue/fua").strip() == "1"
    assert int(show(f"cat /sys/block/{disk}/queue/discard_max_bytes")) > 0
    assert int(show(f"cat /sys/block/{disk}/queue/logical_block_size")) == 512
    assert int(show(f"cat /sys/block/{disk}/size")) * 512 == 64 * 2**20
    assert show(f"cat /sys/block/{disk}/ro").strip() == "0"


def test_discards_reach_the_zpool(lab: Lab, volume: Volume, compute: Initiator) -> None:
    """What an initiator discards is free in the zpool again."""
    volume.export()
    assert compute.login(volume.target, SECRET) == 0
    disk = compute.disk(volume.target)

    def used() -> int:
        lab.san.succeed("zpool sync data")
        return int(lab.san.succeed(f"zfs get -Hpo value used {volume.dataset}"))

    lab.compute.succeed(
        f"dd if=/dev/urandom of=/dev/{disk} bs=1M count=32 oflag=direct conv=fsync status=none"
    )
    full = used()
    assert full > 32 * 2**20
    lab.compute.succeed(f"blkdiscard /dev/{disk}")
    assert used() < full / 8


def test_the_serial_is_the_same_after_every_export(lab: Lab, volume: Volume, compute: Initiator) -> None:
    """A volume withdrawn and exported again is the same disk to its initiator."""
    seen = []
    for _ in range(2):
        volume.export()
        assert compute.login(volume.target, SECRET) == 0
        seen.append(lab.compute.succeed(f"cat /sys/block/{compute.disk(volume.target)}/device/wwid"))
        compute.logout(volume.target)
        assert volume.close() == (True, [])
    assert seen[0] == seen[1]


def test_shutting_an_initiator_out_ends_its_session(lab: Lab, volume: Volume, compute: Initiator) -> None:
    """The session ends at once, does not come back, and the zvol can be destroyed right after."""
    volume.export()
    assert compute.login(volume.target, SECRET) == 0
    disk = compute.disk(volume.target)
    lab.compute.succeed(f"dd if=/dev/{disk} of=/dev/null bs=4k count=1 iflag=direct status=none")
    assert volume.close() == (True, [])
    assert lab.san.succeed("ss -Htn state established sport = :3260") == ""
    lab.san.succeed(f"zfs destroy {volume.dataset} && zfs create -s -V 64M {volume.dataset}")
    lab.compute.fail(
        f"dd if=/dev/{disk} of=/dev/null bs=4k count=1 iflag=direct status=none", timeout_seconds=60
    )
    assert not compute.is_logged_in(volume.target)


def test_a_session_under_load_is_ended_too(lab: Lab, volume: Volume, compute: Initiator) -> None:
    """An initiator that is writing with all its might is shut out as well, and the zvol is free."""
    volume.export()
    assert compute.login(volume.target, SECRET) == 0
    disk = compute.disk(volume.target)
    write = f"while dd if=/dev/zero of=/dev/{disk} bs=1M oflag=direct status=none; do :; done"
    lab.compute.succeed(f"systemd-run --unit lio-load --collect sh -c '{write}'")
    lab.compute.wait_until(f"[ $(cut -d' ' -f9 /proc/self/stat) ] && grep -q ' {disk} ' /proc/diskstats", 10)
    assert volume.close() == (True, [])
    lab.san.succeed(f"zfs destroy {volume.dataset} && zfs create -s -V 64M {volume.dataset}")
    lab.compute.run("systemctl stop lio-load")


def test_one_initiator_goes_and_the_other_stays(
    lab: Lab, volume: Volume, compute: Initiator, second: Initiator
) -> None:
    """Of two initiators with secrets of their own, the one shut out leaves the other's session alone."""
    volume.export()
    volume.export(SECOND_INITIATOR, OTHER_SECRET)
    assert compute.login(volume.target, SECRET) == 0
    assert second.login(volume.target, OTHER_SECRET) == 0
    first_disk, second_disk = compute.disk(volume.target), second.disk(volume.target)
    lab.compute.succeed(f"dd if=/dev/urandom of=/dev/{first_disk} bs=4k count=1 oflag=direct status=none")
    assert volume.close(INITIATOR) == (True, [SECOND_INITIATOR])
    read = "dd if=/dev/{} of=/dev/null bs=4k count=1 iflag=direct status=none"
    lab.compute.succeed(read.format(second_disk))
    assert second.is_logged_in(volume.target)
    lab.compute.fail(read.format(first_disk))
    compute.logout(volume.target)
    assert compute.login(volume.target, SECRET) == 24


def test_only_the_right_secret_opens_the_target(
    volume: Volume, compute: Initiator, second: Initiator
) -> None:
    """No secret, a wrong one, or another initiator's is refused; so is a name without an ACL."""
    volume.export()
    volume.export(SECOND_INITIATOR, OTHER_SECRET)
    for wrong in (None, Chap("zolder", "wrong-secret-123"), OTHER_SECRET):
        assert compute.login(volume.target, wrong) == 24
        compute.logout(volume.target)
    volume.close(SECOND_INITIATOR)
    assert second.login(volume.target, OTHER_SECRET) == 24
    assert compute.login(volume.target, SECRET) == 0


def test_with_mutual_chap_the_target_shows_a_secret_too(volume: Volume, compute: Initiator) -> None:
    """Who asks for the target's secret logs in where it is right, and lets go where it is wrong."""
    both = Chap("zolder", "a-lab-secret-123", "target", "the-targets-own-9")
    volume.export(chap=both)
    # 19: the initiator itself gives up the login.
    assert compute.login(volume.target, replace(both, target_secret="not-the-targets-9")) == 19
    compute.logout(volume.target)
    assert compute.login(volume.target, both) == 0
    compute.logout(volume.target)
    volume.export(chap=SECRET)
    assert compute.login(volume.target, both) == 19, "a target without a secret cannot show one"


def test_a_replaced_secret_counts_at_once(volume: Volume, compute: Initiator) -> None:
    """After a new secret the old one is refused."""
    volume.export()
    volume.export(chap=Chap("zolder", "another-secret-9"))
    assert compute.login(volume.target, SECRET) == 24
    compute.logout(volume.target)
    assert compute.login(volume.target, Chap("zolder", "another-secret-9")) == 0


def test_initiators_with_and_without_chap_share_a_target(
    volume: Volume, compute: Initiator, second: Initiator
) -> None:
    """Whoever has a secret must show it, while another whose ACL has none logs in without."""
    volume.export()
    volume.export(SECOND_INITIATOR, None)
    assert second.login(volume.target, None) == 0
    assert compute.login(volume.target, None) == 24
    compute.logout(volume.target)
    assert compute.login(volume.target, SECRET) == 0


def test_discovery_shows_an_initiator_its_own_targets_only(
    lab: Lab, volume: Volume, compute: Initiator, second: Initiator
) -> None:
    """SendTargets shows a target to those with an ACL, and nothing at all to anybody else."""
    other = Volume(volume.beside, f"{volume.name}-other", f"00ff{volume.volume_id[4:]}")
    lab.san.succeed(f"zfs create -s -V 64M {other.dataset}")
    try:
        volume.export()
        other.export(SECOND_INITIATOR, None)
        assert compute.discover() == [volume.target]
        assert second.discover() == [other.target]
        volume.close()
        assert compute.discover() == []
    finally:
        other.close(SECOND_INITIATOR)
        lab.san.succeed(f"zfs destroy {other.dataset}")


_KILLED_AT_EVERY_STEP = """
class Counted(configfs.ConfigFs):
    def __init__(self, root, kill_at=None):
        super().__init__(root)
        self.steps, self.kill_at = 0, kill_at
    def step(self):
        if self.kill_at == self.steps:
            os._exit(9)
        self.steps += 1

for name in ("make_folder", "remove_folder", "make_link", "remove_link", "write"):
    def change(self, *args, name=name):
        self.step()
        return getattr(configfs.ConfigFs, name)(self, *args)
    setattr(Counted, name, change)

def picture():
    # All folders, links and settings, but for what counts or shows the moment.
    found, moving = {}, {"statistics", "fabric_statistics", "alua", "param"}
    for folder, names, files in os.walk(lio.TARGET_ROOT):
        for name in names:
            path = f"{folder}/{name}"
            found[path] = os.readlink(path) if os.path.islink(path) else ""
        names[:] = [name for name in names if name not in moving]
        for name in files:
            if name not in {"hba_info", "info", "dynamic_sessions"}:
                try:
                    found[f"{folder}/{name}"] = Path(folder, name).read_text()
                except OSError as err:
                    found[f"{folder}/{name}"] = err.errno
    return found

def ensure(kill_at=None):
    tree = Counted(lio.TARGET_ROOT, kill_at)
    with device.open_zvol(given["dataset"], timeout_seconds=20) as held:
        lio.Lio(tree=tree).ensure_export(
            subject_of(given), device=held.path, volume_id=VolumeId(given["volume_id"]),
            portals=tuple(map(Portal, given["portals"])), initiator=InitiatorName(given["initiator"]),
            chap=Chap("zolder", "a-lab-secret-123"), read_only=False,
        )
    return tree.steps

def remove(kill_at=None):
    tree = Counted(lio.TARGET_ROOT, kill_at)
    lio.Lio(tree=tree).remove_export(subject_of(given))
    return tree.steps

def killed(work, step):
    child = os.fork()
    if child == 0:
        work(step)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 9:
        wrong.append(f"step {step} of {work.__name__} was never reached")

def expect(expected, what):
    seen = picture()
    if seen != expected:
        wrong.append(f"{what}: {sorted(set(seen.items()) ^ set(expected.items()))[:4]}")

wrong = []
pristine = picture()
export_steps = ensure()
whole = picture()
removal_steps = remove()
expect(pristine, "a removal left something")
for step in range(max(export_steps, removal_steps)):
    one, other = min(step, export_steps - 1), min(step, removal_steps - 1)
    killed(ensure, one)
    ensure()
    expect(whole, f"export killed at {one}, asked again")
    killed(remove, other)
    ensure()
    expect(whole, f"removal killed at {other}, exported again")
    killed(remove, other)
    remove()
    expect(pristine, f"removal killed at {other}, asked again")
    killed(ensure, one)
    remove()
    expect(pristine, f"export killed at {one}, removed")
answer({"export_steps": export_steps, "removal_steps": removal_steps, "wrong": wrong})
"""


def test_whatever_a_killed_agent_leaves_is_adopted_and_removed(volume: Volume) -> None:
    """Killed before every single step of an export or a removal, both end well when asked again."""
    found = volume.ask(_KILLED_AT_EVERY_STEP, initiator=INITIATOR)
    assert found["wrong"] == []
    assert found["export_steps"] > 15
    assert found["removal_steps"] > 8


def test_the_device_is_found_without_udevs_link(lab: Lab, volume: Volume) -> None:
    """The kernel's own word for a node's zvol finds it where the link is missing or leads elsewhere."""
    find = """
with device.open_zvol(given["dataset"], timeout_seconds=5) as held:
    answer([str(held.path), device.read_zvol_name(held.descriptor)])
"""
    link = f"/dev/zvol/{volume.dataset}"
    lab.san.wait_until(f"test -L {link}", 20)
    node = lab.san.succeed(f"readlink -f {link}").strip()
    expected = [node, volume.dataset]
    assert volume.ask(find) == expected
    lab.san.succeed(f"rm {link}")
    assert volume.ask(find) == expected
    lab.san.succeed(f"zfs create -s -V 64M {volume.dataset}-wrong")
    wrong = f"/dev/zvol/{volume.dataset}-wrong"
    lab.san.wait_until(f"test -L {wrong}", 20)
    lab.san.succeed(f"ln -s $(readlink {wrong}) {link}")
    assert volume.ask(find) == expected
    lab.san.succeed(f"rm {link}; zfs destroy {volume.dataset}-wrong")


def test_holders_are_named(lab: Lab, volume: Volume) -> None:
    """LIO, a process, swap, a mount and device-mapper show as what they are."""
    ask = """
with device.open_zvol(given["dataset"], timeout_seconds=5) as held:
    node = held.path
answer(holders.holders_of(given["dataset"], node))
"""
    link = f"/dev/zvol/{volume.dataset}"
    lab.san.wait_until(f"test -L {link}", 20)
    assert volume.ask(ask) == []
    volume.export()
    assert [line.partition("/")[2] for line in volume.ask(ask)] == [volume.dataset.replace("/", ":")]
    volume.close()
    lab.san.succeed(f"systemd-run --unit holder --collect sh -c 'exec sleep 600 < {link}'")
    lab.san.wait_until(lambda: "(sleep)" in str(volume.ask(ask)), 10)
    lab.san.succeed("systemctl stop holder")
    lab.san.succeed(f"mkswap {link} && swapon {link}")
    assert volume.ask(ask)[0].startswith("swap /dev/zd")
    lab.san.succeed(f"swapoff {link} && mkfs.ext4 -q {link} && mount {link} /mnt")
    assert volume.ask(ask) == ["mount /mnt"]
    lab.san.succeed("umount /mnt")
