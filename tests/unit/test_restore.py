"""ZFS, the exporters and nft are models with state; secrets, locks, records and the list are real."""

from __future__ import annotations

import argparse
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.unit.nft_model import Nft
from zolder.errors import AlreadyExists, BackendError, Busy, Error
from zolder.model import Chap, Export, Route
from zolder.names import (
    LIO,
    NVMET,
    DatasetName,
    ExporterName,
    Identity,
    InitiatorName,
    OperationId,
    Portal,
    TargetPrefix,
    VolumeId,
    ZvolName,
    export_target,
)
from zolder.san import restore_command
from zolder.san.libzfs import EXPORT_RECORD, VIEW_MARK, VOLUME_MARK, Properties, Property
from zolder.san.locks import Locks
from zolder.san.missing import count_missing, list_missing, note_missing, note_supplied
from zolder.san.operation import Operation
from zolder.san.packetfilter import PacketFilter
from zolder.san.parents import Site
from zolder.san.policy import Policy
from zolder.san.rebuild import San
from zolder.san.restore import Restore
from zolder.san.rootplaces import RootPlaces
from zolder.san.secrets import Secrets
from zolder.san.tally import Report
from zolder.wish import Grant, Wish, write_wish

VOLUMES, FAST = DatasetName("data/volumes"), DatasetName("fast/volumes")
PORTAL, SHARED, FASTER = Portal("192.0.2.1:3260"), Portal("192.0.2.2:3260"), Portal("192.0.2.3:4420")
PREFIX, OTHER_PREFIX = TargetPrefix("iqn.2010-10.org.openstack:"), TargetPrefix("iqn.2010-10.org.other:")
CINDER = Policy(Identity("cinder"), (VOLUMES,), (PORTAL, SHARED), (PREFIX,))
SPEEDY = Policy(Identity("speedy"), (FAST,), (SHARED, FASTER), (OTHER_PREFIX,))
ONE, TWO = InitiatorName("iqn.1993-08.org.debian:01:one"), InitiatorName("iqn.1993-08.org.debian:01:two")
NQN = InitiatorName("nqn.2014-08.org.nvmexpress:uuid:one")
CHAP = Chap("user", "a secret of sixteen")
ROUTE = Route(LIO, PREFIX, (PORTAL,))
FAST_ROUTE = Route(NVMET, OTHER_PREFIX, (FASTER,))

Key = tuple[ExporterName, str]


@dataclass
class Standing:
    """A target as it stands in the kernel."""

    parent: DatasetName
    zvol: ZvolName
    initiators: dict[InitiatorName, Chap | None] = field(default_factory=dict)
    portals: tuple[Portal, ...] = ()
    volume_id: str = ""
    read_only: bool = False


