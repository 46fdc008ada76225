"""Migration by the driver on real ZFS: within the SAN, and through itself to one that its own key cannot ask.

The other SAN is the same machine by another identity, with a key and a parent of its own, of which the first
knows nothing: all between the two goes over SSH, as between two machines.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy
from cinder import exception, objects
from cinder.db import api as database
from cinder.db import models
from oslo_config import cfg
from sqlalchemy.pool import StaticPool

from tests.contract.ground import FAST, MIB, MORE, OTHER_PARENT, PARENT
from tests.support.backend import read_section
from tests.support.labdriver import ADMIN, new_volume
from tests.support.memory import MemorySource, random_bytes
from tests.support.san import ssh_target
from zolder.cinder.driver import ZolderDriver
from zolder.cinder.settings import Settings
from zolder.cinder.storage import San, open_san
from zolder.errors import Busy
from zolder.frames import Frame, Source
from zolder.model import Route
from zolder.names import LIO, DatasetName, InitiatorName, Portal, TargetPrefix, ZvolName

if TYPE_CHECKING:
    from lab import Lab
    from zolder.client.remote import RemoteStorage

pytestmark = pytest.mark.timeout(600)

GIB = 2**30
PIECES = {
    0: random_bytes(20 * MIB, 1),
    300 * MIB: random_bytes(40 * MIB, 2),
    GIB - 4 * MIB: random_bytes(4 * MIB, 3),
}
DATA_MIB = 64
CONFIGURATION = f"""
volume_driver = zolder.cinder.driver.ZolderDriver
san_ip = 127.0.0.1
san_zfs_volume_base = {PARENT}, {MORE}, {FAST}
[far]
volume_driver = zolder.cinder.driver.ZolderDriver
san_ip = 127.0.0.1
san_zfs_volume_base = {OTHER_PARENT}
"""
INITIATOR = InitiatorName("iqn.2004-10.org.example:one")
ROUTE = Route(LIO, TargetPrefix("iqn.2010-10.org.openstack:"), (Portal("192.168.77.1:3260"),))


@pytest.fixture(scope="module")
def meddle() -> dict[str, Callable[[], object]]:
    """What happens once while contents are written to the other SAN: by how far they have come."""
    return {}


@pytest.fixture(scope="module")
def driver(
    lab: Lab,
    storage: RemoteStorage,
    meddle: dict[str, Callable[[], object]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ZolderDriver]:
    """A driver with both in its cinder.conf, and a database of Cinder's for it to look for attachments in."""
    del storage  # its reset comes first
    target = ssh_target(lab)
    other = dataclasses.replace(target, private_key=lab.environment()["other_key"])

    def connect(settings: Settings) -> San:
        far = settings.parents == (OTHER_PARENT,)
        opened = open_san(dataclasses.replace(settings, way=other if far else target))
        meddled: Any = Meddled(opened.storage, meddle)
        return dataclasses.replace(opened, storage=meddled)

    read = read_section(tmp_path_factory.mktemp("state"), CONFIGURATION)
    cfg.CONF.set_override("connection", "sqlite://", group="database")
    engine = sqlalchemy.create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    models.BASE.metadata.create_all(engine)
    restore = database.main_context_manager.patch_engine(engine)
    made = ZolderDriver(configuration=read, host="control@zolder", connect=connect)
    made.do_setup(None)
    made.check_for_setup_error()
    yield made
    made._san.close()
    restore()
    engine.dispose()
    cfg.CONF.clear_override("connection", group="database")
    cfg.CONF.reset()


class Meddled:
    """Stands before a SAN's storage, and does something once in the middle of what is written."""

    def __init__(self, storage: Any, meddle: dict[str, Callable[[], object]]) -> None:  # noqa: ANN401 - passed on
        """Pass everything on to ``storage``."""
        self._storage, self._meddle = storage, meddle

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - passed on
        """Pass on what contents are not written by."""
        return getattr(self._storage, name)

    def write_zvol(self, parent: DatasetName, zvol: ZvolName, source: Source) -> object:
        """Write what a source has, and be meddled with."""
        return self._storage.write_zvol(parent, zvol, Meddling(source, self._meddle))


