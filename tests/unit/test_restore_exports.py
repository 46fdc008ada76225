"""Exports that come back: what is on record stands again as it was, and nothing else does."""

from __future__ import annotations

import re
import threading
from dataclasses import replace

import pytest

from tests.unit import restored_san
from tests.unit.restored_san import (
    CHAP,
    CINDER,
    FAST,
    FAST_ROUTE,
    FASTER,
    NQN,
    ONE,
    OTHER_NQN,
    OTHER_PREFIX,
    PORTAL,
    PREFIX,
    ROUTE,
    TWO,
    VOLUMES,
    Standing,
    World,
    volume_id,
    wish,
)
from zolder.errors import AlreadyExists, BackendError
from zolder.model import Chap
from zolder.names import LIO, NVMET, TGT, DatasetName, Identity, InitiatorName, OperationId, ZvolName
from zolder.san.libzfs import VIEW_MARK, Property
from zolder.san.locks import Locks
from zolder.san.operation import Operation
from zolder.san.policy import Policy
from zolder.san.restore import Restore
from zolder.san.tally import Report
from zolder.wish import Wish

world = restored_san.world


def test_all_comes_back(world: World) -> None:
    """What is on record stands, over its own route, with its secret and its id; then the portals are open."""
    world.add_zvol("v1", wish((ONE, False), (TWO, True)))
    world.add_zvol("s1", wish((ONE, False)), mark=VIEW_MARK)
    world.add_zvol("f1", wish((NQN, False), route=FAST_ROUTE), parent=FAST)
    world.add_zvol("idle", None)
    world.secrets.put(VOLUMES, ZvolName("v1"), TWO, CHAP)
    report = world.restore()
    assert report.is_complete
    assert world.initiators("v1") == {ONE: None, TWO: CHAP}
    assert world.initiators("f1", FAST_ROUTE) == {NQN: None}
    views = {standing.zvol: standing.read_only for standing in world.targets.values()}
    assert views == {"v1": False, "s1": True, "f1": False}
    assert {standing.volume_id for standing in world.targets.values()} == {
        volume_id(name) for name in ("v1", "s1", "f1")
    }
    assert world.said == ["data/volumes: 3 exports, 3 built", "fast/volumes: 1 exports, 1 built"]
    assert world.nft.four is None


def test_shut_meanwhile(world: World) -> None:
    """All portals of all policies are shut while anything is made."""
    world.add_zvol("v1", wish((ONE, False)))
    world.restore()
    assert world.shut_while_built == [["192.0.2.1 . 3260", "192.0.2.2 . 3260", "192.0.2.3 . 4420"]]


def test_twice(world: World) -> None:
    """A second restore changes nothing."""
    world.add_zvol("v1", wish((ONE, False), (TWO, True)))
    world.secrets.put(VOLUMES, ZvolName("v1"), TWO, CHAP)
    world.restore()
    before = world.changes
    assert world.restore().is_complete
    assert (world.changes, world.said[-2]) == (before, "data/volumes: 2 exports, 0 built")


def test_stale_is_withdrawn(world: World) -> None:
    """Who stands in no record is shut out: a volume's, a gone zvol's, an initiator's, an old route's."""
    dataset = world.add_zvol("v1", wish((ONE, False), (TWO, False)))
    world.add_zvol("v2", wish((ONE, False)))
    world.add_zvol("v3", wish((ONE, False)))
    world.restore()
    world.record(dataset, wish((TWO, False)))
    world.datasets["data/volumes/v2"] = {"volsize": Property(1, None)}
    del world.datasets["data/volumes/v3"]
    foreign = Standing(DatasetName("data/foreign"), ZvolName("v3"), {ONE: None})
    world.targets[LIO, "iqn.2010-10.org.openstack:foreign"] = foreign
    report = world.restore()
    assert report.is_complete
    assert world.initiators("v1") == {TWO: None}
    assert world.said[-2] == "data/volumes: 1 exports, 0 built, 3 withdrawn"
    assert {target for _, target in world.targets} == {f"{PREFIX}v1", "iqn.2010-10.org.openstack:foreign"}