@dataclass
class World:
    """Two zpools, what they hold, and what is exported."""

    folder: Path
    datasets: dict[str, Properties] = field(default_factory=dict)
    targets: dict[Key, Standing] = field(default_factory=dict)
    broken: dict[str, Error] = field(default_factory=dict)
    # What targetcli restored of ours: a zvol's target on the device of another, which has it now.
    stale: dict[str, str] = field(default_factory=dict)
    nft: Nft = field(default_factory=Nft)
    said: list[str] = field(default_factory=list)
    shut_while_built: list[list[str]] = field(default_factory=list)
    asked_seconds: list[float] = field(default_factory=list)
    changes: int = 0
    each_pause: Callable[[], object] = lambda: None
    each_build: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        """Import both zpools, with a parent in each."""
        for number, parent in enumerate((VOLUMES, FAST), start=1):
            self.import_zpool(parent.zpool)
            self.datasets[parent] = {"guid": Property(number, None)}

    @property
    def places(self) -> RootPlaces:
        """Where root keeps its own."""
        return RootPlaces(self.folder / "state", self.folder / "run")

    @property
    def secrets(self) -> Secrets:
        """Those that are here."""
        return Secrets(self.places.secrets)

    @property
    def san(self) -> San:
        """The parts as a restore sees them."""
        return San(
            places=self.places,
            site=Site(kernel_statistics=self.folder / "kstat"),
            packet_filter=PacketFilter(self.nft),
            zfs=lambda: self,
            export=lambda policy, parent, zvol: OneExport(self, policy, parent, zvol),
            list_exports=self.list_exports,
            pause=lambda _: self.each_pause(),
        )

    def import_zpool(self, zpool: str, state: str = "ONLINE") -> None:
        """Have the kernel tell of a zpool."""
        (self.folder / "kstat" / zpool).mkdir(parents=True, exist_ok=True)
        (self.folder / "kstat" / zpool / "state").write_text(f"{state}\n")

    def export_zpool(self, zpool: str) -> None:
        """Have the kernel know of it no more."""
        (self.folder / "kstat" / zpool / "state").unlink()

    def read(self, dataset: str) -> Properties | None:
        """See ``Libzfs``."""
        return self.datasets.get(dataset)

    def children(self, parent: str) -> dict[str, Properties]:
        """See ``Libzfs``."""
        return {
            name: dict(found) for name, found in self.datasets.items() if name.rpartition("/")[0] == parent
        }

    def add_zvol(
        self,
        name: str,
        wish: Wish | str | None,
        *,
        parent: DatasetName = VOLUMES,
        mark: str = VOLUME_MARK,
        source: str | None = None,
    ) -> str:
        """Have a zvol with a record."""
        dataset = f"{parent}/{name}"
        self.datasets[dataset] = {
            mark: Property(str(volume_id(name)), dataset),
            "volsize": Property(2**30, None),
        }
        if wish is not None:
            self.record(dataset, wish, source)
        return dataset

    def record(self, dataset: str, wish: Wish | str, source: str | None = None) -> None:
        """Write a zvol's record."""
        text = write_wish(wish) if isinstance(wish, Wish) else wish
        properties = {**self.datasets[dataset], EXPORT_RECORD: Property(text, source or dataset)}
        self.datasets[dataset] = properties

    def list_exports(self, policy: Policy, parent: DatasetName) -> tuple[Export, ...]:
        """See ``zolder.san.exports``."""
        if "list" in self.broken:
            raise self.broken["list"]
        return tuple(
            Export(standing.zvol, exporter, target, standing.portals, 0, tuple(standing.initiators))
            for (exporter, target), standing in self.targets.items()
            if standing.parent == parent
            and any(target[3:].startswith(prefix[3:]) for prefix in policy.target_prefixes)
        )

    def restore(
        self, *, zpool: str | None = None, wait: float = 0, policies: tuple[Policy, ...] = ()
    ) -> Report:
        """Restore everything."""
        policies = policies or (CINDER, SPEEDY)
        return Restore(policies, self.san, self.said.append).run(zpool, wait_seconds=wait)

    def initiators(self, name: str, route: Route = ROUTE) -> dict[InitiatorName, Chap | None]:
        """Return who reaches a zvol over a route, and by which secret."""
        return {
            initiator: chap
            for (exporter, _), standing in self.targets.items()
            if standing.zvol == name and exporter == route.exporter
            for initiator, chap in standing.initiators.items()
        }


@dataclass
class OneExport:
    """A zvol's export in a world."""

    world: World
    policy: Policy
    parent: DatasetName
    zvol: ZvolName

    def ensure(
        self,
        volume_id: VolumeId,
        initiator: InitiatorName,
        *,
        route: Route,
        chap: Chap | None,
        read_only: bool,
        seconds: float,
    ) -> bool:
        """See ``ZvolExport``."""
        world = self.world
        world.shut_while_built.append(world.nft.shut)
        world.asked_seconds.append(seconds)
        world.each_build()
        if self.zvol in world.broken:
            raise world.broken[self.zvol]
        if self.zvol in world.stale:
            message = "its backstore is open on another device"
            raise AlreadyExists(message)
        if self.zvol in world.stale.values():
            message = "its device is claimed by somebody else"
            raise Busy(message, holders=[])
        assert route.prefix in self.policy.target_prefixes
        key = (route.exporter, export_target(route.exporter, route.prefix, self.zvol, initiator))
        standing = world.targets.setdefault(key, Standing(self.parent, self.zvol))
        before = replace(standing, initiators=dict(standing.initiators))
        standing.initiators[initiator] = chap
        standing.portals, standing.volume_id, standing.read_only = route.portals, volume_id, read_only
        world.changes += standing != before
        return standing != before

    def withdraw(
        self, initiator: InitiatorName, exporter: ExporterName | None, prefix: TargetPrefix | None = None
    ) -> bool:
        """See ``ZvolExport``."""
        changed = False
        for key, standing in self._own(exporter):
            if prefix is not None and key[1] != export_target(key[0], prefix, self.zvol, initiator):
                continue
            changed |= standing.initiators.pop(initiator, self) is not self
            if not standing.initiators:
                del self.world.targets[key]
        self.world.changes += changed
        return changed

    def withdraw_all(self, exporter: ExporterName | None) -> bool:
        """See ``ZvolExport``."""
        own = self._own(exporter)
        self.world.stale.pop(self.zvol, None)
        for key, _ in own:
            del self.world.targets[key]
            self.world.changes += 1
        for (kind, target), standing in self.world.targets.items():
            if (standing.parent, standing.zvol) == (self.parent, self.zvol) and exporter in {None, kind}:
                message = f"{target} is of none of this identity's prefixes"
                raise Busy(message, holders=[])
        return bool(own)

    def _own(self, exporter: ExporterName | None) -> list[tuple[Key, Standing]]:
        listed = {export.target for export in self.world.list_exports(self.policy, self.parent)}
        return [
            (key, standing)
            for key, standing in self.world.targets.items()
            if standing.zvol == self.zvol and key[1] in listed and exporter in {None, key[0]}
        ]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two zpools in which nothing is exported."""
    return World(tmp_path)


def volume_id(name: str) -> VolumeId:
    """Return the id of a zvol's volume."""
    return VolumeId(f"11111111-1111-4111-8111-{name.encode().hex():0>12}")


