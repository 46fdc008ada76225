"""A volume's way to another SAN on two SANs in memory: refused, cut and beside its twin at each step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.memory import MemorySource, random_bytes
from zolder.cinder.copying import Copying
from zolder.cinder.destination import Place
from zolder.cinder.volume_types import Kind
from zolder.errors import Busy, ConnectionLost, Error, NoSpace, NotFound
from zolder.fake import FakeStorage
from zolder.model import Route
from zolder.names import (
    LIO,
    DatasetName,
    InitiatorName,
    Portal,
    SnapshotName,
    TargetPrefix,
    VolumeId,
    ZvolName,
    copied_name,
    copying_name,
)
from zolder.properties import INHERITED

PARENT = DatasetName("data/volumes")
VOLUME = VolumeId("3f0c0000-0000-4000-8000-000000000001")
OTHER = VolumeId("3f0c0000-0000-4000-8000-000000000002")
ZVOL = ZvolName(f"volume-{VOLUME}")
INITIATOR = InitiatorName("iqn.2004-10.org.example:one")
ROUTE = Route(LIO, TargetPrefix("iqn.2010-10.org.openstack:"), (Portal("192.0.2.1:3260"),))
SNAPSHOT = SnapshotName("snapshot-1")
MIB = 2**20
SIZE = 64 * MIB
PIECES = {0: random_bytes(8192, 1), 40 * MIB: random_bytes(3 * MIB, 2), SIZE - 4096: random_bytes(4096, 3)}
# What one migration asks of the two SANs, in this order. Reading is beside writing.
STEPS = (
    ("here", "get_zvol"),
    ("here", "list_found_snapshots"),
    ("here", "delete_zvol"),
    ("here", "get_zvol"),
    ("there", "delete_zvol"),
    ("there", "get_zvol"),
    ("there", "create_zvol"),
    ("there", "write_zvol"),
    ("there", "move_zvol"),
    ("here", "move_zvol"),
    ("here", "list_found_snapshots"),
    ("here", "get_zvol"),
    ("there", "get_zvol"),
    ("here", "delete_zvol"),
)
WRITES = STEPS.index(("there", "write_zvol"))
RENAMES_SOURCE = STEPS.index(("here", "move_zvol"))

Hook = Callable[[int], None]


@dataclass
class Steps:
    """Numbers what one migration asks, and says so before each and behind it."""

    before: Hook = lambda _: None
    behind: Hook = lambda _: None
    taken: list[tuple[str, str]] = field(default_factory=list)

    def passing(self, san: str, storage: FakeStorage) -> Any:  # noqa: ANN401 - what Storage is
        """Return a SAN's storage with the hooks around it."""
        return _Passing(self, san, storage)


