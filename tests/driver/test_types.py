"""Volume types: what is read of them, what the zvol then is, and retype through Cinder's own manager."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from cinder import exception, objects
from cinder.db import api as db_api
from cinder.scheduler.filters.capacity_filter import CapacityFilter

from tests.driver import test_records
from tests.driver.conftest import PARENT, connector_of, new_snapshot, new_volume
from tests.driver.test_records import Cinder, Database
from zolder.cinder.driver import ZolderDriver
from zolder.cinder.volume_types import SPECS, TEXTS, read_kind
from zolder.fake import FakeStorage
from zolder.model import Zvol
from zolder.names import ZvolName
from zolder.properties import INHERITED, BlockSize, Compression, Dedup, Sync, ZvolProperties

# Cinder's own manager and database around the driver.
database, cinder = test_records.database, test_records.cinder
GIB = 2**30
THICK = {"zolder:provisioning": "thick"}
TYPED = {"zolder:compression": "zstd-3", "zolder:sync": "always", "zolder:volblocksize": "64k"}
PROPERTIES = ZvolProperties(compression=Compression("zstd-3"), sync=Sync("always"))


def of_type(specs: dict[str, str], **fields: Any) -> objects.Volume:  # noqa: ANN401 - Cinder's
    """Return a volume of a type as Cinder's manager has it."""
    kind = objects.VolumeType(id="b0a6ff6e-2d9a-4c3f-9d5e-000000000001", name="typed", extra_specs=specs)
    return new_volume(volume_type_id=kind.id, volume_type=kind, **fields)


def zvol_behind(san: FakeStorage, volume: objects.Volume) -> Zvol:
    """Return the zvol of a volume."""
    return san.get_zvol(PARENT, ZvolName(volume.name))


# What is read


def test_every_property_is_in_the_capabilities(driver: ZolderDriver) -> None:
    """`cinder get-capabilities` shows each extra spec with its values, through Cinder's own machinery."""
    driver.init_capabilities()
    assert driver.capabilities["vendor_prefix"] == "zolder"
    shown = driver.capabilities["properties"]
    assert (
        {name for name in shown if ":" in name}
        == {f"zolder:{name}" for name in SPECS}
        == {f"zolder:{name}" for name in TEXTS}
    )
    for name, kind in SPECS.items():
        entry = shown[f"zolder:{name}"]
        assert (entry["type"], entry["enum"]) == ("string", list(kind.values))
        assert entry["title"]
        assert entry["description"].endswith(".")


@pytest.mark.parametrize("name", sorted(SPECS))
def test_every_value_that_is_shown_is_taken(name: str) -> None:
    """What get-capabilities lists a type may say, each by itself."""
    for value in SPECS[name].values:
        kind = read_kind({f"zolder:{name}": value, "volume_backend_name": "zolder"}, sparse=True)
        if name == "provisioning":
            assert kind.sparse is (value == "thin")
        elif name == "volblocksize":
            assert kind.volblocksize == value
        else:
            assert getattr(kind.properties, name) == value


@pytest.mark.parametrize(
    ("specs", "said"),
    [
        (
            {"zolder:compression": "lz5"},
            "zolder:compression will not do: compression: 'lz5' is none of on, off",
        ),
        ({"zolder:compression": "LZ4"}, "'LZ4' is none of on, off, lz4"),
        ({"zolder:compression": "<is> True"}, "'<is> True' is none of on, off"),
        ({"zolder:volblocksize": "16"}, "'16' is none of 4k, 8k, 16k, 32k, 64k, 128k"),
        ({"zolder:volblocksize": "1M"}, "'1M' is none of 4k"),
        ({"zolder:copies": "4"}, "'4' is none of 1, 2, 3"),
        ({"zolder:sync": ""}, "'' is none of standard, always, disabled"),
        (
            {"zolder:atime": "off"},
            "zolder:atime will not do: there is no such property; there are zolder:comp",
        ),
        ({"zolder:": "x"}, "zolder: will not do: there is no such property"),
        ({"zolder": "x"}, "there is no such property"),
        ({"zolder:provisioning": "fat"}, "'fat' is none of thin, thick"),
        ({"provisioning:type": "fat"}, "provisioning:type will not do: 'fat' is none of thin, thick"),
        (
            {"provisioning:type": "thin", **THICK},
            "zolder:provisioning=thick and provisioning:type=thin are both",
        ),
        (
            {"zolder:copies": "2", **THICK},
            "zolder:copies will not do: copies=2 goes with thin provisioning alone",
        ),
    ],
)
def test_what_is_not_allowed(
    driver: ZolderDriver, san: FakeStorage, specs: dict[str, str], said: str
) -> None:
    """The error names the spec, its value and what would do; nothing is made or changed."""
    with pytest.raises(exception.VolumeBackendAPIException) as refused:
        driver.create_volume(of_type(specs))
    assert said in str(refused.value)
    assert san.list_zvols(PARENT) == ()
    volume = of_type({})
    driver.create_volume(volume)
    before = zvol_behind(san, volume)
    kind = of_type(specs).volume_type
    with pytest.raises(exception.VolumeBackendAPIException):
        driver.retype(None, volume, kind, {}, {"host": volume.host})
    assert zvol_behind(san, volume) == before