def wish(*grants: tuple[InitiatorName, bool], route: Route = ROUTE) -> Wish:
    """Return a record that names initiators, each with or without CHAP."""
    return Wish(route, tuple(Grant(initiator, (), unnamed=True, chap=chap) for initiator, chap in grants))


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


def call(world: World, *words: str, policies: tuple[Policy, ...] = (CINDER, SPEEDY)) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser()
    restore_command.add_parser(parser.add_subparsers(dest="command", required=True))
    return restore_command.run(parser.parse_args(["restore", *words]), world.san, policies)


def test_command(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """All in place is exit status 0 and a line for each parent."""
    world.add_zvol("v1", wish((ONE, False)))
    assert call(world) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == ["data/volumes: 1 exports, 1 built", "fast/volumes: 0 exports, 0 built"]
    assert said.err == ""


def test_command_says_what_is_not(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not in place is exit status 1 and named: the zpool, the secret, the portals."""
    world.add_zvol("v1", wish((ONE, True)))
    world.export_zpool("fast")
    assert call(world, "--wait", "0") == 1
    said = capsys.readouterr()
    assert "fast/volumes: not restored\n" in said.out
    assert f"data/volumes/v1 stays shut to {ONE}: its CHAP secret is not here yet" in said.err
    assert "still shut to new connections: 192.0.2.3:4420\n" in said.err
    assert CHAP.secret not in said.out + said.err


def test_command_json(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json standard output is one object with the same."""
    world.add_zvol("v1", wish((ONE, True)))
    assert call(world, "--wait=0", "--json", "--pool=data") == 1
    assert json.loads(capsys.readouterr().out) == {
        "complete": False,
        "parents": [
            {
                "parent": "data/volumes",
                "exports": 1,
                "built": 0,
                "withdrawn": 0,
                "waiting": [["data/volumes/v1", str(ONE)]],
                "faults": [],
            }
        ],
        "shut": [],
        "faults": [],
    }


def test_shut_only(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the network is up all portals are shut, and nothing else is done."""
    world.add_zvol("v1", wish((ONE, False)))
    assert call(world, "--shut-only") == 0
    assert (capsys.readouterr().out, world.targets) == ("3 portals are shut\n", {})
    assert len(world.nft.shut) == 3
    assert call(world, "--shut-only", "--json") == 0
    assert json.loads(capsys.readouterr().out)["shut"] == [PORTAL, SHARED, FASTER]


def test_shut_only_without_nft(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a packet filter there is nothing to shut with, which fails."""
    world.nft.installed = False
    assert call(world, "--shut-only") == 1
    assert "install the package nftables" in capsys.readouterr().err


def test_nothing_to_restore(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """A SAN without identities has nothing to restore and nothing to shut."""
    assert call(world, policies=()) == 0
    assert world.nft.scripts == []
    assert capsys.readouterr().out == ""


def test_wrong_usage(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """A zpool that no identity has a parent in, or no number of seconds, is exit status 2."""
    assert call(world, "--pool", "tank") == 2
    for seconds in ("soon", "-1", "nan", "1e9"):
        with pytest.raises(SystemExit) as caught:
            call(world, f"--wait={seconds}")
        assert caught.value.code == 2
    assert "no identity exports anything in zpool tank" in capsys.readouterr().err


def test_cut_short(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever stops it while it waits is told that portals may be shut."""

    def stop() -> None:
        raise KeyboardInterrupt

    world.each_pause = stop
    world.add_zvol("v1", wish((ONE, True)))
    assert call(world) == 1
    assert "portals may be shut still" in capsys.readouterr().err
