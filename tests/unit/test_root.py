from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given

from tests.unit import kept_san
from tests.unit.kept_san import ALICE, BOB, CHAP, DATASET, FAST, PARENT, PORTALS, PREFIX, ROUTE, ZVOL, KeptSan
from tests.unit.kernel_tree import Killed
from tests.unit.strategies import zvol_names
from zolder import wish as wishes
from zolder.errors import (
    BackendError,
    Error,
    InvalidRequest,
    NotFound,
    NotPermitted,
    PoolSuspended,
    PoolUnavailable,
)
from zolder.model import Chap, Route
from zolder.names import (
    LIO,
    NVMET,
    TGT,
    ExporterName,
    Identity,
    InitiatorName,
    Portal,
    TargetPrefix,
    ZvolName,
)
from zolder.san import libzfs, root
from zolder.san.exports import ZvolExport
from zolder.san.libzfs import EXPORT_RECORD, VIEW_MARK, VOLUME_MARK, Properties, Property
from zolder.san.locks import Locks
from zolder.san.parents import Site
from zolder.san.policy import Policy
from zolder.san.root import Root
from zolder.wish import Grant, Wish

POLICY = Policy(Identity("lab"), (PARENT,))
ID = "3f0c1b6e-5a52-4c1e-9a0b-0123456789ab"
TARGET = f"{PREFIX}{ZVOL}"
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
    verbs = Root(POLICY, kept_san.operation(), Locks(tmp_path / "locks"), site=site)
    return lambda: verbs.open_export(PARENT, ZVOL, ALICE, chap=None)