class _Passing:
    def __init__(self, steps: Steps, san: str, storage: FakeStorage) -> None:
        self._steps, self._san, self._storage = steps, san, storage

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - passed on
        verb = getattr(self._storage, name)
        if name == "read_zvol":
            return verb

        def asked(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as above
            number = len(self._steps.taken)
            self._steps.taken.append((self._san, name))
            self._steps.before(number)
            try:
                return verb(*args, **kwargs)
            finally:
                self._steps.behind(number)

        return asked


class Ground:
    """Two SANs, the first with a volume."""

    def __init__(self) -> None:
        """Write the pieces to the volume."""
        self.here = FakeStorage((PARENT,), san="here")
        self.there = FakeStorage((PARENT,), san="there")
        make(self.here, ZVOL)
        self.here.write_zvol(PARENT, ZVOL, MemorySource(PIECES))
        self.contents = contents(self.here, ZVOL)

    def copying(self, steps: Steps | None = None, *, used: Callable[[], None] = lambda: None) -> Copying:
        """Return the volume's migration."""
        hooks = steps or Steps()
        return Copying(
            ZVOL,
            VOLUME,
            SIZE,
            Kind(sparse=True, properties=INHERITED, volblocksize=None),
            Place(hooks.passing("here", self.here), PARENT, "192.0.2.1"),
            Place(hooks.passing("there", self.there), PARENT, "192.0.2.2"),
            used,
        )

    def names(self) -> tuple[list[ZvolName], list[ZvolName]]:
        """Return what is on each SAN."""
        here, there = ([zvol.name for zvol in san.list_zvols(PARENT)] for san in (self.here, self.there))
        return here, there

    def is_whole(self, san: FakeStorage) -> bool:
        """Say whether a SAN has the volume, with all that is in it."""
        return ZVOL in [zvol.name for zvol in san.list_zvols(PARENT)] and contents(san, ZVOL) == self.contents

    def require_untouched(self) -> None:
        """The volume is where it was, and nowhere else."""
        assert self.names() == ([ZVOL], [])
        assert self.is_whole(self.here)

    def require_moved(self) -> None:
        """The volume is where it was to go, and nothing is left."""
        assert self.names() == ([], [ZVOL])
        assert self.is_whole(self.there)
        assert self.there.get_zvol(PARENT, ZVOL).volume_id == VOLUME


def make(san: FakeStorage, name: ZvolName, volume_id: VolumeId = VOLUME, size: int = SIZE) -> None:
    """Have a zvol."""
    san.create_zvol(PARENT, name, volume_id=volume_id, volsize_bytes=size, sparse=True)


def contents(san: FakeStorage, zvol: ZvolName) -> dict[int, bytes]:
    """Return what is in a zvol but zeros."""
    return {number: data for number, data in san.read_blocks(f"{PARENT}/{zvol}").items() if any(data)}


def raising(error: Error, at: int) -> Hook:
    """Return what fails one step."""

    def hook(number: int) -> None:
        if number == at:
            raise error

    return hook


@pytest.fixture
def ground() -> Ground:
    """Two SANs, the first with a volume."""
    return Ground()


def test_a_volume_moves(ground: Ground) -> None:
    """Its contents are there, nothing is left here, and each step was asked once."""
    steps = Steps()
    ground.copying(steps).run()
    assert tuple(steps.taken) == STEPS
    ground.require_moved()


def test_asked_twice(ground: Ground) -> None:
    """A repeat, as behind a cinder-volume that died before it could say so, finds it done."""
    for _ in range(2):
        ground.copying().run()
    ground.require_moved()


@pytest.mark.parametrize(
    ("step", "error"),
    [(step, NoSpace("no room")) for step in range(RENAMES_SOURCE + 2)]
    + [(step, ConnectionLost("lost")) for step in range(RENAMES_SOURCE)],
)
def test_a_failure_before_it_has_moved(ground: Ground, step: int, error: Error) -> None:
    """The source is as it was, nothing is left at the destination, and the error is the first one."""
    with pytest.raises(type(error), match=error.message):
        ground.copying(Steps(before=raising(error, step))).run()
    ground.require_untouched()
    ground.copying().run()
    ground.require_moved()


@pytest.mark.parametrize("step", range(len(STEPS)))
@pytest.mark.parametrize("done", [False, True], ids=["before it", "behind it"])
def test_a_kill_at_each_step(ground: Ground, step: int, *, done: bool) -> None:
    """Whatever a killed cinder-volume leaves, the volume is whole at one place, and a repeat ends it."""
    # From then on nothing is asked any more, whatever the process that is no more would do about it.
    hooks = Steps(before=lambda number: _die_behind(number, step if done else step - 1))
    try:
        ground.copying(hooks).run()
    except ConnectionLost:
        assert step < len(STEPS) - 1
    else:
        assert step >= len(STEPS) - 2
    assert ground.is_whole(ground.here) or ground.is_whole(ground.there)
    ground.copying().run()
    ground.require_moved()


def test_the_copy_is_still_being_written(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that has not noticed yet that its line has ended keeps the copy from going for a moment."""
    monkeypatch.setattr("zolder.cinder.copying._PAUSE_SECONDS", 0.0)
    steps = Steps()

    def fail(number: int) -> None:
        if number == WRITES:
            message = "lost"
            raise ConnectionLost(message)
        if WRITES < number < WRITES + 6 and steps.taken[-1] == ("there", "delete_zvol"):
            message = "is being written to"
            raise Busy(message)

    steps.before = fail
    with pytest.raises(ConnectionLost, match="lost"):
        ground.copying(steps).run()
    ground.require_untouched()


def test_the_answer_to_the_last_rename_is_lost(ground: Ground) -> None:
    """Nobody knows whether the volume has moved: neither is deleted, and the error says so."""
    steps = Steps(behind=raising(ConnectionLost("lost."), RENAMES_SOURCE))
    with pytest.raises(ConnectionLost, match="neither is deleted; migrate the volume once more"):
        ground.copying(steps).run()
    assert ground.names() == ([copied_name(VOLUME)], [ZVOL])
    ground.copying().run()
    ground.require_moved()


def test_the_source_that_does_not_go(ground: Ground, caplog: pytest.LogCaptureFixture) -> None:
    """It has moved nevertheless: what is left here is named, and goes with a repeat."""
    ground.copying(Steps(before=raising(Busy("held"), len(STEPS) - 1))).run()
    assert ground.names() == ([copied_name(VOLUME)], [ZVOL])
    assert f"{PARENT}/{copied_name(VOLUME)} on 192.0.2.1, which nobody needs, is left" in caplog.text
    ground.copying().run()
    ground.require_moved()


def test_somebody_reaches_the_source(ground: Ground) -> None:
    """What was attached meanwhile, and perhaps written, stays where it is."""

    def attach(number: int) -> None:
        if number == RENAMES_SOURCE - 1:
            ground.here.export_zvol(PARENT, ZVOL, INITIATOR, route=ROUTE, attachment=None, chap=None)

    with pytest.raises(Busy):
        ground.copying(Steps(before=attach)).run()
    ground.require_untouched()


def test_somebody_had_it_for_a_while(ground: Ground) -> None:
    """What Cinder says was attached and detached while it was copied is not moved."""

    def used() -> None:
        message = "was attached while it was copied"
        raise Busy(message)

    with pytest.raises(Busy, match="while it was copied"):
        ground.copying(used=used).run()
    ground.require_untouched()


def test_somebody_had_it_at_the_last_moment(ground: Ground) -> None:
    """What is seen only when nobody can reach the source any more brings it back."""
    asked = iter((False, True))

    def used() -> None:
        if next(asked):
            message = "was attached while it was copied"
            raise Busy(message)

    with pytest.raises(Busy, match="while it was copied"):
        ground.copying(used=used).run()
    ground.require_untouched()


def test_it_grew_meanwhile(ground: Ground) -> None:
    """A source that was extended while it was copied stays, with its size."""

    def grow(number: int) -> None:
        if number == RENAMES_SOURCE:
            ground.here.grow_zvol(PARENT, ZVOL, volsize_bytes=2 * SIZE)

    with pytest.raises(Busy, match=f"has grown to {2 * SIZE} bytes meanwhile"):
        ground.copying(Steps(before=grow)).run()
    ground.require_untouched()
    assert ground.here.get_zvol(PARENT, ZVOL).volsize_bytes == 2 * SIZE


def test_it_got_a_snapshot_meanwhile(ground: Ground) -> None:
    """A source of which a snapshot was taken while it was copied stays, with the snapshot."""

    def snap(number: int) -> None:
        if number == RENAMES_SOURCE:
            ground.here.create_snapshot(PARENT, ZVOL, SNAPSHOT)

    with pytest.raises(Busy, match=str(SNAPSHOT)):
        ground.copying(Steps(before=snap)).run()
    ground.require_untouched()
    assert [found.name for found in ground.here.list_found_snapshots(PARENT, ZVOL)] == [SNAPSHOT]


def test_what_stayed_behind_before_it_came_back(ground: Ground) -> None:
    """A source of an earlier move that was not deleted is stale now, and does not block the next."""
    make(ground.here, copied_name(VOLUME))
    ground.copying().run()
    ground.require_moved()


def test_anothers_copy_is_not_taken_for_ones_own(ground: Ground) -> None:
    """Where another attempt has put its own, empty copy in the place of the one that is whole, none moves."""

    def replace(number: int) -> None:
        if number == RENAMES_SOURCE - 1:
            ground.there.delete_zvol(PARENT, copying_name(VOLUME))
            make(ground.there, copying_name(VOLUME), OTHER)

    with pytest.raises(Error, match=f"is marked as volume {OTHER}"):
        ground.copying(Steps(before=replace)).run()
    assert ground.is_whole(ground.here)
    ground.copying().run()
    ground.require_moved()


@pytest.mark.parametrize("ours", [True, False], ids=["a client's", "somebody's"])
def test_snapshots_are_said_first(ground: Ground, *, ours: bool) -> None:
    """A source that could not be deleted in the end is not copied; the snapshots are named."""
    if ours:
        ground.here.create_snapshot(PARENT, ZVOL, SNAPSHOT)
    else:
        ground.here.plant_foreign_snapshot(PARENT, ZVOL, SNAPSHOT)
    steps = Steps()
    with pytest.raises(Busy, match=str(SNAPSHOT)):
        ground.copying(steps).run()
    assert steps.taken == list(STEPS[:2])
    ground.require_untouched()


@pytest.mark.parametrize("name", [ZVOL, copying_name(VOLUME)], ids=["whole", "half"])
def test_what_an_older_migration_left_goes(ground: Ground, name: ZvolName) -> None:
    """A copy at the destination is stale where Cinder and the source say that the volume is here."""
    make(ground.there, name, size=SIZE * 2)
    ground.copying().run()
    ground.require_moved()


def test_what_is_attached_at_the_destination_stays(ground: Ground) -> None:
    """Stale as it must be: whom nobody has detached is not cut."""
    make(ground.there, ZVOL)
    ground.there.export_zvol(PARENT, ZVOL, INITIATOR, route=ROUTE, attachment=None, chap=None)
    with pytest.raises(Busy):
        ground.copying().run()
    assert ground.names() == ([ZVOL], [ZVOL])


@pytest.mark.parametrize("planted", [False, True])
def test_the_name_is_somebody_elses(ground: Ground, *, planted: bool) -> None:
    """Nothing is destroyed at the destination that is not this volume's."""
    if planted:
        ground.there.plant_foreign_zvol(PARENT, ZVOL)
    else:
        make(ground.there, ZVOL, OTHER)
    with pytest.raises(Error, match="no mark of Zolder" if planted else f"is volume {OTHER}"):
        ground.copying().run()
    assert ground.is_whole(ground.here)
    assert planted or ground.there.get_zvol(PARENT, ZVOL).volume_id == OTHER


@pytest.mark.parametrize("size", [None, SIZE // 2], ids=["nothing", "no copy of it"])
def test_the_volume_is_nowhere(ground: Ground, size: int | None) -> None:
    """What is at neither end is said to be so; another size is no copy."""
    ground.here.delete_zvol(PARENT, ZVOL)
    if size:
        make(ground.there, ZVOL, size=size)
    with pytest.raises(NotFound, match=r"does not exist, and .* is no copy"):
        ground.copying().run()
    assert ground.names() == ([], [ZVOL] if size else [])


def test_the_copy_was_taken_away(ground: Ground) -> None:
    """Behind the rename of its source, and a kill: the source is the volume again, and is copied anew."""
    with pytest.raises(ConnectionLost):
        ground.copying(Steps(before=lambda number: _die_behind(number, RENAMES_SOURCE))).run()
    ground.there.delete_zvol(PARENT, ZVOL)
    assert ground.names() == ([copied_name(VOLUME)], [])
    ground.copying().run()
    ground.require_moved()


def _die_behind(number: int, step: int) -> None:
    if number > step:
        message = "killed"
        raise ConnectionLost(message)


# While contents move the SAN in memory answers nobody else; a real one answers that the copy is busy.
@pytest.mark.parametrize("first", [step for step in range(len(STEPS)) if step != WRITES])
@pytest.mark.parametrize("second", range(len(STEPS) + 3))
def test_beside_its_twin(ground: Ground, first: int, second: int) -> None:
    """One runs to a step, its twin to another, the one to its end and then the other: nothing is lost."""
    succeeded: list[str] = []
    arrived, go_on = threading.Event(), threading.Event()

    def run(name: str, copying: Copying) -> None:
        try:
            copying.run()
        except Error:
            return
        succeeded.append(name)

    def halt(number: int) -> None:
        if number == second and twins.taken[-1] != STEPS[WRITES]:
            arrived.set()
            assert go_on.wait(30)

    twins = Steps(before=halt)

    def run_twin() -> None:
        run("twin", ground.copying(twins))
        arrived.set()

    twin = threading.Thread(target=run_twin)

    def start_twin(number: int) -> None:
        if number == first:
            twin.start()
            assert arrived.wait(30)

    try:
        run("one", ground.copying(Steps(before=start_twin)))
    finally:
        go_on.set()
        twin.join()
    if succeeded:
        assert ground.is_whole(ground.there)
    ground.copying().run()
    assert ground.is_whole(ground.there)
    assert ground.names() == ([], [ZVOL])
