"""Migration through Cinder's own manager: its rows, the zvols, and what Cinder's generic way leaves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from cinder import exception, objects
from cinder.volume import configuration, rpcapi

from tests.driver import test_records
from tests.driver.conftest import Configure, connector_of
from tests.driver.test_records import Cinder, Database
from tests.support.memory import MemorySource, random_bytes
from zolder.cinder.driver import ZolderDriver
from zolder.cinder.settings import Settings, append_options
from zolder.cinder.storage import San
from zolder.errors import ConnectFailed, ConnectionLost, Error, NoSpace, PoolUnavailable
from zolder.fake import FakeStorage
from zolder.names import DatasetName, SnapshotName, VolumeId, ZvolName

SLOW, FAST = DatasetName("data/volumes"), DatasetName("fast/volumes")
SOURCE = "control@zolder"
ONE = connector_of("one")
GIB = 2**30
PIECES = {
    0: random_bytes(8192, 1),
    700 * 2**20: random_bytes(2**20 + 4096, 2),
    GIB - 4096: random_bytes(4096, 3),
}
CONFIGURATION = f"""
volume_driver = zolder.cinder.driver.ZolderDriver
san_ip = 192.0.2.1
san_zfs_volume_base = {SLOW}, {FAST}
use_chap_auth = true
[near]
volume_driver = zolder.cinder.driver.ZolderDriver
san_ip = 192.0.2.1
san_zfs_volume_base = {SLOW}, {FAST}
target_ip_address = 192.0.2.111
target_prefix = iqn.2012-02.org.example:
[far]
volume_driver = zolder.cinder.driver.ZolderDriver
san_ip = 192.0.2.2
san_thin_provision = false
target_ip_address = 192.0.2.112
[wrong]
volume_driver = zolder.cinder.driver.ZolderDriver
san_ip = 192.0.2.2
target_protocol = carrier pigeon
[lvm]
volume_driver = cinder.volume.drivers.lvm.LVMVolumeDriver
"""


class FaultySan(FakeStorage):
    """A SAN some of whose verbs fail, before they do anything or behind it, or have something happen."""

    def __init__(self, san: str) -> None:
        """Let nothing fail yet."""
        super().__init__((SLOW, FAST), san=san, capacity_bytes=100 * GIB)
        self.before: dict[str, list[Error | None]] = {}
        self.behind: dict[str, list[Error | None]] = {}
        self.calls: dict[str, Callable[[], None]] = {}


class Passing:
    """Stands before a SAN and has its faults."""

    def __init__(self, san: FaultySan) -> None:
        """Pass everything on to ``san``."""
        self._san = san

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - passed on
        """Return a verb with its faults."""
        verb = getattr(self._san, name)

        def asked(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as above
            raise_next(self._san.before, name)
            answer = verb(*args, **kwargs)
            self._san.calls.get(name, lambda: None)()
            raise_next(self._san.behind, name)
            return answer

        return asked


def raise_next(faults: dict[str, list[Error | None]], name: str) -> None:
    """Raise what is the next fault of a verb, if it is one."""
    fault = faults[name].pop(0) if faults.get(name) else None
    if fault is not None:
        raise fault


class Wires:
    """Cinder's RPC to whichever manager it is for; there is one, and it answers at once."""

    def __init__(self, world: World) -> None:
        """Call the manager of ``world``."""
        self._world = world

    def update_migrated_volume(self, ctxt: Any, volume: Any, new_volume: Any, status: str) -> None:  # noqa: ANN401 - Cinder's
        """Pass it on."""
        self._world.cinder.manager.update_migrated_volume(ctxt, volume, new_volume, status)

    def delete_volume(self, _ctxt: Any, volume: Any) -> None:  # noqa: ANN401 - Cinder's
        """Delete what the volume's row says, as its manager does."""
        self._world.cinder.manager.driver.delete_volume(volume)
        volume.destroy()

    def attach_volume(self, *_: object) -> None:
        """Have the row alone, which is all that this does by then."""


