"""A SAN to restore: ZFS, the exporters and nft are models with state.

Secrets, locks, records and the list of what is missing are real. A module that needs its fixture takes it by
name: ``world = restored_san.world``.
"""

from __future__ import annotations

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
    Portal,
    TargetPrefix,
    VolumeId,
    ZvolName,
    export_target,
)
from zolder.san.libzfs import EXPORT_RECORD, VOLUME_MARK, Properties, Property
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
OTHER_NQN = InitiatorName("nqn.2014-08.org.nvmexpress:uuid:two")
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
    # Portals that cannot be had, for as long as one of these targets stands; none: come what may.
    lost: dict[Portal, Key | None] = field(default_factory=dict)
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
        for what in (self.zvol, f"{self.zvol} for {initiator}"):
            if what in world.broken:
                raise world.broken[what]
        if self.zvol in world.stale:
            message = "its backstore is open on another device"
            raise AlreadyExists(message, device="/dev/zd0")
        if self.zvol in world.stale.values():
            message = "its device is claimed by somebody else"
            raise Busy(message, holders=[])
        assert route.prefix in self.policy.target_prefixes
        for portal in route.portals:
            if portal in world.lost and world.lost[portal] in {None, *world.targets}:
                message = f"{route.exporter} cannot listen at {portal}"
                raise BackendError(message, portal=portal)
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
