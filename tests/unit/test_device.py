from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from zolder.errors import BackendError
from zolder.san import device
from zolder.san.device import find_zvol_name, open_zvol

DATASET = "data/volumes/volume-1"


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of nodes: a plain file each, whose text is the name that the ioctl answers."""

    def name_in_file(descriptor: int) -> str:
        text = os.pread(descriptor, 256, 0).decode()
        if text.startswith("error "):
            raise OSError(int(text.removeprefix("error ")), "from the test")
        return text

    monkeypatch.setattr(device, "read_zvol_name", name_in_file)
    return tmp_path


def make_node(dev: Path, minor: int, name: str, *, age: int = 0) -> None:
    """Make the node of a zvol at once, as the kernel does, so many seconds ago."""
    new = dev / "new"
    new.write_text(name)
    os.utime(new, (1_000_000_000 - age,) * 2)
    new.rename(dev / f"zd{minor}")


def link(dev: Path, minor: int) -> None:
    """Make udev's link to a node."""
    at = dev / "zvol" / DATASET
    at.parent.mkdir(parents=True, exist_ok=True)
    at.symlink_to(f"../../../zd{minor}")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the nodes that were opened, in their order."""
    names: list[str] = []
    real = os.open

    def note(path: Path, flags: int) -> int:
        names.append(Path(path).name)
        return real(path, flags)

    monkeypatch.setattr(os, "open", note)
    return names


def test_the_request_number_is_the_one_of_the_header() -> None:
    """BLKZNAME is _IOR(0x12, 125, char[256]): 0x8100127d where asm-generic encodes it."""
    assert device._BLKZNAME == 0x8100127D


def test_a_linked_node_is_opened_alone(dev: Path, opened: list[str]) -> None:
    """With udev's link there, no other zvol's node is opened."""
    make_node(dev, 0, "data/volumes/other")
    make_node(dev, 16, DATASET)
    link(dev, 16)
    with open_zvol(DATASET, timeout_seconds=0, dev=dev) as found:
        assert found.path == dev / "zd16"
        assert os.fstat(found.descriptor).st_ino == (dev / "zd16").stat().st_ino
    assert opened == ["zd16"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(found.descriptor)


def test_the_descriptor_is_closed_after_an_error(dev: Path) -> None:
    """Whatever happens while the device is held, it does not stay open."""
    make_node(dev, 16, DATASET)
    with (
        pytest.raises(ZeroDivisionError),
        open_zvol(DATASET, timeout_seconds=0, dev=dev) as found,
    ):
        raise ZeroDivisionError
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(found.descriptor)


def test_a_stale_link_is_not_believed(dev: Path) -> None:
    """A link to a node that is another zvol's by now leads to no wrong device."""
    make_node(dev, 0, "data/volumes/other")
    link(dev, 0)
    with pytest.raises(BackendError, match=DATASET):
        open_zvol(DATASET, timeout_seconds=0, dev=dev).__enter__()
    make_node(dev, 16, DATASET)
    with open_zvol(DATASET, timeout_seconds=0, dev=dev) as found:
        assert found.path.name == "zd16"


def test_the_newest_node_is_looked_at_first(dev: Path, opened: list[str]) -> None:
    """Without a link, the node of a zvol made just now is found by opening one node."""
    for minor in range(0, 1600, 16):
        make_node(dev, minor, f"data/volumes/other-{minor}", age=10_000 - minor)
    make_node(dev, 800, DATASET)
    with open_zvol(DATASET, timeout_seconds=0, dev=dev) as found:
        assert found.path.name == "zd800"
    assert opened == ["zd800"]


def test_an_old_node_without_a_link_is_found(dev: Path, opened: list[str]) -> None:
    """Where udev lost a link for ever, the search widens until it meets the node, opening each once."""
    make_node(dev, 0, DATASET, age=20_000)
    for minor in range(16, 1600, 16):
        make_node(dev, minor, f"data/volumes/other-{minor}", age=10_000 - minor)
    with open_zvol(DATASET, timeout_seconds=5, dev=dev) as found:
        assert found.path.name == "zd0"
    assert len(opened) == len(set(opened)) == 100


def test_partitions_and_other_devices_are_never_opened(dev: Path, opened: list[str]) -> None:
    """Only whole zvol disks are looked at."""
    for name in ("zd0p1", "zd", "sda", "zdisk", "zd1x"):
        (dev / name).write_text(DATASET)
    with pytest.raises(BackendError, match="no block device of data/volumes/volume-1 came within 0 s"):
        open_zvol(DATASET, timeout_seconds=0, dev=dev).__enter__()
    assert opened == []


def test_a_late_node_is_waited_for(dev: Path) -> None:
    """A node that comes within the time is found soon after it came."""
    timer = threading.Timer(0.05, make_node, (dev, 16, DATASET))
    timer.start()
    with open_zvol(DATASET, timeout_seconds=10, dev=dev) as found:
        assert found.path.name == "zd16"
    timer.join()


def test_waiting_does_not_open_other_zvols_again(dev: Path, opened: list[str]) -> None:
    """However long the wait, each of the others is opened at most once."""
    for minor in (0, 16, 32):
        make_node(dev, minor, f"data/volumes/other-{minor}")
    with pytest.raises(BackendError):
        open_zvol(DATASET, timeout_seconds=0.05, dev=dev).__enter__()
    assert sorted(opened) == ["zd0", "zd16", "zd32"]


@pytest.mark.parametrize("number", [errno.ENXIO, errno.EACCES, 512])
def test_a_node_that_cannot_be_asked_now_is_asked_again(dev: Path, number: int) -> None:
    """A refusal (512 is the ERESTARTSYS that ZFS lets out when it is busy) is tried again, then told."""
    make_node(dev, 16, f"error {number}")
    timer = threading.Timer(0.05, make_node, (dev, 16, DATASET))
    timer.start()
    with open_zvol(DATASET, timeout_seconds=10, dev=dev) as found:
        assert found.path.name == "zd16"
    timer.join()
    make_node(dev, 16, f"error {number}")
    with pytest.raises(BackendError) as caught:
        open_zvol(DATASET, timeout_seconds=0, dev=dev).__enter__()
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == number


def test_a_plain_file_is_no_zvol(tmp_path: Path) -> None:
    """The real ioctl refuses what is no zvol."""
    (tmp_path / "zd0").write_text(DATASET)
    with pytest.raises(BackendError) as caught:
        open_zvol(DATASET, timeout_seconds=0, dev=tmp_path).__enter__()
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOTTY


def test_a_node_says_whose_it_is(dev: Path) -> None:
    """A node is asked by itself; of what is no zvol, or has gone, nothing is known."""
    make_node(dev, 16, DATASET)
    make_node(dev, 32, f"error {errno.ENOTTY}")
    assert find_zvol_name(dev / "zd16") == DATASET
    assert find_zvol_name(dev / "zd32") is None
    assert find_zvol_name(dev / "zd48") is None