class World:
    """A Cinder with a back end on one SAN, and another SAN."""

    def __init__(self, near: FaultySan, far: FaultySan) -> None:
        """Leave out what Cinder publishes, and the copying of its own."""
        self.near, self.far = near, far
        self.opened: list[str] = []
        self.generic: list[str] = []
        self.cinder = Cinder(self.driver())
        manager = self.cinder.manager
        manager.publish_service_capabilities = lambda _: None
        manager.message_api = None
        manager._migrate_volume_generic = lambda _, volume, *__: self.generic.append(volume.id)

    def driver(self, section: str = "zolder") -> ZolderDriver:
        """Return the driver of a back end, as the manager of another process has it."""
        read = configuration.Configuration([], config_group=section)
        append_options(read)
        made = ZolderDriver(configuration=read, host=f"control@{section}", connect=self.connect)
        made.do_setup(None)
        made.check_for_setup_error()
        return made

    def connect(self, settings: Settings) -> San:
        """Open a SAN by its address."""
        self.opened.append(settings.san_address)
        san = {"192.0.2.1": self.near, "192.0.2.2": self.far}[settings.san_address]
        storage: Any = Passing(san)
        return San(storage, storage)

    def destination(self, host: str) -> dict[str, Any]:
        """Return a place as Cinder's scheduler passes it on, with what its pool reports."""
        place, _, parent = host.partition("#")
        san = self.far if place == "control@far" else self.near
        location = f"zolder:{san.get_guid(DatasetName(parent))}:{parent}"
        return {"host": host, "cluster_name": None, "capabilities": {"location_info": location}}

    def new_volume(self, *, type_id: str | None = None) -> objects.Volume:
        """Create a volume with something in it."""
        volume = self.cinder.new_volume(type_id)
        self.near.write_zvol(SLOW, ZvolName(volume.name), MemorySource(PIECES))
        return volume

    def migrate(self, volume: objects.Volume, destination: dict[str, Any]) -> objects.Volume:
        """Have Cinder's manager migrate a volume, locked, and return what its database has then."""
        volume.refresh()
        volume.update({"previous_status": volume.status, "status": "maintenance"})
        volume.save()
        self.cinder.manager.migrate_volume(self.cinder.context, volume, destination)
        return objects.Volume.get_by_id(self.cinder.context, volume.id)

    def retype(
        self, volume: objects.Volume, type_id: str, host: str, *, policy: str = "never"
    ) -> objects.Volume:
        """Have Cinder's manager retype a volume, and return what its database has then."""
        volume.refresh()
        volume.update({"previous_status": volume.status, "status": "retyping"})
        volume.save()
        self.cinder.manager.retype(
            self.cinder.context, volume, type_id, self.destination(host), migration_policy=policy
        )
        return objects.Volume.get_by_id(self.cinder.context, volume.id)

    def copied_by_cinder(
        self, parent: DatasetName, *, in_use: bool = False, of: objects.Volume | None = None
    ) -> tuple[objects.Volume, objects.Volume]:
        """Return a volume and its copy as Cinder's generic migration has them before their completion."""
        volume, context = of or self.new_volume(), self.cinder.context
        status = "in-use" if in_use else "available"
        volume.update({"migration_status": "migrating", "previous_status": status})
        volume.save()
        copy = objects.Volume(
            context,
            size=1,
            host=f"{SOURCE}#{parent}",
            status="available",
            attach_status="detached",
            migration_status=f"target:{volume.id}",
            project_id=volume.project_id,
            user_id=volume.user_id,
            volume_type_id=volume.volume_type_id,
        )
        copy.create()
        copy.update(self.cinder.manager.driver.create_volume(copy))
        copy.save()
        self.near.write_zvol(parent, ZvolName(copy.name), MemorySource(PIECES))
        return volume, copy

    def complete(self, volume: objects.Volume, copy: objects.Volume) -> objects.Volume:
        """Complete a generic migration, and return what Cinder's database has then."""
        self.cinder.manager.migrate_volume_completion(self.cinder.context, volume, copy)
        return objects.Volume.get_by_id(self.cinder.context, volume.id)

    def require_at(self, volume: objects.Volume, san: FaultySan, parent: DatasetName) -> None:
        """The volume is at one place alone, whole, and that is where Cinder has it."""
        found = [
            (one.san, zvol.parent, zvol.name)
            for one in (self.near, self.far)
            for place in (SLOW, FAST)
            for zvol in one.list_zvols(place)
        ]
        assert found == [(san.san, parent, volume.name)]
        assert san.get_zvol(parent, ZvolName(volume.name)).volume_id == VolumeId(volume.name_id)
        assert contents(san, parent, volume.name) == CONTENTS
        assert volume.host.partition("#")[2] == parent

    def require_failed(self, volume: objects.Volume) -> None:
        """The volume is where it was, and Cinder says that its migration has failed."""
        volume = objects.Volume.get_by_id(self.cinder.context, volume.id)
        self.require_at(volume, self.near, SLOW)
        assert (volume.status, volume.migration_status) == ("available", "error")
        assert self.generic == []


