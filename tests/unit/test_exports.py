from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.kept_san import (
    ALICE,
    BOB,
    CHAP,
    DATASET,
    FAST,
    ID,
    PARENT,
    POLICY,
    PORTALS,
    PREFIX,
    ROUTE,
    ZVOL,
    KeptSan,
    Standing,
)
from tests.unit.nvmet_export import make_root
from tests.unit.nvmet_tree import NvmetTree
from zolder.errors import AlreadyExists, BackendError, Busy
from zolder.model import Export, Route
from zolder.names import (
    LIO,
    NVMET,
    TGT,
    DatasetName,
    ExporterName,
    InitiatorName,
    TargetPrefix,
    ZvolName,
    subsystem_name,
)
from zolder.san import exports
from zolder.san.exports import EXPORTERS, ZvolExport, list_exports
from zolder.san.nvmet import Nvmet
from zolder.san.policy import Policy

TARGET = f"{PREFIX}{ZVOL}"
NQN = InitiatorName("nqn.2014-08.org.nvmexpress:uuid:1")


@pytest.fixture
def san(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeptSan:
    """A SAN with one zvol that nobody may reach."""
    kept = KeptSan(tmp_path)
    kept.install(monkeypatch)
    return kept


def export(policy: Policy = POLICY, zvol: ZvolName = ZVOL) -> ZvolExport:
    """Return the zvol's export."""
    return ZvolExport(policy, PARENT, zvol)


def ensure(initiator: InitiatorName = ALICE, *, route: Route = ROUTE, zvol: ZvolName = ZVOL) -> bool:
    """Open it to an initiator."""
    return export(zvol=zvol).ensure(ID, initiator, route=route, chap=None, read_only=False, seconds=5)


def test_each_exporter_goes_by_its_own_name() -> None:
    """There is one for each name that a route can have."""
    assert set(EXPORTERS) == {LIO, TGT, NVMET}
    assert all(kind().name == name for name, kind in EXPORTERS.items())


@pytest.mark.parametrize(("exporter", "initiator"), [(LIO, ALICE), (TGT, ALICE), (NVMET, NQN)])
def test_a_route_leads_to_its_exporter(
    san: KeptSan, exporter: ExporterName, initiator: InitiatorName
) -> None:
    """The export stands with the exporter of the route and with no other."""
    assert ensure(initiator, route=replace(ROUTE, exporter=exporter))
    assert [name for name, kept in san.exporters.items() if kept.standing] == [exporter]


def test_what_an_export_gets(san: KeptSan) -> None:
    """The exporter is given the zvol, its id, the portals, the secret and whether it may be written."""
    export().ensure(ID, ALICE, route=ROUTE, chap=CHAP, read_only=True, seconds=5)
    assert san.lio.standing == {TARGET: Standing(DATASET, ID, PORTALS, read_only=True, secrets={ALICE: CHAP})}


def test_without_a_device_nothing_is_made(san: KeptSan) -> None:
    """A zvol whose node does not come is told, and no exporter is asked."""
    with pytest.raises(BackendError, match="no block device"):
        ensure(zvol=ZvolName("volume-9"))
    assert san.steps.taken == []


@pytest.mark.parametrize("known", [True, False])
def test_a_withdraw_finds_it_under_any_prefix(san: KeptSan, *, known: bool) -> None:
    """An export is found under each of the policy's prefixes, with its exporter known or not."""
    for prefix in (PREFIX, FAST):
        ensure(route=replace(ROUTE, prefix=prefix))
        assert export().withdraw(BOB, LIO if known else None) is False
        assert export().withdraw(ALICE, LIO if known else None) is True
        assert san.lio.standing == {}
        assert export().withdraw(ALICE, LIO if known else None) is False


def test_a_withdraw_asks_only_the_exporter_that_is_known(san: KeptSan) -> None:
    """Where the record says which exporter it is, what stands with another stays."""
    ensure()
    assert export().withdraw(ALICE, TGT) is False
    assert export().withdraw_all(TGT) is False
    assert san.reached_by() == {DATASET: (ALICE,)}


def test_withdraw_all_closes_it_everywhere(san: KeptSan) -> None:
    """Without an exporter it is closed at each, whoever has it."""
    ensure()
    ensure(BOB, route=replace(ROUTE, exporter=TGT, prefix=FAST))
    ensure(NQN, route=replace(ROUTE, exporter=NVMET))
    assert export().withdraw_all(None) is True
    assert san.reached_by() == {}
    assert export().withdraw_all(None) is False


def test_a_target_beyond_the_policy_is_told(san: KeptSan) -> None:
    """A prefix that the policy has lost does not make an export look withdrawn."""
    ensure(route=replace(ROUTE, prefix=FAST))
    narrower = replace(POLICY, target_prefixes=(PREFIX,))
    with pytest.raises(Busy, match="was one taken out of this SAN's policy") as caught:
        export(narrower).withdraw_all(None)
    assert caught.value.details["holders"] == ["a target of lio"]
    assert san.reached_by() == {DATASET: (ALICE,)}


def test_a_foreign_target_is_left(san: KeptSan) -> None:
    """A target of our name on another zvol is neither joined nor removed."""
    san.lio.standing[TARGET] = Standing("data/other/volume-1", ID, PORTALS, read_only=False)
    with pytest.raises(AlreadyExists):
        ensure()
    with pytest.raises(AlreadyExists):
        export().withdraw(ALICE, None)
    with pytest.raises(AlreadyExists):
        export().withdraw_all(None)
    assert san.reached_by() == {"data/other/volume-1": ()}


def test_growth_reaches_the_routes_own_target(san: KeptSan) -> None:
    """A grown zvol's target is told at the exporter and under the prefix of its route."""
    route = replace(ROUTE, exporter=TGT, prefix=FAST)
    ensure(route=route)
    export().grow(route, seconds=5)
    assert {name: kept.grown for name, kept in san.exporters.items()} == {
        LIO: [],
        TGT: [f"{FAST}{ZVOL}"],
        NVMET: [],
    }


def test_a_list_has_every_export_once(san: KeptSan) -> None:
    """Sorted by zvol and target, each with its exporter, and once though a prefix begins with another."""
    second = ZvolName("volume-2")
    san.zfs.add(f"{PARENT}/{second}", {"volsize": 1})
    ensure(NQN, route=replace(ROUTE, exporter=NVMET), zvol=second)
    ensure(route=replace(ROUTE, prefix=FAST), zvol=second)
    ensure()
    found = list_exports(POLICY, PARENT)
    assert [(one.zvol, one.exporter, one.initiators, one.lun) for one in found] == [
        (ZVOL, LIO, (ALICE,), 0),
        (second, LIO, (ALICE,), 0),
        (second, NVMET, (NQN,), 1),
    ]
    assert found[0] == Export(ZVOL, LIO, TARGET, PORTALS, 0, (ALICE,))
    assert found[1].target == f"{FAST}{second}"


@pytest.mark.parametrize(
    "dataset", ["data/other/volume-1", "data/volumes/below/volume-1", "data/volumes", "", "data/volumes/Up_x"]
)
def test_a_list_leaves_out_what_is_not_the_parents(san: KeptSan, dataset: str) -> None:
    """Another parent's exports, and what no request can name, are not told of."""
    san.lio.standing[TARGET] = Standing(dataset, ID, PORTALS, read_only=False)
    assert list_exports(POLICY, PARENT) == ()


def test_a_list_keeps_to_the_policys_prefixes(san: KeptSan) -> None:
    """What stands under a prefix that is not this identity's is not shown, whatever zvol it exports."""
    ensure()
    stranger = replace(POLICY, target_prefixes=(TargetPrefix("iqn.2010-10.org.other:"),))
    assert list_exports(stranger, PARENT) == ()
    assert list_exports(POLICY, DatasetName("data/other")) == ()
    assert san.lio.standing.keys() == {TARGET}


def test_a_first_attachment_looks_at_no_other_export(
    san: KeptSan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nvmet the names are listed, once a prefix and once for all, and no subsystem is looked into."""
    tree = NvmetTree(make_root(tmp_path / "nvmet"))
    for number in range(30):
        tree.make_folder(f"subsystems/{subsystem_name(PREFIX, ZvolName(f'other-{number}'), NQN)}")
    tree.looks.clear()
    monkeypatch.setitem(exports.EXPORTERS, NVMET, lambda: Nvmet(tree=tree))
    assert not export().withdraw_others(ROUTE, ALICE)
    assert tree.looks == ["ls subsystems"] * (len(POLICY.target_prefixes) + 1)
    assert san.steps.taken == []
