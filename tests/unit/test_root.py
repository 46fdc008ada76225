from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given

from tests.unit.strategies import zvol_names
from zolder.errors import BackendError, Error, NotFound, NotPermitted, PoolSuspended, PoolUnavailable
from zolder.names import DatasetName, Identity, InitiatorName, OperationId, Portal, TargetPrefix, ZvolName
from zolder.san import libzfs, root
from zolder.san.exports import ZvolExport
from zolder.san.libzfs import Properties, Property
from zolder.san.locks import Locks
from zolder.san.operation import Operation
from zolder.san.parents import Site
from zolder.san.policy import Policy
from zolder.san.root import Root

PARENT = DatasetName("data/volumes")
ZVOL = ZvolName("volume-1")
DATASET = f"{PARENT}/{ZVOL}"
POLICY = Policy(Identity("lab"), (PARENT,))
ID = "3f0c1b6e-5a52-4c1e-9a0b-0123456789ab"
SIZE = {"volsize": Property(2**20, None)}


class Kernel:
    """ZFS as far as Root may get: it notes what is looked at and answers, or fails, as it was told."""

    def __init__(self) -> None:
        """Know of no dataset at first."""
        self.asked: list[str] = []
        self.answer: Properties | Error | None = None

    def read(self, dataset: str) -> Properties | None:
        """Stand in for libzfs's method."""
        self.asked.append(dataset)
        if isinstance(self.answer, Error):
            raise self.answer
        return self.answer


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A kernel behind libzfs, and no device or LIO that anybody may touch."""
    found = Kernel()

    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(libzfs, "library", lambda: found)
    monkeypatch.setattr(ZvolExport, "ensure", never)
    return found


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A SAN with one zpool, which is active."""
    state = tmp_path / "data" / "state"
    state.parent.mkdir()
    state.write_text("ONLINE\n")
    return Site(kernel_statistics=tmp_path)


@pytest.fixture
def open_zvol(site: Site, tmp_path: Path) -> Callable[[], object]:
    """What opens a zvol to an initiator."""
    return lambda: _open(Root(POLICY, operation(), Locks(tmp_path / "locks"), site=site), ZVOL)


def operation() -> Operation:
    """Return an operation with time to go."""
    return Operation(
        OperationId("00000000-0000-4000-8000-000000000001"),
        seconds=5,
        peer_is_there=lambda: True,
        notify=lambda _: None,
    )


def _open(verbs: Root, zvol: ZvolName) -> object:
    return verbs.open_export(
        PARENT,
        zvol,
        InitiatorName("iqn.2004-10.org.zolder:compute"),
        prefix=TargetPrefix("iqn.2010-10.org.openstack:"),
        portals=(Portal("192.0.2.1:3260"),),
        chap=None,
    )


@pytest.mark.parametrize(
    ("found", "error"),
    [
        pytest.param(None, NotFound, id="absent"),
        pytest.param(SIZE, NotPermitted, id="no-mark"),
        pytest.param({**SIZE, "zolder:volume": Property("no id", DATASET)}, NotPermitted, id="no-id"),
        pytest.param({**SIZE, "zolder:volume": Property(7, DATASET)}, NotPermitted, id="a-number"),
        pytest.param({**SIZE, "zolder:volume": Property(ID, PARENT)}, NotPermitted, id="inherited"),
        pytest.param({**SIZE, "zolder:volume": Property(ID, None)}, NotPermitted, id="no-source"),
        pytest.param({**SIZE, "zolder:volume": Property(ID, "$recvd")}, NotPermitted, id="received"),
        pytest.param({"zolder:volume": Property(ID, DATASET)}, NotPermitted, id="no-zvol"),
        pytest.param(BackendError("ZFS cannot say"), BackendError, id="unknown"),
    ],
)
def test_only_ours_is_exported(
    open_zvol: Callable[[], object], kernel: Kernel, found: Properties | Error | None, error: type[Error]
) -> None:
    """What is absent, no zvol, or without a mark of its own is refused before a device or LIO is touched."""
    kernel.answer = found
    with pytest.raises(error) as caught:
        open_zvol()
    assert type(caught.value) is error
    assert kernel.asked == [DATASET]


@pytest.mark.parametrize(("state", "error"), [("SUSPENDED", PoolSuspended), (None, PoolUnavailable)])
def test_inactive_zpools(
    open_zvol: Callable[[], object], kernel: Kernel, site: Site, state: str | None, error: type[Error]
) -> None:
    """A zpool that is suspended or not imported is not asked at all."""
    path = site.kernel_statistics / "data" / "state"
    path.unlink()
    if state is not None:
        path.write_text(state)
    with pytest.raises(error):
        open_zvol()
    assert kernel.asked == []


@given(zvol_names.map(ZvolName))
def test_what_is_looked_at(zvol: ZvolName) -> None:
    """Whatever a zvol is called, root looks at that name directly below the parent and at no other."""
    kernel = Kernel()
    with pytest.MonkeyPatch.context() as patch, tempfile.NamedTemporaryFile() as locks:
        patch.setattr(libzfs, "library", lambda: kernel)
        patch.setattr(root, "require_active", lambda *_: None)
        with pytest.raises(NotFound):
            _open(Root(POLICY, operation(), Locks(Path(locks.name))), zvol)
    (asked,) = kernel.asked
    assert asked.rpartition("/") == (str(PARENT), "/", str(zvol))