def contents(san: FakeStorage, parent: DatasetName, name: str) -> dict[int, bytes]:
    """Return what is in a zvol but zeros."""
    return {number: data for number, data in san.read_blocks(f"{parent}/{name}").items() if any(data)}


CONTENTS = {
    (begin + start) // 4096: data[start : start + 4096]
    for begin, data in PIECES.items()
    for start in range(0, len(data), 4096)
}


@pytest.fixture
def near() -> FaultySan:
    """The SAN that has the volumes."""
    return FaultySan("near")


@pytest.fixture
def far() -> FaultySan:
    """The other."""
    return FaultySan("far")


@pytest.fixture
def make_driver(configure: Configure) -> Callable[[], None]:
    """What the database's fixture waits for: a cinder.conf that is read."""
    configure(CONFIGURATION)
    return lambda: None


database = test_records.database


@pytest.fixture
def world(
    database: Database,  # noqa: ARG001 - it stands below
    near: FaultySan,
    far: FaultySan,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    """A Cinder whose one back end knows of another on another SAN."""
    world = World(near, far)
    for host in (SOURCE, "control@near", "control@far", "control@wrong", "control@lvm", "other@farther"):
        objects.Service(
            world.cinder.context, host=host, binary="cinder-volume", topic="cinder-volume",
            availability_zone="nova",
        ).create()  # fmt: skip
    monkeypatch.setattr(rpcapi, "VolumeAPI", lambda: Wires(world))
    return world


# Within one SAN


def test_to_another_pool(world: World) -> None:
    """The SAN moves it, Cinder's record follows, and it is attached as ever with the same secret."""
    volume = world.new_volume()
    before = volume.provider_auth, volume.provider_location
    volume = world.migrate(volume, world.destination(f"{SOURCE}#{FAST}"))
    world.require_at(volume, world.near, FAST)
    assert (volume.status, volume.migration_status) == ("available", "success")
    assert (volume.provider_auth, volume.provider_location) == before
    world.cinder.attach(volume, ONE)
    assert [access.zvol for access in world.near.list_attachments(FAST)] == [volume.name]
    assert (world.opened, world.generic) == (["192.0.2.1"], []), "no other way was opened"


@pytest.mark.parametrize("parent", [SLOW, FAST], ids=["where it is", "to another zpool"])
def test_to_another_back_end_over_the_same_san(world: World, parent: DatasetName) -> None:
    """It is said at once where it will be exported there, and its secret goes on being valid."""
    volume = world.new_volume()
    before = volume.provider_auth
    volume = world.migrate(volume, world.destination(f"control@near#{parent}"))
    world.require_at(volume, world.near, parent)
    assert volume.provider_location == f"192.0.2.111:3260,1 iqn.2012-02.org.example:{volume.name} 0"
    assert volume.provider_auth == before
    driver = world.driver("near")
    assert driver.create_export(None, volume, ONE) == {}
    told = driver.initialize_connection(volume, dict(ONE))["data"]
    assert told["target_iqn"] == f"iqn.2012-02.org.example:{volume.name}"
    assert told["auth_method"] == "CHAP"


def test_a_secret_is_made_where_it_is_needed(world: World) -> None:
    """A volume without one gets it with its first attachment by a back end that asks for CHAP."""
    volume = world.new_volume()
    volume.update({"provider_auth": None})
    volume.save()
    volume = world.migrate(volume, world.destination(f"control@near#{FAST}"))
    assert volume.provider_auth is None
    driver = world.driver("near")
    volume.update({"host": f"{SOURCE}#{FAST}"})
    made = world.cinder.manager.driver.create_export(None, volume, ONE)
    assert made["provider_auth"].startswith(f"CHAP {volume.name} ")
    volume.update(made)
    assert driver.initialize_connection(volume, dict(ONE))["data"]["auth_method"] == "CHAP"


def test_a_back_end_of_another_control_node(world: World) -> None:
    """Over the same SAN no section is needed; where it is exported is said at the next attachment."""
    volume = world.new_volume()
    before = volume.provider_location
    volume = world.migrate(volume, world.destination(f"other@farther#{FAST}"))
    world.require_at(volume, world.near, FAST)
    assert (volume.host, volume.provider_location) == (f"other@farther#{FAST}", before)
    volume.update(world.driver("near").create_export(None, volume, ONE))
    assert volume.provider_location == f"192.0.2.111:3260,1 iqn.2012-02.org.example:{volume.name} 0"


def test_there_is_no_room(world: World) -> None:
    """It stays, whole, and nothing goes Cinder's generic way."""
    world.near.before["move_zvol"] = [NoSpace("there is no room")]
    volume = world.new_volume()
    with pytest.raises(exception.VolumeBackendAPIException, match="no room"):
        world.migrate(volume, world.destination(f"{SOURCE}#{FAST}"))
    world.require_failed(volume)


def test_the_source_is_in_use(world: World) -> None:
    """Somebody of whom Cinder has no row keeps it where it is, and is named."""
    volume = world.new_volume()
    world.cinder.wire.initialize_connection(world.cinder.context, volume, ONE)
    with pytest.raises(exception.VolumeIsBusy, match="exported"):
        world.migrate(volume, world.destination(f"{SOURCE}#{FAST}"))
    world.require_failed(volume)


@pytest.mark.parametrize("place", [f"{SOURCE}#{FAST}", f"control@far#{SLOW}"])
def test_a_snapshot_of_somebody_elses(world: World, place: str) -> None:
    """It would keep the source from being deleted, so nothing is copied; it is named."""
    volume = world.new_volume()
    world.near.plant_foreign_snapshot(SLOW, ZvolName(volume.name), "autosnap")
    with pytest.raises(exception.VolumeIsBusy, match="autosnap"):
        world.migrate(volume, world.destination(place))
    world.require_failed(volume)


@pytest.mark.parametrize("place", [f"{SOURCE}#{FAST}", f"control@far#{SLOW}"])
def test_asked_twice(world: World, place: str) -> None:
    """A cinder-volume that died behind the move and before its record: the repeat is the record."""
    volume = world.new_volume()
    destination = world.destination(place)
    assert world.cinder.manager.driver.migrate_volume(None, volume, destination)[0] is True
    volume = world.migrate(volume, destination)
    world.require_at(
        volume, world.far if "far" in place else world.near, DatasetName(place.partition("#")[2])
    )
    assert volume.host == place


# To another SAN


def test_to_another_san(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """All that was in it is there, as that back end makes volumes, and nothing is left here."""
    caplog.set_level(logging.INFO, logger="zolder")
    type_id = world.cinder.new_type({"zolder:compression": "zstd-3", "zolder:volblocksize": "64k"})
    volume = world.migrate(world.new_volume(type_id=type_id), world.destination(f"control@far#{SLOW}"))
    world.require_at(volume, world.far, SLOW)
    zvol = world.far.get_zvol(SLOW, ZvolName(volume.name))
    assert (zvol.sparse, zvol.properties.compression, zvol.volsize_bytes) == (False, "zstd-3", GIB)
    assert world.far._block_size_of(zvol) == "64k"
    assert volume.provider_location == f"192.0.2.112:3260,1 iqn.2010-10.org.openstack:{volume.name} 0"
    assert (volume.status, volume.migration_status, volume.host) == (
        "available", "success", f"control@far#{SLOW}",
    )  # fmt: skip
    assert world.generic == []
    told = world.driver("far").initialize_connection(volume, dict(ONE))["data"]
    assert told["auth_method"] == "CHAP", "the secret is the volume's"


def test_there_and_back(world: World) -> None:
    """What it left behind is in nobody's way."""
    volume = world.migrate(world.new_volume(), world.destination(f"control@far#{SLOW}"))
    there = world.driver("far")
    moved, update = there.migrate_volume(None, volume, world.destination(f"{SOURCE}#{FAST}"))
    volume.update({"host": f"{SOURCE}#{FAST}", **(update or {})})
    assert moved
    world.require_at(volume, world.near, FAST)


def test_the_log_says_how_far_it_is(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line each few seconds, with what it is about and how much was carried."""
    monkeypatch.setattr("zolder.cinder.copying._TOLD_EACH_SECONDS", -1.0)
    volume = world.new_volume()
    with caplog.at_level(logging.INFO, logger="zolder"):
        world.migrate(volume, world.destination(f"control@far#{SLOW}"))
    begins = f"{SLOW}/{volume.name} on 192.0.2.1 to {SLOW} on 192.0.2.2: "
    lines = [text for text in caplog.messages if text.startswith(begins)]
    assert "100 % (1024 of 1024 MiB), 1 MiB carried" in lines[-1]


@pytest.mark.parametrize(
    ("verb", "error"),
    [
        ("create_zvol", NoSpace("it is full")),
        ("write_zvol", NoSpace("it is full")),
        ("write_zvol", ConnectionLost("the line was lost five times")),
        ("move_zvol", NoSpace("it is full")),
    ],
)
def test_the_destination_fails(world: World, verb: str, error: Error) -> None:
    """The volume is as it was, nothing is left at the destination, and the error says what was where."""
    world.far.before[verb] = [error]
    volume = world.new_volume()
    with pytest.raises(exception.VolumeBackendAPIException, match=f"to {SLOW} on 192.0.2.2 failed: {error}"):
        world.migrate(volume, world.destination(f"control@far#{SLOW}"))
    world.require_failed(volume)
    world.require_at(world.migrate(volume, world.destination(f"control@far#{SLOW}")), world.far, SLOW)


@pytest.mark.parametrize("at", ["before", "behind"])
def test_reading_the_source_fails(world: World, at: str) -> None:
    """The first cause is what is said, and half a copy is no copy."""
    getattr(world.near, at)["read_zvol"] = [ConnectionLost("the line was lost five times")]
    volume = world.new_volume()
    with pytest.raises(exception.VolumeBackendAPIException, match="lost five times"):
        world.migrate(volume, world.destination(f"control@far#{SLOW}"))
    world.require_failed(volume)


def test_the_other_san_cannot_be_reached(world: World) -> None:
    """It is configured here, so it is said what is wrong with it; nothing was begun."""
    world.far.before["get_guid"] = [ConnectFailed("192.0.2.2 does not answer: check that it is up")]
    volume = world.new_volume()
    with pytest.raises(exception.VolumeBackendAPIException, match="check that it is up"):
        world.migrate(volume, world.destination(f"control@far#{SLOW}"))
    world.require_failed(volume)


def test_it_was_attached_meanwhile(world: World) -> None:
    """Cinder lets a volume that is not locked be attached while it migrates: its copy is not the volume."""
    volume = world.new_volume()
    driver = world.cinder.manager.driver

    def attach() -> None:
        row = world.cinder.attach(objects.Volume.get_by_id(world.cinder.context, volume.id), ONE)
        world.cinder.detach(row)

    world.far.calls["write_zvol"] = attach
    with pytest.raises(exception.VolumeIsBusy, match="--lock-volume"):
        driver.migrate_volume(None, volume, world.destination(f"control@far#{SLOW}"))
    world.require_at(volume, world.near, SLOW)


# What is left to Cinder


@pytest.mark.parametrize(
    ("host", "location", "reason"),
    [
        (f"control@lvm#{SLOW}", "LVMVolumeDriver:control:vg:thin:0", "none of Zolder's pools"),
        (f"control@lvm#{SLOW}", None, "none of Zolder's pools"),
        (f"control@far#{SLOW}", "unknown", "none of Zolder's pools"),
        (f"control@far#{SLOW}", f"zolder:0123456789abcdef:{SLOW}@x", "none of Zolder's pools"),
        (f"control@far#{SLOW}", f"zolder:192.0.2.2:{SLOW}", "none of Zolder's pools"),
        (f"other@farther#{SLOW}", f"zolder:0123456789abcdef:{SLOW}", "there is no section [farther]"),
        (f"control@wrong#{SLOW}", f"zolder:0123456789abcdef:{SLOW}", "[wrong] in this control node's"),
        (f"control@lvm#{SLOW}", f"zolder:0123456789abcdef:{SLOW}", "a volume_driver that is not Zolder's"),
        (f"control@far#{SLOW}", f"zolder:0123456789abcdef:{SLOW}", "is another one"),
        (f"other@zolder#{SLOW}", f"zolder:0123456789abcdef:{SLOW}", "is another one"),
        (f"control@far#{SLOW}", "zolder:0123456789abcdef:third/volumes", "is another one"),
    ],
)
def test_it_is_left_to_cinder(
    world: World, caplog: pytest.LogCaptureFixture, host: str, location: str | None, reason: str
) -> None:
    """Before anything is begun, and with a line that says why."""
    volume = world.new_volume()
    destination = {"host": host, "capabilities": {"location_info": location}}
    with caplog.at_level(logging.INFO, logger="zolder"):
        world.migrate(volume, destination)
    assert world.generic == [volume.id]
    [line] = [text for text in caplog.messages if "is left to Cinder's generic migration" in text]
    assert reason in line
    assert world.near.list_zvols(SLOW)[0].name == volume.name


def test_a_zpool_that_is_away_is_no_other_san(world: World) -> None:
    """It is not copied through this control node, from the SAN to the SAN itself."""
    world.near.before["get_guid"] = [PoolUnavailable("zpool fast is not imported")]
    volume = world.new_volume()
    world.migrate(volume, world.destination(f"{SOURCE}#{FAST}"))
    assert world.generic == [volume.id]


# Retype to another pool of the same back end


def test_retype_to_another_pool(world: World) -> None:
    """It is moved and has what the new type says, and Cinder's record follows."""
    volume = world.new_volume()
    type_id = world.cinder.new_type({"zolder:compression": "zstd-3", "zolder:provisioning": "thick"})
    volume = world.retype(volume, type_id, f"{SOURCE}#{FAST}")
    world.require_at(volume, world.near, FAST)
    zvol = world.near.get_zvol(FAST, ZvolName(volume.name))
    assert (zvol.properties.compression, zvol.sparse) == ("zstd-3", False)
    assert volume.volume_type_id == type_id


def test_a_retype_by_the_back_ends_name(world: World) -> None:
    """Types that differ in volume_backend_name alone are a migration, which the driver does."""
    volume = world.new_volume(type_id=world.cinder.new_type({"volume_backend_name": "one"}))
    type_id = world.cinder.new_type({"volume_backend_name": "two"})
    volume = world.retype(volume, type_id, f"control@far#{SLOW}", policy="on-demand")
    world.require_at(volume, world.far, SLOW)
    assert (volume.volume_type_id, volume.status, world.generic) == (type_id, "available", [])


def test_a_retype_to_other_blocks_does_not_move_it(world: World) -> None:
    """What no pool could change is seen before anything is moved."""
    volume = world.new_volume()
    type_id = world.cinder.new_type({"zolder:volblocksize": "64k"})
    with pytest.raises(exception.VolumeMigrationFailed):
        world.retype(volume, type_id, f"{SOURCE}#{FAST}")
    world.require_at(volume, world.near, SLOW)


@pytest.mark.parametrize("in_use", [True, False], ids=["in use", "with a snapshot"])
def test_a_retype_that_has_to_be_a_migration(world: World, *, in_use: bool) -> None:
    """To another zpool neither a volume in use goes nor one with snapshots, and it stays as it is."""
    volume = world.new_volume()
    if in_use:
        world.cinder.attach(volume, ONE)
    else:
        world.near.create_snapshot(SLOW, ZvolName(volume.name), SnapshotName("snapshot-1"))
    with pytest.raises(exception.VolumeMigrationFailed):
        world.retype(volume, world.cinder.new_type({"zolder:compression": "off"}), f"{SOURCE}#{FAST}")
    world.require_at(volume, world.near, SLOW)
    assert world.near.get_zvol(SLOW, ZvolName(volume.name)).properties.compression is None


@pytest.mark.parametrize(
    "back", [None, ConnectionLost("the line was lost")], ids=["and back", "and no way back"]
)
def test_a_retype_that_fails_behind_the_move(
    world: World, caplog: pytest.LogCaptureFixture, back: Error | None
) -> None:
    """It comes back; where it cannot it is said where it is, and the same retype ends it."""
    volume = world.new_volume()
    world.near.before["set_zvol_properties"] = [None, NoSpace("there is no room to be thick")]
    world.near.before["move_zvol"] = [None, back]
    type_id = world.cinder.new_type({"zolder:compression": "off"})
    with pytest.raises(exception.VolumeMigrationFailed):
        world.retype(volume, type_id, f"{SOURCE}#{FAST}")
    assert "there is no room to be thick" in caplog.text
    volume.refresh()
    if back is None:
        world.require_at(volume, world.near, SLOW)
    else:
        assert f"The volume is in {FAST} by now" in caplog.text
    volume = world.retype(volume, type_id, f"{SOURCE}#{FAST}")
    world.require_at(volume, world.near, FAST)


# Behind Cinder's generic migration


def test_the_copy_takes_the_volumes_name(world: World) -> None:
    """Both rows say what is true afterwards, and the source is deleted where it was."""
    volume, copy = world.copied_by_cinder(FAST)
    secret, name = copy.provider_auth, volume.name
    volume = world.complete(volume, copy)
    assert (volume.name, volume._name_id, volume.host) == (name, None, f"{SOURCE}#{FAST}")
    world.require_at(volume, world.near, FAST)
    assert volume.provider_location == f"192.0.2.1:3260,1 iqn.2010-10.org.openstack:{name} 0"
    assert volume.provider_auth == secret
    world.cinder.attach(volume, ONE)
    [access] = world.near.list_attachments(FAST)
    assert access.zvol == name


def test_a_volume_that_was_migrated_before(world: World) -> None:
    """Its odd name goes, and the zvol of that name with the source."""
    volume, copy = world.copied_by_cinder(FAST, in_use=True)
    volume = world.complete(volume, copy)
    assert volume._name_id == copy.id
    volume, copy = world.copied_by_cinder(SLOW, of=volume)
    volume = world.complete(volume, copy)
    assert volume._name_id is None
    world.require_at(volume, world.near, SLOW)


def test_a_copy_in_use_keeps_its_name(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Who has it attached sees the same disk; Cinder goes by ``_name_id``, and one line says so."""
    volume, copy = world.copied_by_cinder(FAST, in_use=True)
    location = copy.provider_location
    with caplog.at_level(logging.INFO, logger="zolder"):
        volume = world.complete(volume, copy)
    assert (volume._name_id, volume.name) == (copy.id, f"volume-{copy.id}")
    assert volume.provider_location == location
    world.require_at(volume, world.near, FAST)
    assert len([text for text in caplog.messages if "keeps the name" in text]) == 1


def test_the_name_is_taken(world: World) -> None:
    """A copy beside its source, in one parent, keeps its own name, and the source goes."""
    volume, copy = world.copied_by_cinder(SLOW)
    volume = world.complete(volume, copy)
    assert (volume._name_id, volume.name) == (copy.id, f"volume-{copy.id}")
    world.require_at(volume, world.near, SLOW)


@pytest.mark.parametrize("at", ["before", "behind"])
def test_nobody_knows_the_copys_name(world: World, at: str) -> None:
    """Where the answer is lost Cinder deletes neither, and what the row says is asked for again."""
    volume, copy = world.copied_by_cinder(FAST)
    getattr(world.near, at)["move_zvol"] = [ConnectionLost("the line was lost")]
    with pytest.raises(exception.VolumeBackendAPIException, match="line was lost"):
        world.complete(volume, copy)
    assert contents(world.near, SLOW, volume.name) == CONTENTS
    update = world.cinder.manager.driver.update_migrated_volume(None, volume, copy, "available")
    assert update["_name_id"] is None
    assert contents(world.near, FAST, f"volume-{volume.id}") == CONTENTS
