"""Exports that come back while a portal cannot be had: on those that can, and whole once it is there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit import restored_san
from tests.unit.restored_san import (
    CINDER,
    FAST,
    ONE,
    OTHER_PREFIX,
    PORTAL,
    PREFIX,
    ROUTE,
    SHARED,
    SPEEDY,
    TWO,
    VOLUMES,
    Standing,
    World,
    wish,
)
from zolder.errors import BackendError
from zolder.names import LIO, TGT, Portal, ZvolName
from zolder.san.tally import as_text

world = restored_san.world

BOTH = replace(ROUTE, portals=(PORTAL, SHARED))
SAYS = (
    f"lio cannot listen at {SHARED}; exports lack that path: run 'zolder-san restore' again once it can be"
    " had, which completes them"
)


def reached(world: World) -> dict[str, set[object]]:
    """Return where each zvol is reached."""
    return {standing.zvol: set(standing.portals) for standing in world.targets.values()}


@pytest.mark.parametrize("portals", [(PORTAL, SHARED), (SHARED, PORTAL)])
def test_one_sound_path_carries_each_export(world: World, portals: tuple[Portal, ...]) -> None:
    """Exports stand on the portals that can be had; the other is one fault, and a repeat completes them."""
    for name in ("v1", "v2"):
        world.add_zvol(name, wish((ONE, False), (TWO, False), route=replace(ROUTE, portals=portals)))
    world.lost[SHARED] = None
    report = world.restore()
    assert reached(world) == {"v1": {PORTAL}, "v2": {PORTAL}}
    assert world.initiators("v1") == world.initiators("v2") == {ONE: None, TWO: None}
    assert (report.parents[0].faults, report.is_complete) == ([SAYS], False)
    assert world.said[0] == "data/volumes: 4 exports, 4 built, 1 faults"
    assert world.nft.four is None
    world.lost.clear()
    assert world.restore().is_complete
    assert reached(world) == {"v1": {PORTAL, SHARED}, "v2": {PORTAL, SHARED}}


def test_a_repeat_leaves_the_sound_path_alone(world: World) -> None:
    """While the portal is still away, restoring again changes nothing and says so again."""
    world.add_zvol("v1", wish((ONE, False), route=BOTH))
    world.lost[SHARED] = None
    world.restore()
    before = world.changes
    assert world.restore().parents[0].faults == [SAYS]
    assert world.changes == before


def test_no_sound_path(world: World) -> None:
    """Where no portal can be had nothing is built, and each portal is one fault, whatever it would carry."""
    for name in ("v1", "v2", "v3"):
        world.add_zvol(name, wish((ONE, False), route=BOTH))
    world.lost |= {PORTAL: None, SHARED: None}
    report = world.restore()
    assert (world.targets, len(report.parents[0].faults)) == ({}, 2)
    assert world.said[0] == "data/volumes: 3 exports, 0 built, 2 faults"


def test_what_stands_wrongly_goes_without_a_portal(world: World) -> None:
    """What is open on another zvol's device is withdrawn even where its own export can be reached nowhere."""
    for name in ("v1", "v2"):
        world.add_zvol(name, wish((ONE, False)))
    world.stale["v2"] = "v1"
    world.lost[PORTAL] = None
    world.restore()
    assert world.stale == {}


def test_a_port_that_is_held_by_what_is_withdrawn_later(world: World) -> None:
    """A portal is tried once more when all that should not stand is gone, for every export."""
    for name in ("v1", "v2"):
        world.add_zvol(name, wish((ONE, False), route=replace(BOTH, exporter=TGT)))
    world.targets[LIO, f"{PREFIX}v2"] = Standing(VOLUMES, ZvolName("v2"), {ONE: None}, (SHARED,))
    world.lost[SHARED] = LIO, f"{PREFIX}v2"
    assert world.restore().is_complete
    assert reached(world) == {"v1": {PORTAL, SHARED}, "v2": {PORTAL, SHARED}}


def test_other_faults_stay_each_export_s_own(world: World) -> None:
    """Beside a portal that is away, what keeps one export from standing is told as ever."""
    for name in ("v1", "v2"):
        world.add_zvol(name, wish((ONE, False), route=BOTH))
    world.lost[SHARED] = None
    world.broken["v2"] = BackendError("the kernel says no")
    assert world.restore().parents[0].faults == [f"data/volumes/v2 for {ONE}: the kernel says no", SAYS]
    assert reached(world) == {"v1": {PORTAL}}


def test_a_portal_of_two_parents_is_said_once(world: World) -> None:
    """People read of a portal once, however many parents have exports there."""
    shared = replace(ROUTE, portals=(SHARED,))
    world.add_zvol("v1", wish((ONE, False), route=shared))
    world.add_zvol("f1", wish((ONE, False), route=replace(shared, prefix=OTHER_PREFIX)), parent=FAST)
    world.lost[SHARED] = None
    report = world.restore(policies=(CINDER, SPEEDY))
    assert [tally.faults for tally in report.parents] == [[SAYS], [SAYS]]
    assert as_text(report) == [SAYS]
