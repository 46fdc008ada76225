"""Secrets, a zpool or nft that are not there for a restore: what stays shut, and what is said of it."""

from __future__ import annotations

import pytest

from tests.unit import restored_san
from tests.unit.restored_san import (
    CHAP,
    FAST,
    FAST_ROUTE,
    FASTER,
    NQN,
    ONE,
    PORTAL,
    TWO,
    VOLUMES,
    Standing,
    World,
    wish,
)
from zolder.names import NVMET, Portal, ZvolName
from zolder.san.libzfs import Property
from zolder.san.missing import count_missing, list_missing, note_missing, note_supplied
from zolder.san.packetfilter import PacketFilter

world = restored_san.world


def test_secrets_are_missing(world: World) -> None:
    """Without its secret an export stays shut and is counted; what stood already is left as it is."""
    world.add_zvol("v1", wish((ONE, True), (TWO, False)))
    report = world.restore()
    assert world.initiators("v1") == {TWO: None}
    assert not report.is_complete
    assert count_missing(VOLUMES, file=world.places.missing) == 1
    assert world.said[0] == "data/volumes: 2 exports, 1 built, 1 wait for their secrets"
    world.secrets.put(VOLUMES, ZvolName("v1"), ONE, CHAP)
    assert world.restore().is_complete
    assert count_missing(VOLUMES, file=world.places.missing) == 0
    world.secrets.remove(VOLUMES, ZvolName("v1"), None)
    assert not world.restore().is_complete
    assert world.initiators("v1") == {ONE: CHAP, TWO: None}


def test_secrets_come(world: World) -> None:
    """Portals that wait for secrets open when the last has come; the others are open before."""
    world.add_zvol("v1", wish((ONE, True), (TWO, True)))
    shut = []

    def supply() -> None:
        shut.append(world.nft.shut)
        note_supplied("data/volumes/v1", (ONE, TWO)[len(shut) - 1], file=world.places.missing)

    world.each_pause = supply
    report = world.restore(wait=3600)
    assert shut == [["192.0.2.1 . 3260"]] * 2
    assert report.is_complete
    assert world.nft.four is None