@pytest.mark.parametrize(
    ("specs", "sparse"),
    [
        ({}, None),
        (THICK, False),
        ({"zolder:provisioning": "thin"}, True),
        ({"provisioning:type": "thick"}, False),
        ({"provisioning:type": "thin"}, True),
        ({"provisioning:type": "thick", **THICK}, False),
        ({"thick_provisioning_support": "<is> True"}, False),
        ({"thin_provisioning_support": "<is> True"}, True),
        ({"thin_provisioning_support": "<is> True", "thick_provisioning_support": "<is> True"}, None),
        ({"thin_provisioning_support": "<is> True", **THICK}, False),
        ({"thick_provisioning_support": "<is> False"}, None),
    ],
)
@pytest.mark.parametrize("default", [True, False], ids=["thin", "thick"])
def test_provisioning(
    make_driver: Callable[..., ZolderDriver],
    san: FakeStorage,
    specs: dict[str, str],
    sparse: bool | None,  # noqa: FBT001 - a parameter of the test
    *,
    default: bool,
) -> None:
    """A type's own word counts most, then Cinder's, then the back end's option; alike for copies."""
    driver = make_driver(f"san_thin_provision = {default}")
    expected = default if sparse is None else sparse
    volume, clone, another = (of_type(specs) for _ in range(3))
    driver.create_volume(volume)
    snapshot = new_snapshot(volume)
    driver.create_snapshot(snapshot)
    driver.create_cloned_volume(clone, volume)
    driver.create_volume_from_snapshot(another, snapshot)
    assert [zvol.sparse for zvol in san.list_zvols(PARENT)] == [expected] * 3


# What the zvol is


def test_a_type_decides_of_every_new_zvol(driver: ZolderDriver, san: FakeStorage) -> None:
    """Created, cloned or from a snapshot, a volume has what its own type says, not what its source had."""
    source = of_type(TYPED)
    driver.create_volume(source)
    assert zvol_behind(san, source).properties == PROPERTIES
    snapshot = new_snapshot(source)
    driver.create_snapshot(snapshot)
    plain = of_type({})
    driver.create_volume_from_snapshot(plain, snapshot)
    assert zvol_behind(san, plain).properties == INHERITED
    clone = of_type(TYPED | {"zolder:dedup": "verify"})
    driver.create_cloned_volume(clone, plain)
    assert zvol_behind(san, clone).properties == dataclasses.replace(PROPERTIES, dedup=Dedup("verify"))


def test_a_clone_cannot_have_other_blocks(driver: ZolderDriver, san: FakeStorage) -> None:
    """A type's volblocksize is a promise that a clone of another cannot keep, so it is refused."""
    source = of_type({"zolder:volblocksize": "16k"})
    driver.create_volume(source)
    with pytest.raises(exception.VolumeBackendAPIException, match="volblocksize"):
        driver.create_cloned_volume(of_type({"zolder:volblocksize": "64k"}), source)
    assert len(san.list_zvols(PARENT)) == 1


# The figures