def test_another_route(world: World) -> None:
    """What stands over another exporter than the record names is withdrawn there and made where it names."""
    world.add_zvol("v1", wish((NQN, False), route=replace(ROUTE, exporter=NVMET)))
    world.targets[LIO, f"{PREFIX}v1"] = Standing(VOLUMES, ZvolName("v1"), {ONE: None})
    assert world.restore().is_complete
    assert [exporter for exporter, _ in world.targets] == [NVMET]


@pytest.mark.parametrize("initiators", [{ONE: None}, {}])
def test_what_another_exporter_restored_under_the_same_name(
    world: World, initiators: dict[InitiatorName, Chap | None]
) -> None:
    """LIO and tgt know a zvol by one IQN: after a change of exporter the former's target goes."""
    world.add_zvol("v1", wish((ONE, False), route=replace(ROUTE, exporter=TGT)))
    world.targets[LIO, f"{PREFIX}v1"] = Standing(VOLUMES, ZvolName("v1"), initiators)
    assert world.restore().is_complete
    assert [exporter for exporter, _ in world.targets] == [TGT]
    assert world.said[-2] == "data/volumes: 1 exports, 1 built, 1 withdrawn"


def test_a_shared_parent(world: World) -> None:
    """Of a parent that two identities share, each zvol comes back within the policy that its record fits."""
    other = Policy(Identity("other"), (VOLUMES,), (PORTAL,), (OTHER_PREFIX,))
    world.add_zvol("v1", wish((ONE, False)))
    world.add_zvol("v2", wish((ONE, False), route=replace(ROUTE, prefix=OTHER_PREFIX)))
    assert world.restore(policies=(CINDER, other)).is_complete
    assert {target for _, target in world.targets} == {f"{PREFIX}v1", f"{OTHER_PREFIX}v2"}
    for name in ("v1", "v2"):
        world.targets[LIO, f"{PREFIX}{name}"] = Standing(VOLUMES, ZvolName(name), {ONE: None})
        world.targets[LIO, f"{OTHER_PREFIX}{name}"] = Standing(VOLUMES, ZvolName(name), {ONE: None})
        del world.datasets[f"data/volumes/{name}"]
    assert world.restore(policies=(CINDER, other)).is_complete
    assert world.targets == {}


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ("{}", "that Zolder did not write"),
        ("[" * 5000, "that Zolder did not write"),
        (wish((ONE, False), route=replace(ROUTE, portals=(FASTER,))), "portal 192.0.2.3:4420 is not among"),
        (wish((ONE, False), route=replace(ROUTE, prefix=OTHER_PREFIX)), "target prefix .* is not among"),
    ],
)
def test_hostile_record(world: World, record: Wish | str, says: str) -> None:
    """A record that is none, or goes beyond the policy, opens and closes nothing, and is named."""
    world.add_zvol("v1", record)
    world.add_zvol("v2", wish((ONE, False)))
    world.targets[LIO, f"{PREFIX}v1"] = Standing(VOLUMES, ZvolName("v1"), {TWO: None})
    report = world.restore()
    assert not report.is_complete
    (fault,) = report.parents[0].faults
    assert fault.startswith("data/volumes/v1: ")
    assert re.search(says, fault)
    assert world.initiators("v1") == {TWO: None}
    assert world.initiators("v2") == {ONE: None}
    assert world.nft.four is None


def test_inherited_record(world: World) -> None:
    """A record that a dataset inherited or received never exports it; nor one without our mark."""
    world.add_zvol("v1", wish((ONE, False)), source="data/volumes")
    world.add_zvol("v2", wish((ONE, False)), source="$recvd")
    world.add_zvol("v3", wish((ONE, False)), mark="somebody:else")
    report = world.restore()
    assert world.targets == {}
    assert [fault.partition(":")[0] for fault in report.parents[0].faults] == ["data/volumes/v3"]


