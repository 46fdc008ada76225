from __future__ import annotations

from pathlib import Path

import pytest

from zolder.san import holders
from zolder.san.holders import all_holders, holders_of

DATASET = "data/volumes/volume-1"
NODE = Path("/dev/zd16")


def write(root: Path, path: str, text: str = "") -> None:
    """Write a file of a made-up ``/proc`` or ``/sys``."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def link(root: Path, path: str, to: str) -> None:
    """Make a link in a made-up ``/proc`` or ``/dev``."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).symlink_to(to)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a machine with two zvols, the first with a partition, and nobody using them."""
    for disk, number in (("zd0", "230:0"), ("zd16", "230:16")):
        write(tmp_path, f"sys/block/{disk}/dev", f"{number}\n")
        (tmp_path / f"sys/block/{disk}/holders").mkdir()
    write(tmp_path, "sys/block/zd16/zd16p1/partition", "1\n")
    write(tmp_path, "sys/block/zd16/zd16p1/dev", "230:17\n")
    (tmp_path / "sys/block/zd16/zd16p1/holders").mkdir()
    write(tmp_path, "proc/self/mountinfo", "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n")
    write(tmp_path, "proc/swaps", "Filename\t\t\t\tType\t\tSize\n/dev/sda2   partition 1048572 0 -2\n")
    link(tmp_path, "dev/zvol/data/volumes/volume-1", "../../../zd16")
    return tmp_path


def test_a_free_zvol_has_no_holders(root: Path) -> None:
    """Where nobody uses it the list is empty, and a zvol without a node has no holders to find."""
    assert holders_of(DATASET, NODE, root=root) == []
    assert holders_of("data/volumes/nowhere", None, root=root) == []


def test_devices_stacked_on_it_are_named(root: Path) -> None:
    """LVM and others on the disk or a partition show by their device-mapper name, md by its own."""
    (root / "sys/block/zd16/holders/md0").mkdir()
    (root / "sys/block/zd16/zd16p1/holders/dm-3").mkdir()
    write(root, "sys/block/dm-3/dm/name", "guestvg-root\n")
    assert holders_of(DATASET, NODE, root=root) == ["device md0", "device-mapper guestvg-root (dm-3)"]


def test_mounts_are_found_by_number_and_by_name(root: Path) -> None:
    """A mount of a partition is found by its device number, one of btrfs by its source."""
    write(
        root,
        "proc/self/mountinfo",
        "30 22 230:17 / /mnt/guest rw - ext4 /dev/root rw\n"
        "31 22 0:44 /sub /mnt/b\\040c rw,relatime shared:9 master:1 - btrfs /dev/zd16 rw\n"
        "32 22 230:0 / /mnt/other rw - ext4 /dev/zd0 rw\n",
    )
    assert holders_of(DATASET, NODE, root=root) == ["mount /mnt/guest", "mount /mnt/b\\040c"]


def test_swap_is_named(root: Path) -> None:
    """A zvol that is swapped on shows as such."""
    write(root, "proc/swaps", "Filename Type\n/dev/zd16   partition 1048572 0 -2\n")
    assert holders_of(DATASET, NODE, root=root) == ["swap /dev/zd16"]


def test_processes_are_named_once_with_their_command(root: Path) -> None:
    """A process shows once, however many descriptors it has open; one that uses another zvol does not."""
    write(root, "proc/99/comm", "qemu-img\n")
    link(root, "proc/99/fd/3", "/dev/zd16")
    link(root, "proc/99/fd/4", "/dev/zd16p1")
    write(root, "proc/812/comm", "tgtd\n")
    link(root, "proc/812/fd/5", "/dev/zd16")
    write(root, "proc/7/comm", "dd\n")
    link(root, "proc/7/fd/0", "/dev/zd0")
    assert holders_of(DATASET, NODE, root=root) == ["process 99 (qemu-img)", "process 812 (tgtd)"]