@pytest.mark.parametrize(
    ("lines", "specs", "size", "fits"),
    [
        # 100 GiB, of which 40 are reserved and 40 more are thin.
        ("", {}, 200, True),
        ("", {"provisioning:type": "thick"}, 21, False),
        ("", {"provisioning:type": "thick"}, 20, True),
        ("san_thin_provision = false", {}, 21, False),
        ("san_thin_provision = false", {}, 20, True),
        ("max_over_subscription_ratio = 1.5", {}, 71, False),
        ("max_over_subscription_ratio = 1.5", {}, 70, True),
    ],
)
def test_the_scheduler_places_thin_and_thick(
    make_driver: Callable[..., ZolderDriver], lines: str, specs: dict[str, str], size: int, *, fits: bool
) -> None:
    """Cinder's own CapacityFilter over-subscribes thin volumes alone; thick ones count them whole."""
    driver = make_driver(lines)
    driver.create_volume(of_type(THICK, size=40))
    driver.create_volume(of_type({"zolder:provisioning": "thin"}, size=40))
    [pool] = driver.get_volume_stats(refresh=True)["pools"]
    state = SimpleNamespace(backend_id="control@zolder#data/volumes", cluster_name=None, **pool)
    asked = {"size": size, "volume_type": {"extra_specs": specs}}
    assert CapacityFilter().backend_passes(state, asked) is fits


# Retype, through Cinder's own manager


class Retyping:
    """A Cinder that retypes, and what it would migrate."""

    def __init__(self, cinder: Cinder) -> None:
        """Leave out the report that it publishes at the end, and the migration itself."""
        self.cinder = cinder
        self.migrated: list[str] = []
        cinder.manager.publish_service_capabilities = lambda _: None
        cinder.manager.migrate_volume = lambda _, volume, *__, **___: self.migrated.append(volume.id)
        cinder.manager.message_api = None

    def __call__(self, volume: objects.Volume, type_id: str, *, policy: str = "never") -> None:
        """Retype a volume where it is."""
        volume.refresh()
        host = {"host": volume.host, "cluster_name": None}
        self.cinder.manager.retype(self.cinder.context, volume, type_id, host, migration_policy=policy)
        volume.refresh()


@pytest.fixture
def retype(cinder: Cinder) -> Retyping:
    """A Cinder that retypes."""
    return Retyping(cinder)


@pytest.mark.parametrize("in_use", [False, True], ids=["available", "in-use"])
def test_retype_in_place(retype: Retyping, san: FakeStorage, *, in_use: bool) -> None:
    """What ZFS can change is changed at once, in use or not, and Cinder's record follows."""
    cinder = retype.cinder
    volume = cinder.new_volume()
    if in_use:
        cinder.attach(volume, connector_of("one"))
    status = volume.status
    snapshot = objects.Snapshot(
        cinder.context,
        volume_id=volume.id,
        volume_size=1,
        project_id=volume.project_id,
        status="available",
        volume_type_id=volume.volume_type_id,
    )
    snapshot.create()
    for specs, properties, sparse in (
        ({"zolder:compression": "zstd-3", "zolder:sync": "always", **THICK}, PROPERTIES, False),
        ({"zolder:compression": "zstd-3", "zolder:sync": "always"}, PROPERTIES, True),
        ({"zolder:dedup": "on"}, ZvolProperties(dedup=Dedup("on")), True),
        ({}, INHERITED, True),
    ):
        type_id = cinder.new_type(specs)
        retype(volume, type_id)
        zvol = zvol_behind(san, volume)
        assert (zvol.properties, zvol.sparse) == (properties, sparse)
        assert (volume.volume_type_id, volume.status) == (type_id, status)
        assert objects.Snapshot.get_by_id(cinder.context, snapshot.id).volume_type_id == type_id
    assert retype.migrated == []
    assert len(san.list_attachments(PARENT)) == int(in_use)


def test_retype_to_other_blocks_is_a_migration(retype: Retyping, san: FakeStorage) -> None:
    """A volblocksize stays as it is: Cinder migrates where the user allows it, else nothing is done."""
    cinder = retype.cinder
    volume = cinder.new_volume()
    before, type_before = zvol_behind(san, volume), volume.volume_type_id
    other = cinder.new_type(TYPED)
    with pytest.raises(exception.VolumeMigrationFailed, match="requires migration but is not allowed"):
        retype(volume, other)
    assert (zvol_behind(san, volume), volume.volume_type_id) == (before, type_before)
    volume.refresh()
    assert volume.status == "available"
    retype(volume, other, policy="on-demand")
    assert retype.migrated == [volume.id]
    assert zvol_behind(san, volume) == before
    retype(volume, cinder.new_type({"zolder:volblocksize": "16k"}))
    assert retype.migrated == [volume.id], "it has these blocks already"