def test_role_that_only_looks(world: World) -> None:
    """An identity that may not export gets nothing back, whatever stands in a record."""
    world.add_zvol("v1", wish((ONE, False)))
    report = world.restore(policies=(replace(CINDER, role="read-only"),))
    assert world.targets == {}
    assert "may not export_zvol" in report.parents[0].faults[0]


def test_one_failure(world: World) -> None:
    """One export's failure stops no other, is named, and opens the portals all the same."""
    for name in ("v1", "v2", "v3"):
        world.add_zvol(name, wish((ONE, False)))
    world.broken["v2"] = BackendError("the kernel says no")
    report = world.restore()
    assert report.parents[0].faults == [f"data/volumes/v2 for {ONE}: the kernel says no"]
    assert {standing.zvol for standing in world.targets.values()} == {"v1", "v3"}
    assert (report.is_complete, world.nft.four) == (False, None)
    assert world.asked_seconds[0] == world.asked_seconds[2]


def test_exporter_that_does_not_answer(world: World) -> None:
    """Where nobody can say what stands, what is on record comes back all the same, and it is said."""
    world.add_zvol("v1", wish((ONE, False)))
    world.broken["list"] = BackendError("tgtd is not running")
    report = world.restore()
    assert world.initiators("v1") == {ONE: None}
    assert "tgtd is not running" in report.parents[0].faults[0]
    assert world.nft.four is None


def test_what_stands_on_another_zvols_device_is_made_anew(world: World) -> None:
    """After a boot devices have other numbers: what targetcli restored by number goes, and both stand."""
    for name in ("v1", "v2"):
        world.add_zvol(name, wish((ONE, False)))
    world.stale["v2"] = "v1"
    assert world.restore().is_complete
    assert world.initiators("v1") == world.initiators("v2") == {ONE: None}


def test_an_initiator_that_is_refused_costs_no_other_its_export(world: World) -> None:
    """Where a host entry is the administrator's and has a key, the others of that zvol stay as they stand."""
    dataset = world.add_zvol("f1", wish((NQN, False), route=FAST_ROUTE), parent=FAST)
    world.restore()
    before = world.changes
    world.record(dataset, wish((NQN, False), (OTHER_NQN, False), route=FAST_ROUTE))
    world.broken[f"f1 for {OTHER_NQN}"] = AlreadyExists("nvmet has one key for all", initiator=OTHER_NQN)
    report = world.restore()
    assert report.parents[1].faults == [f"fast/volumes/f1 for {OTHER_NQN}: nvmet has one key for all"]
    assert (world.initiators("f1", FAST_ROUTE), world.changes) == ({NQN: None}, before)


def test_device_that_does_not_come(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one device was waited for in vain, the next of that parent are waited for less."""
    for name in ("v1", "v2"):
        world.add_zvol(name, wish((ONE, False)))
    world.add_zvol("f1", wish((NQN, False), route=FAST_ROUTE), parent=FAST)
    world.broken["v1"] = BackendError("no node came")
    now = [0.0]

    def pass_time() -> None:
        now[0] += 10

    world.each_build = pass_time
    monkeypatch.setattr("zolder.san.rebuild.time.monotonic", lambda: now[0])
    world.restore()
    first, second, again, other = world.asked_seconds
    assert again == second < first == other


def test_busy_zvol(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zvol that a request works on is waited for, and looked at only then."""
    dataset = world.add_zvol("v1", wish((ONE, False)))
    monkeypatch.setattr("zolder.san.restore._LOCK_SECONDS", 20)
    world.places.make_run()
    operation = Operation(OperationId(volume_id("o")), seconds=20, peer_is_there=lambda: True, notify=print)
    waiting, done = threading.Event(), list[Report]()
    restore = Restore((CINDER,), world.san, lambda text: waiting.set() if "v1" in text else None)
    with Locks(world.places.locks).hold(operation, "v1"):
        thread = threading.Thread(target=lambda: done.append(restore.run(wait_seconds=0)))
        thread.start()
        assert waiting.wait(20)
        # The request that holds the lock ends with another record.
        world.record(dataset, wish((TWO, False)))
    thread.join(20)
    assert done[0].is_complete
    assert world.initiators("v1") == {TWO: None}