class Meddling(Source):
    """A source behind whose data something happens, once at each offset in MiB."""

    def __init__(self, source: Source, meddle: dict[str, Callable[[], object]]) -> None:
        """Take all from ``source``."""
        self._source, self._meddle = source, meddle

    def frames(self, limit_bytes: int) -> Iterator[Frame]:
        """See ``Source``."""
        for frame in self._source.frames(limit_bytes):
            yield frame
            self._meddle.pop(str(frame.offset_bytes // MIB), lambda: None)()

    def acknowledge(self, offset_bytes: int) -> None:
        """See ``Source``."""
        self._source.acknowledge(offset_bytes)


@pytest.fixture
def volume(driver: ZolderDriver) -> Iterator[objects.Volume]:
    """A volume with something in it; wherever it is in the end, it goes."""
    made = new_volume()
    row = {"id": made.id, "host": made.host, "size": made.size, "status": "available"}
    database.volume_create(ADMIN, {**row, "volume_type_id": str(uuid.uuid4())})
    made.update(driver.create_volume(made))
    driver._san.storage.write_zvol(PARENT, ZvolName(made.name), MemorySource(PIECES))
    yield made
    for parent in (PARENT, MORE, FAST):
        driver._san.storage.delete_zvol(parent, ZvolName(made.name))


def destination(lab: Lab, place: str) -> dict[str, Any]:
    """Return a place with what its pool reports."""
    parent = place.partition("#")[2]
    guid = int(lab.san.succeed(["zfs", "get", "-Hpo", "value", "guid", parent]))
    return {"host": place, "capabilities": {"location_info": f"zolder:{guid:016x}:{parent}"}}


def checksum(lab: Lab, parent: str, name: str) -> str:
    """Return the SHA-256 of all that a zvol has, as the SAN's own kernel reads it."""
    node = f"/dev/zvol/{parent}/{name}"
    lab.san.wait_until(f"test -b {node}", 60, "udev's link")
    return lab.san.succeed(f"dd if={node} bs=1M status=none | sha256sum", timeout_seconds=300).split()[0]


def expected() -> str:
    """Return the SHA-256 that it is to have."""
    digest, end = hashlib.sha256(), 0
    for begin, data in sorted(PIECES.items()):
        digest.update(bytes(begin - end))
        digest.update(data)
        end = begin + len(data)
    digest.update(bytes(GIB - end))
    return digest.hexdigest()


def zvols(lab: Lab) -> list[str]:
    """Return all zvols of both identities, by whatever name."""
    return lab.san.succeed(f"zfs list -Hro name -t volume data/volumes data/other {MORE} {FAST}").split()


def forget(lab: Lab, parent: str, name: str) -> None:
    """Destroy a zvol as an administrator would, and have the identity's limits counted anew at once."""
    lab.san.succeed(f"zfs destroy {parent}/{name} && rm -rf /run/zolder/index")


@pytest.mark.parametrize("parent", [MORE, FAST], ids=["within the zpool", "to another zpool"])
def test_within_the_san(lab: Lab, driver: ZolderDriver, volume: objects.Volume, parent: DatasetName) -> None:
    """The SAN moves it, whole, and the driver says so."""
    moved = driver.migrate_volume(ADMIN, volume, destination(lab, f"control@zolder#{parent}"))
    assert moved[0] is True
    assert zvols(lab) == [f"{parent}/{volume.name}"]
    assert checksum(lab, parent, volume.name) == expected()


def test_to_another_san(
    lab: Lab,
    driver: ZolderDriver,
    volume: objects.Volume,
    caplog: pytest.LogCaptureFixture,
    note: Callable[[str], None],
) -> None:
    """Its contents are there, nothing is left here, and only data went over the lines."""
    with caplog.at_level(logging.INFO, logger="zolder"):
        moved = driver.migrate_volume(ADMIN, volume, destination(lab, f"control@far#{OTHER_PARENT}"))
    assert moved == (True, {})
    assert zvols(lab) == [f"{OTHER_PARENT}/{volume.name}"]
    assert checksum(lab, OTHER_PARENT, volume.name) == expected()
    mark = lab.san.succeed(f"zfs get -Hpo value,source zolder:volume {OTHER_PARENT}/{volume.name}").split()
    assert mark == [volume.id, "local"]
    [carried] = re.findall(r"100 % .*, (\d+) MiB carried in (\d+) s", caplog.text)
    assert int(carried[0]) == DATA_MIB
    note(f"{DATA_MIB} MiB in {carried[1]} s through the control node")
    forget(lab, OTHER_PARENT, volume.name)


def test_lines_that_are_cut(
    lab: Lab, driver: ZolderDriver, volume: objects.Volume, meddle: dict[str, Callable[[], object]]
) -> None:
    """Both are cut twice in the middle, all of the agent's processes at once, and both go on."""
    meddle |= {at: lambda: lab.san.run("pkill -KILL -u zolder") for at in ("10", "330")}
    moved = driver.migrate_volume(ADMIN, volume, destination(lab, f"control@far#{OTHER_PARENT}"))
    assert (moved, meddle) == ((True, {}), {})
    assert zvols(lab) == [f"{OTHER_PARENT}/{volume.name}"]
    assert checksum(lab, OTHER_PARENT, volume.name) == expected()
    forget(lab, OTHER_PARENT, volume.name)


def test_a_driver_that_is_killed(
    lab: Lab, driver: ZolderDriver, volume: objects.Volume, meddle: dict[str, Callable[[], object]]
) -> None:
    """What ends it in the middle leaves the source as it was, and the next one comes to its end."""

    def end() -> None:
        raise KeyboardInterrupt

    meddle["310"] = end
    place = destination(lab, f"control@far#{OTHER_PARENT}")
    with pytest.raises(KeyboardInterrupt):
        driver.migrate_volume(ADMIN, volume, place)
    assert zvols(lab) == [f"{PARENT}/{volume.name}"]
    assert checksum(lab, PARENT, volume.name) == expected()
    # As if it had been killed, and nothing had been tidied: half a copy, and of another size.
    lab.san.succeed(f"zfs create -s -V 64M {OTHER_PARENT}/copying-{volume.id}")
    lab.san.succeed(f"zfs set zolder:volume={volume.id} {OTHER_PARENT}/copying-{volume.id}")
    assert driver.migrate_volume(ADMIN, volume, place) == (True, {})
    assert zvols(lab) == [f"{OTHER_PARENT}/{volume.name}"]
    assert checksum(lab, OTHER_PARENT, volume.name) == expected()
    assert driver.migrate_volume(ADMIN, volume, place) == (True, {}), "asked once more"
    forget(lab, OTHER_PARENT, volume.name)


def test_somebody_reaches_the_source(
    lab: Lab, driver: ZolderDriver, volume: objects.Volume, meddle: dict[str, Callable[[], object]]
) -> None:
    """An initiator that came meanwhile keeps the volume where it is, and its copy goes."""
    storage, name = driver._san.storage, ZvolName(volume.name)
    meddle["330"] = lambda: storage.export_zvol(
        PARENT, name, INITIATOR, route=ROUTE, attachment=None, chap=None
    )
    with pytest.raises(exception.VolumeIsBusy, match="exported"):
        driver.migrate_volume(ADMIN, volume, destination(lab, f"control@far#{OTHER_PARENT}"))
    assert zvols(lab) == [f"{PARENT}/{volume.name}"]
    with pytest.raises(Busy):
        storage.move_zvol(PARENT, name, to=MORE, name=name, volume_id=volume.id)
    storage.withdraw_zvol(PARENT, name, None, attachment=None)