def test_retype_to_thick_that_does_not_fit(
    retype: Retyping, san: FakeStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the numbers, and the volume stays as it was."""
    cinder = retype.cinder
    cinder.manager.driver.create_volume(of_type(THICK, size=100))
    volume = cinder.new_volume()
    before = zvol_behind(san, volume)
    with pytest.raises(exception.VolumeMigrationFailed):
        retype(volume, cinder.new_type({"zolder:compression": "off", **THICK}))
    assert f"{GIB} bytes are needed and 0 available" in caplog.text
    assert zvol_behind(san, volume) == before


def test_what_is_never_retyped_in_place(driver: ZolderDriver, san: FakeStorage) -> None:
    """Another encryption is another content, and another pool is another place."""
    volume = of_type({})
    driver.create_volume(volume)
    before = zvol_behind(san, volume)
    kind = of_type({"zolder:compression": "off"}).volume_type
    here = {"host": volume.host}
    encryption = {"encryption": {"cipher": (None, "aes-xts-plain64")}}
    assert driver.retype(None, volume, kind, encryption, here) is False
    assert driver.retype(None, volume, kind, {}, {"host": "control@zolder#fast/volumes"}) is False
    assert zvol_behind(san, volume) == before
    assert driver.retype(None, volume, kind, None, here) is True
    for same in ("other@zolder#data/volumes", "control@zolder"):
        assert driver.retype(None, volume, kind, None, {"host": same}) is True, "a cluster's other member"


# What goes through the manager and not through the driver


def _qos(cinder: Cinder, consumer: str) -> str:
    """Return a type with QoS specs."""
    kind = cinder.new_type({})
    values = {"name": f"qos-{consumer}", "consumer": consumer, "specs": {"total_iops_sec": "500"}}
    qos = db_api.qos_specs_create(cinder.context, values)
    db_api.volume_type_qos_associate(cinder.context, kind, qos["id"])
    return kind


def _told(cinder: Cinder, volume: objects.Volume) -> dict[str, Any]:
    """Return what Nova is told when it attaches."""
    row = cinder.attach(volume, connector_of("one"))
    told: dict[str, Any] = objects.VolumeAttachment.get_by_id(cinder.context, row.id).connection_info
    return told


@pytest.mark.parametrize(
    ("consumer", "told"),
    [("front-end", {"total_iops_sec": "500"}), ("both", {"total_iops_sec": "500"}), ("back-end", None)],
)
def test_qos_of_the_front_end_reaches_nova(
    retype: Retyping, consumer: str, told: dict[str, str] | None
) -> None:
    """Cinder's manager passes it by the driver, before and after a retype; the back end claims none."""
    cinder = retype.cinder
    kind = _qos(cinder, consumer)
    volume, retyped = cinder.new_volume(kind), cinder.new_volume()
    retype(retyped, kind)
    assert [_told(cinder, each)["qos_specs"] for each in (volume, retyped)] == [told, told]
    [pool] = cinder.manager.driver.get_volume_stats(refresh=True)["pools"]
    assert pool["QoS_support"] is False


@pytest.mark.parametrize("reported", [True, False])
@pytest.mark.parametrize(("helper", "discards"), [("lioadm", True), ("tgtadm", False)])
def test_discard_is_reported_as_the_exporter_has_it(
    make_driver: Callable[..., ZolderDriver],
    database: Database,  # noqa: ARG001 - it stands below
    helper: str,
    *,
    discards: bool,
    reported: bool,
) -> None:
    """``report_discard_supported`` is for drivers that say nothing of it; what this one says is passed on."""
    cinder = Cinder(make_driver(f"target_helper = {helper}\nreport_discard_supported = {reported}"))
    assert _told(cinder, cinder.new_volume())["discard"] is discards


def test_capacity_is_of_the_blocks_that_are_asked_for(driver: ZolderDriver, san: FakeStorage) -> None:
    """A size in GiB is kept exactly by each volblocksize."""
    for size in BlockSize.values:
        volume = of_type({"zolder:volblocksize": size}, size=3)
        driver.create_volume(volume)
        driver.extend_volume(volume, 5)
        assert zvol_behind(san, volume).volsize_bytes == 5 * GIB