@pytest.fixture
def san(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeptSan:
    """A SAN with one zvol that nobody may reach."""
    kept = KeptSan(tmp_path / "kept")
    kept.install(monkeypatch)
    return kept


def write(
    san: KeptSan,
    text: str | None = None,
    *,
    route: Route = ROUTE,
    chap: bool = False,
    initiator: InitiatorName = ALICE,
) -> None:
    """Put a record on the zvol as the agent's user may: a text of its own, or Alice's over a route."""
    wish = Wish(route, (Grant(initiator, (), unnamed=True, chap=chap),))
    san.zfs.datasets[DATASET][EXPORT_RECORD] = Property(text or wishes.write_wish(wish), DATASET)


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
        pytest.param({**SIZE, VOLUME_MARK: Property(ID, DATASET)}, NotPermitted, id="no-record"),
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
        verbs = Root(POLICY, kept_san.operation(), Locks(Path(locks.name)))
        with pytest.raises(NotFound):
            verbs.open_export(PARENT, zvol, ALICE, chap=None)
    (asked,) = kernel.asked
    assert asked.rpartition("/") == (str(PARENT), "/", str(zvol))


def test_what_is_on_record_is_opened(san: KeptSan) -> None:
    """The route comes from the zvol's own record; asked again nothing is left to do."""
    write(san, route=Route(LIO, FAST, PORTALS[:1]))
    assert san.root().open_export(PARENT, ZVOL, ALICE, chap=None) is True
    assert san.lio.standing[f"{FAST}{ZVOL}"].portals == PORTALS[:1]
    assert san.lio.standing[f"{FAST}{ZVOL}"].read_only is False
    assert san.root().open_export(PARENT, ZVOL, ALICE, chap=None) is False


def test_only_who_is_on_record_is_let_in(san: KeptSan) -> None:
    """Somebody else than the record names is refused, and so is a secret that it knows nothing of."""
    write(san)
    for initiator, chap in ((BOB, None), (ALICE, CHAP)):
        with pytest.raises(NotPermitted, match=f"no record that {initiator} is to reach it so"):
            san.root().open_export(PARENT, ZVOL, initiator, chap=chap)
    write(san, chap=True)
    with pytest.raises(NotPermitted, match="no record"):
        san.root().open_export(PARENT, ZVOL, ALICE, chap=None)
    assert san.steps.taken == []
    assert san.secrets.find(PARENT, ZVOL, ALICE) is None


@pytest.mark.parametrize(
    ("route", "error"),
    [
        (Route(LIO, TargetPrefix("iqn.2010-10.org.other:"), PORTALS), NotPermitted),
        (Route(LIO, TargetPrefix("iqn.2010-10.org:"), PORTALS), NotPermitted),
        (Route(LIO, PREFIX, (Portal("0.0.0.0:3260"),)), NotPermitted),
        (Route(LIO, PREFIX, (*PORTALS, Portal("192.0.2.1:22"))), NotPermitted),
        (Route(LIO, PREFIX, ()), InvalidRequest),
        (Route(LIO, PREFIX, (PORTALS[0], PORTALS[0])), InvalidRequest),
    ],
)
def test_a_record_beyond_the_policy(san: KeptSan, route: Route, error: type[Error]) -> None:
    """Whatever a record says, a portal or a prefix that is not this identity's opens nothing."""
    write(san, route=route)
    with pytest.raises(error):
        san.root().open_export(PARENT, ZVOL, ALICE, chap=None)
    assert san.steps.taken == []
    if route.prefix != PREFIX:
        with pytest.raises(NotPermitted):
            san.root().grow_export(PARENT, ZVOL)
        assert san.lio.grown == []


@pytest.mark.parametrize(
    "text",
    [
        "x" * 8191,
        "[" * 8191,
        "9" * 8191,
        '{"route":' * 900,
        '{"route":{"exporter":"targetcli","prefix":"iqn.2010-10.org.openstack:","portals":[]},"grants":[]}',
        '{"route":{"exporter":"lio","prefix":"../core","portals":[]},"grants":[]}',
    ],
)
def test_a_hostile_record(san: KeptSan, text: str) -> None:
    """Text without sense, too deep or with other exporters opens nothing, and is told with the way out."""
    write(san, text)
    for attempt in (
        lambda: san.root().open_export(PARENT, ZVOL, ALICE, chap=None),
        lambda: san.root().grow_export(PARENT, ZVOL),
    ):
        with pytest.raises(BackendError, match="zfs inherit zolder:export"):
            attempt()
    assert san.steps.taken == []


def test_an_inherited_record_opens_nothing(san: KeptSan) -> None:
    """What stands on the parent is on none of its zvols."""
    write(san)
    record = san.zfs.datasets[DATASET].pop(EXPORT_RECORD)
    san.zfs.datasets[PARENT][EXPORT_RECORD] = Property(record.value, PARENT)
    with pytest.raises(NotPermitted, match="no record"):
        san.root().open_export(PARENT, ZVOL, ALICE, chap=None)


def test_a_view_is_read_only(san: KeptSan) -> None:
    """What bears a snapshot's mark is exported for reading, with the snapshot's id."""
    san.zfs.add(DATASET, {"volsize": 1, VIEW_MARK: ID})
    write(san)
    san.root().open_export(PARENT, ZVOL, ALICE, chap=None)
    standing = san.lio.standing[TARGET]
    assert (standing.read_only, standing.volume_id) == (True, ID)


@pytest.mark.parametrize("step", [0, 1])
def test_a_secret_is_kept_before_it_is_asked_for(san: KeptSan, step: int) -> None:
    """It is there before the kernel knows of it, so that a boot in between finds it."""
    write(san, chap=True)
    san.steps.start(kill_at=step)
    with pytest.raises(Killed):
        san.root().open_export(PARENT, ZVOL, ALICE, chap=CHAP)
    assert san.secrets.find(PARENT, ZVOL, ALICE) == CHAP
    san.steps.start()
    san.root().close_export(PARENT, ZVOL, None, exporter=None)
    assert san.secrets.find(PARENT, ZVOL, ALICE) is None


@pytest.mark.parametrize("before", [None, Chap("zolder", "an-earlier-secret")])
def test_a_failed_attempt_leaves_the_former_secret(san: KeptSan, before: Chap | None) -> None:
    """What an initiator was told of at last is what a boot finds."""
    write(san, chap=True)
    if before:
        san.secrets.put(PARENT, ZVOL, ALICE, before)
    san.steps.start(refuse_at=0)
    with pytest.raises(BackendError, match="the kernel refuses"):
        san.root().open_export(PARENT, ZVOL, ALICE, chap=CHAP)
    assert san.secrets.find(PARENT, ZVOL, ALICE) == before


@pytest.mark.parametrize("left", [LIO, TGT, NVMET])
def test_the_first_one_in_finds_nobody_left_behind(san: KeptSan, left: ExporterName) -> None:
    """Whom a killed agent left let in, over this exporter or another, is put out by the next opening."""
    stranger = InitiatorName("nqn.2014-08.org.nvmexpress:uuid:left") if left == NVMET else BOB
    write(san, initiator=stranger, route=Route(left, PREFIX, PORTALS))
    san.root().open_export(PARENT, ZVOL, stranger, chap=None)
    write(san)
    assert san.root().open_export(PARENT, ZVOL, ALICE, chap=None) is True
    found = [name for export in san.root().list_exports(PARENT) for name in export.initiators]
    assert found == [ALICE]


def test_closing_takes_the_secret_of_who_is_shut_out(san: KeptSan) -> None:
    """One initiator's secret goes with it, and another's stays."""
    both = wishes.add(None, ROUTE, ALICE, None, chap=True)
    write(san, wishes.write_wish(wishes.add(both, ROUTE, BOB, None, chap=True)))
    for initiator in (ALICE, BOB):
        san.root().open_export(PARENT, ZVOL, initiator, chap=CHAP)
    assert san.root().close_export(PARENT, ZVOL, ALICE, exporter=LIO) is True
    assert san.secrets.find(PARENT, ZVOL, ALICE) is None
    assert san.secrets.find(PARENT, ZVOL, BOB) == CHAP
    assert san.reached_by() == {DATASET: (BOB,)}


@pytest.mark.parametrize("state", [None, "SUSPENDED"])
def test_closing_needs_no_zpool(san: KeptSan, state: str | None) -> None:
    """A target is closed whatever became of its zvol and its zpool."""
    write(san)
    san.root().open_export(PARENT, ZVOL, ALICE, chap=None)
    san.zfs.datasets.clear()
    path = san.site.kernel_statistics / "data" / "state"
    path.unlink()
    if state is not None:
        path.write_text(state)
    assert san.root().close_export(PARENT, ZVOL, ALICE, exporter=None) is True
    assert san.reached_by() == {}


def test_what_waited_for_its_secret_waits_no_longer(san: KeptSan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening and closing strike an export off the list of those that wait for a secret."""
    struck: list[tuple[str, object]] = []
    monkeypatch.setattr(root, "note_supplied", lambda *entry: struck.append(entry))
    write(san, chap=True)
    san.root().open_export(PARENT, ZVOL, ALICE, chap=CHAP)
    san.root().close_export(PARENT, ZVOL, ALICE, exporter=LIO)
    san.root().close_export(PARENT, ZVOL, None, exporter=None)
    assert struck == [(DATASET, ALICE), (DATASET, ALICE), (DATASET, None)]


@pytest.mark.parametrize("exporter", [LIO, TGT, NVMET])
def test_growth_is_told_where_the_record_says(san: KeptSan, exporter: ExporterName) -> None:
    """A zvol that nobody is to reach has nothing to grow; any other grows with its own exporter alone."""
    san.root().grow_export(PARENT, ZVOL)
    assert not any(kept.grown for kept in san.exporters.values())
    write(san, route=Route(exporter, PREFIX, PORTALS))
    san.root().grow_export(PARENT, ZVOL)
    assert [name for name, kept in san.exporters.items() if kept.grown == [TARGET]] == [exporter]


def test_growth_of_what_is_not_ours(san: KeptSan) -> None:
    """A zvol without a mark of its own is not grown, whatever its record says."""
    write(san)
    del san.zfs.datasets[DATASET][VOLUME_MARK]
    with pytest.raises(NotPermitted):
        san.root().grow_export(PARENT, ZVOL)
    assert san.lio.grown == []


def test_exports_are_listed_as_they_stand(san: KeptSan) -> None:
    """A list asks the exporters and not the records."""
    write(san)
    assert san.root().list_exports(PARENT) == ()
    san.root().open_export(PARENT, ZVOL, ALICE, chap=None)
    assert [export.target for export in san.root().list_exports(PARENT)] == [TARGET]