def test_secrets_do_not_come(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the time is up the portals open, and what is shut still is named."""
    world.add_zvol("v1", wish((ONE, True)))
    now = [0.0]

    def pass_time() -> None:
        now[0] += 400

    world.each_pause = pass_time
    monkeypatch.setattr("zolder.san.restore.time.monotonic", lambda: now[0])
    report = world.restore(wait=600)
    assert (now[0], report.is_complete, world.nft.four) == (800, False, None)
    assert list(report.waiting) == [("data/volumes/v1", str(ONE))]


def test_damaged_secrets(world: World) -> None:
    """A damaged file of secrets keeps its own export shut and no other, and is named."""
    for name in ("v1", "v2"):
        world.add_zvol(name, wish((ONE, True)))
        world.secrets.put(VOLUMES, ZvolName(name), ONE, CHAP)
    (world.places.secrets / "data:volumes:v1").write_text("{")
    report = world.restore()
    assert {standing.zvol for standing in world.targets.values()} == {"v2"}
    assert "data:volumes:v1 is damaged" in report.parents[0].faults[0]


def test_nothing_is_kept_in_vain(world: World) -> None:
    """Secrets that no record asks for, and missing ones that nothing waits for, are forgotten."""
    world.add_zvol("v1", wish((ONE, True), (TWO, False)))
    for name, initiator in (("v1", ONE), ("v1", TWO), ("gone", ONE)):
        world.secrets.put(VOLUMES, ZvolName(name), initiator, CHAP)
    note_missing("data/volumes/gone", ONE, file=world.places.missing)
    note_missing("data/others/v1", ONE, file=world.places.missing)
    assert world.restore().is_complete
    assert world.secrets.list_zvols(VOLUMES) == (ZvolName("v1"),)
    assert world.secrets.find(VOLUMES, ZvolName("v1"), TWO) is None
    assert list_missing(file=world.places.missing) == (("data/others/v1", str(ONE)),)


def test_zpool_is_away(world: World) -> None:
    """A portal of an absent zpool's parents alone stays shut, a shared one opens; what to do is said."""
    world.add_zvol("v1", wish((ONE, False)))
    world.export_zpool("fast")
    world.targets[NVMET, "nqn.2010-10.org.other:f1:0"] = Standing(FAST, ZvolName("f1"), {NQN: None})
    report = world.restore()
    assert report.shut == (FASTER,)
    assert world.nft.shut == ["192.0.2.3 . 4420"]
    assert report.parents[1].exports is None
    assert "zpool import" in report.parents[1].faults[0]
    assert "zolder-san restore --pool fast" in report.parents[1].faults[0]
    assert world.initiators("v1") == {ONE: None}
    assert (NVMET, "nqn.2010-10.org.other:f1:0") in world.targets


def test_after_the_import(world: World) -> None:
    """Restoring one zpool looks at its parents alone, and shuts and opens their portals alone."""
    world.add_zvol("v1", wish((ONE, False)))
    world.export_zpool("fast")
    world.restore()
    world.import_zpool("fast")
    world.add_zvol("f1", wish((NQN, False), route=FAST_ROUTE), parent=FAST)
    world.shut_while_built.clear()
    report = world.restore(zpool="fast")
    assert report.is_complete
    assert world.shut_while_built == [["192.0.2.2 . 3260", "192.0.2.3 . 4420"]]
    assert world.nft.four is None
    assert [tally.parent for tally in report.parents] == [FAST]


def test_others_portals_stay_shut(world: World) -> None:
    """Restoring one zpool does not open what another's restore has shut."""
    PacketFilter(world.nft).shut([PORTAL, FASTER])
    assert world.restore(zpool="fast").shut == (PORTAL,)


def test_portal_of_no_policy(world: World) -> None:
    """A portal that was shut and stands in no policy any more is opened."""
    PacketFilter(world.nft).shut([Portal("192.0.2.9:3260")])
    assert world.restore().shut == ()


def test_suspended_zpool(world: World) -> None:
    """A zpool that suspends its I/O half-way is left at once, and the others are restored."""
    for name in ("v1", "v2"):
        world.add_zvol(name, wish((ONE, False)))
    world.add_zvol("f1", wish((NQN, False), route=FAST_ROUTE), parent=FAST)
    world.each_build = lambda: world.import_zpool("data", "SUSPENDED")
    report = world.restore()
    assert [tally.exports for tally in report.parents] == [None, 1]
    assert "zpool clear data" in report.parents[0].faults[0]
    assert world.nft.shut == ["192.0.2.1 . 3260"]


def test_another_zpool_of_that_name(world: World) -> None:
    """A parent that is not the one that was restored first is not exported; the record is root's own."""
    world.add_zvol("v1", wish((ONE, False)))
    world.restore()
    world.targets.clear()
    world.datasets[VOLUMES] = {"guid": Property(4711, None)}
    report = world.restore()
    assert str(world.places.state / "parents/data:volumes") in report.parents[0].faults[0]
    assert world.targets == {}


def test_parent_is_missing(world: World) -> None:
    """A parent that was never made is named, and its portals stay shut."""
    del world.datasets[FAST]
    report = world.restore()
    assert "zfs create -p fast/volumes" in report.parents[1].faults[0]
    assert report.shut == (FASTER,)


def test_without_nft(world: World) -> None:
    """Without a packet filter exports come back all the same; it is said, and nothing is waited for."""
    world.nft.installed = False
    world.each_pause = lambda: pytest.fail("waits")
    world.add_zvol("v1", wish((ONE, False), (TWO, True)))
    report = world.restore(wait=600)
    assert world.initiators("v1") == {ONE: None}
    assert len(report.faults) == 1
    assert "install the package nftables" in report.faults[0]
