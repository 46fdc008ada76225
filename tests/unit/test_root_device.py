"""Which devices root opens for an agent, and how."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.kept_san import DATASET, ID, PARENT, POLICY, VIEW_ID, ZVOL, KeptSan
from tests.unit.test_device import dev, make_node
from zolder.errors import BackendError, Busy, ConnectionLost, Error, NotFound, NotPermitted
from zolder.names import OperationId, ZvolName
from zolder.san import root
from zolder.san.descriptors import open_zvol_device
from zolder.san.libzfs import EXPORT_RECORD, VIEW_MARK, VOLUME_MARK, Properties, Property
from zolder.san.locks import Locks
from zolder.san.operation import Operation
from zolder.san.privileged import Held
from zolder.san.root import Root

__all__ = ["dev"]  # the fixture


class Handing:
    """The line to an agent: it keeps what is handed over."""

    def __init__(self) -> None:
        """Have nothing yet."""
        self.handed: list[int] = []

    def hand_over(self, descriptor: int) -> None:
        """Keep one."""
        self.handed.append(descriptor)


def test_who_uses_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the devices in use those of the parent's own zvols are told, each by what it says of itself."""
    names = {"zd0": f"{PARENT}/disk", "zd16": "data/other/disk", "zd32": f"{PARENT}/below/disk", "zd48": None}
    names |= {"zd64": f"{PARENT}/No_Name", "zd80": f"{PARENT}/a-disk"}
    found = {node: [f"process {node}"] for node in names}
    monkeypatch.setattr(root, "all_holders", lambda: {**found, f"{PARENT}/disk": ["LIO backstore"]})
    monkeypatch.setattr(root, "find_zvol_name", lambda node: names[node.name])
    verbs = Root(POLICY, KeptSan(tmp_path).root()._operation, Locks(tmp_path / "roots"))
    assert verbs.list_holders(PARENT) == (
        Held(ZvolName("a-disk"), ("process zd80",)),
        Held(ZvolName("disk"), ("process zd0", "LIO backstore")),
    )


class Ground:
    """One SAN, whose devices are numbers."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        """Stand where root looks."""
        self.san = KeptSan(folder)
        self.san.install(patch)
        self.line = Handing()
        self.opened: list[tuple[str, bool]] = []
        self.holders: list[str] = []
        self.peer = True
        patch.setattr(root, "open_zvol_device", self._open)
        patch.setattr(root, "holders_of", lambda _, __: list(self.holders))

    def open_device(self, *, to_write: bool) -> int:
        """Ask root for the zvol's device."""
        operation = Operation(
            OperationId(ID),
            seconds=20,
            peer_is_there=lambda: self.peer,
            notify=lambda _: None,
            line=self.line,  # type: ignore[arg-type]  # all that is asked of it here
        )
        verbs = Root(POLICY, operation, Locks(self.san.site.run / "roots"), site=self.san.site)
        return verbs.open_device(PARENT, ZVOL, to_write=to_write)

    @contextmanager
    def _open(self, dataset: str, *, to_write: bool) -> Iterator[int]:
        self.opened.append((dataset, to_write))
        yield 99


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    """A SAN with one zvol of ours."""
    return Ground(tmp_path, monkeypatch)


@pytest.mark.parametrize("to_write", [True, False])
def test_one_of_ours(ground: Ground, *, to_write: bool) -> None:
    """A volume's device is opened as it was asked for, and handed over."""
    ground.open_device(to_write=to_write)
    assert ground.opened == [(DATASET, to_write)]
    assert ground.line.handed == [99]


@pytest.mark.parametrize("to_write", [True, False])
@pytest.mark.parametrize(
    ("found", "error"),
    [
        pytest.param(None, NotFound, id="absent"),
        pytest.param({}, NotPermitted, id="no-mark"),
        pytest.param({VOLUME_MARK: Property(ID, str(PARENT))}, NotPermitted, id="inherited"),
        pytest.param({VOLUME_MARK: Property(ID, "$recvd")}, NotPermitted, id="received"),
        pytest.param({VOLUME_MARK: Property("no id", DATASET)}, NotPermitted, id="no-id"),
        pytest.param({VIEW_MARK: Property(VIEW_ID, DATASET)}, NotPermitted, id="view"),
        pytest.param({VOLUME_MARK: Property(ID, DATASET), "volsize": None}, NotPermitted, id="no-zvol"),
    ],
)
def test_nothing_else(
    ground: Ground, found: Properties | None, error: type[Error], *, to_write: bool
) -> None:
    """What is absent, unmarked, a snapshot's view or no zvol is not opened."""
    del ground.san.zfs.datasets[DATASET]
    if found is not None:
        kept = {"volsize": Property(2**20, None), **found}
        ground.san.zfs.datasets[DATASET] = {name: held for name, held in kept.items() if held}
    with pytest.raises(error):
        ground.open_device(to_write=to_write)
    assert ground.opened == []


def test_one_that_is_held(ground: Ground) -> None:
    """Who holds it is named and it is not opened to be written; to be read it is."""
    ground.holders = ["process 812 (qemu-img)"]
    with pytest.raises(Busy, match=r"in use by process 812 \(qemu-img\)"):
        ground.open_device(to_write=True)
    assert ground.opened == []
    ground.open_device(to_write=False)
    assert ground.line.handed == [99]


def test_a_record_that_zolder_did_not_write(ground: Ground) -> None:
    """It may be somebody's who reaches the zvol, so that is not written before a person has looked."""
    ground.san.zfs.datasets[DATASET][EXPORT_RECORD] = Property("{", DATASET)
    with pytest.raises(BackendError, match="did not write"):
        ground.open_device(to_write=True)
    assert ground.opened == []


def test_nobody_waits_any_more(ground: Ground) -> None:
    """An agent that is gone gets nothing."""
    ground.peer = False
    with pytest.raises(ConnectionLost):
        ground.open_device(to_write=False)
    assert ground.line.handed == []


def test_it_is_opened_for_one_purpose(dev: Path) -> None:
    """To be read or to be written, never both, past the page cache, and not for programs it starts."""
    make_node(dev, 0, DATASET)
    for to_write, mode in ((True, os.O_WRONLY), (False, os.O_RDONLY)):
        with open_zvol_device(DATASET, to_write=to_write, dev=dev) as descriptor:
            flags = int(Path(f"/proc/self/fdinfo/{descriptor}").read_text().split("flags:")[1].split()[0], 8)
            assert flags & os.O_ACCMODE == mode
            assert flags & os.O_DIRECT
            assert not os.get_inheritable(descriptor)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


@pytest.mark.parametrize(("number", "error"), [(errno.EBUSY, Busy), (errno.EROFS, BackendError)])
def test_one_that_the_kernel_refuses(
    dev: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Error]
) -> None:
    """A device that something has claimed is busy, and whatever else the kernel says is told."""
    make_node(dev, 0, DATASET)
    real = os.open

    def refuse(path: str | Path, flags: int) -> int:
        if flags & os.O_EXCL:
            raise OSError(number, os.strerror(number))
        return real(path, flags)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(error, match=DATASET), open_zvol_device(DATASET, to_write=True, dev=dev):
        pass