def test_backstores_of_lio_are_named(root: Path) -> None:
    """A backstore shows whether it was made with the node's name or the zvol's link."""
    write(root, "sys/kernel/config/target/core/iblock_7/volume-1/udev_path", "/dev/zd16\n")
    write(root, "sys/kernel/config/target/core/iblock_8/theirs/udev_path", f"/dev/zvol/{DATASET}\n")
    write(root, "sys/kernel/config/target/core/iblock_9/other/udev_path", "/dev/zd0\n")
    assert holders_of(DATASET, NODE, root=root) == [
        "LIO backstore iblock_7/volume-1",
        "LIO backstore iblock_8/theirs",
    ]


def test_without_a_node_the_link_of_udev_is_followed(root: Path) -> None:
    """A caller that knows no node gets the same answer."""
    write(root, "proc/99/comm", "qemu-img\n")
    link(root, "proc/99/fd/3", "/dev/zd16")
    assert holders_of(DATASET, None, root=root) == ["process 99 (qemu-img)"]


def test_what_vanishes_meanwhile_is_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends between two looks at it breaks nothing."""
    link(root, "proc/98/fd/3", "/dev/zd16")
    write(root, "proc/99/comm", "qemu-img\n")
    listed = holders._names

    def list_then_lose(folder: str | Path) -> list[str]:
        lost = {"proc": ["100"], "fd": ["9"]}
        return listed(folder) + lost.get(Path(folder).name, [])

    monkeypatch.setattr(holders, "_names", list_then_lose)
    assert holders_of(DATASET, NODE, root=root) == []


def test_processes_of_others_are_owned_up_to(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the user may not look into a process, the answer says that it looked into some only."""
    write(root, "proc/1/comm", "systemd\n")
    write(root, "proc/99/comm", "qemu-img\n")
    link(root, "proc/99/fd/3", "/dev/zd16")
    listed = holders._names

    def refuse(folder: str | Path) -> list[str]:
        if Path(folder) == root / "proc/1/fd":
            raise PermissionError
        return listed(folder)

    monkeypatch.setattr(holders, "_names", refuse)
    assert holders_of(DATASET, NODE, root=root) == [
        "process 99 (qemu-img)",
        "perhaps one of 1 processes that only root may look into",
    ]


def test_all_are_found_by_one_look(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each disk in use has its own holders, a process with two shows at both, no folder is listed twice."""
    (root / "sys/block/zd16/zd16p1/holders/dm-3").mkdir()
    write(root, "proc/swaps", "Filename Type\n/dev/zd0   partition 1048572 0 -2\n")
    write(root, "proc/99/comm", "qemu-img\n")
    link(root, "proc/99/fd/3", "/dev/zd16")
    link(root, "proc/99/fd/4", "/dev/zd0")
    write(root, "sys/block/sda/dev", "8:0\n")
    write(root, "proc/7/comm", "dd\n")
    link(root, "proc/7/fd/0", "/dev/sda")
    write(root, "sys/kernel/config/target/core/iblock_8/theirs/udev_path", "/dev/zvol/data/gone/disk\n")
    write(root, "sys/kernel/config/nvmet/subsystems/nqn/namespaces/1/device_path", "/dev/zd16\n")
    write(root, "sys/kernel/config/nvmet/subsystems/nqn/namespaces/1/enable", "1\n")
    looked: list[str] = []
    listed = holders._names

    def note(folder: str | Path) -> list[str]:
        looked.append(str(folder))
        return listed(folder)

    monkeypatch.setattr(holders, "_names", note)
    assert all_holders(root=root) == {
        "zd0": ["swap /dev/zd0", "process 99 (qemu-img)"],
        "zd16": ["device dm-3", "process 99 (qemu-img)", "nvmet namespace 1 of nqn"],
        "data/gone/disk": ["LIO backstore iblock_8/theirs"],
    }
    assert len(looked) == len(set(looked))


def test_what_a_process_calls_itself(root: Path) -> None:
    """Its name is any bytes; what cannot be printed, and so cannot be carried, is replaced."""
    write(root, "proc/99/comm", "a\x1b[2J\n")
    link(root, "proc/99/fd/3", "/dev/zd16")
    assert holders_of(DATASET, NODE, root=root) == ["process 99 (a?[2J)"]
