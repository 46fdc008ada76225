"""Several parents behind one back end: each is a Cinder pool, and nothing is asked of the wrong one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cinder import exception

from tests.driver.conftest import connector_of, new_snapshot, new_volume
from zolder.cinder.driver import ZolderDriver
from zolder.errors import PoolUnavailable
from zolder.fake import FakeStorage
from zolder.model import PoolFigures
from zolder.names import DatasetName

SLOW, FAST = DatasetName("data/volumes"), DatasetName("fast/volumes")
LINES = f"san_zfs_volume_base = {SLOW}, {FAST}/"
ONE = connector_of("one")
GIB = 2**30


class TwoZpools(FakeStorage):
    """A SAN with two zpools, of which one can be away."""

    def __init__(self) -> None:
        """Have both."""
        super().__init__((SLOW, FAST), capacity_bytes=100 * GIB)
        self.away: set[DatasetName] = set()

    def get_figures(self, parent: DatasetName) -> PoolFigures:
        """Be a zpool that is away, or not."""
        if parent in self.away:
            message = f"zpool {parent.zpool} is not imported on this SAN"
            raise PoolUnavailable(message)
        return super().get_figures(parent)


@pytest.fixture
def san() -> TwoZpools:
    """Two zpools."""
    return TwoZpools()


@pytest.fixture
def driver(make_driver: Callable[..., ZolderDriver]) -> ZolderDriver:
    """A driver with both parents."""
    return make_driver(LINES)


def host(parent: DatasetName) -> str:
    """Return where Cinder has a volume of a pool."""
    return f"control@zolder#{parent}"


def test_each_parent_is_a_pool(driver: ZolderDriver, san: TwoZpools) -> None:
    """The scheduler sees each with its own figures and place."""
    driver.create_volume(new_volume(3, host=host(FAST)))
    slow, fast = driver.get_volume_stats(refresh=True)["pools"]
    assert [slow["pool_name"], fast["pool_name"]] == [SLOW, FAST]
    assert (slow["total_volumes"], fast["total_volumes"]) == (0, 1)
    assert fast["provisioned_capacity_gb"] == 3
    assert fast["location_info"] == f"zolder:{san.get_guid(FAST)}:fast/volumes"
    assert [zvol.parent for zvol in san.list_zvols(FAST)] == [FAST]


def test_one_is_down_and_the_other_is_not(
    driver: ZolderDriver, san: TwoZpools, caplog: pytest.LogCaptureFixture
) -> None:
    """A zpool that is away takes no volumes and is named; the back end stays up with the other."""
    san.away.add(FAST)
    for _ in range(2):
        stats = driver.get_volume_stats(refresh=True)
    assert (stats["backend_state"], [pool["backend_state"] for pool in stats["pools"]]) == (
        "up",
        ["up", "down"],
    )
    assert caplog.text.count("Back end zolder#fast/volumes is down: zpool fast") == 1
    san.away.add(SLOW)
    assert driver.get_volume_stats(refresh=True)["backend_state"] == "down"


def test_every_verb_goes_to_the_volumes_pool(driver: ZolderDriver, san: TwoZpools) -> None:
    """Nothing of a volume in one pool is looked for in the other."""
    volume, copy, restored = (new_volume(1, host=host(FAST)) for _ in range(3))
    driver.create_volume(volume)
    snapshot = new_snapshot(volume)
    driver.create_snapshot(snapshot)
    driver.create_volume_from_snapshot(restored, snapshot)
    driver.create_cloned_volume(copy, volume)
    driver.extend_volume(copy, 2)
    driver.initialize_connection(volume, dict(ONE))
    assert [access.zvol for access in san.list_attachments(FAST)] == [f"volume-{volume.id}"]
    driver.terminate_connection(volume, dict(ONE))
    driver.revert_to_snapshot(None, volume, snapshot)
    driver.initialize_connection_snapshot(snapshot, dict(ONE))
    driver.terminate_connection_snapshot(snapshot, dict(ONE))
    driver.delete_snapshot(snapshot)
    for each in (volume, restored, copy):
        driver.delete_volume(each)
    assert (san.list_zvols(FAST), san.list_put_aside(FAST), san.list_zvols(SLOW)) == ((), (), ())


def test_attachments_come_back_in_both(driver: ZolderDriver, san: TwoZpools) -> None:
    """At the start of cinder-volume each pool's attachments are opened in its own parent."""
    volumes = [new_volume(1, ONE, host=host(parent)) for parent in (SLOW, FAST)]
    for volume in volumes:
        driver.create_volume(volume)
    driver.update_provider_info(volumes, [])
    for volume, parent in zip(volumes, (SLOW, FAST), strict=True):
        assert [access.zvol for access in san.list_attachments(parent)] == [f"volume-{volume.id}"]


def test_a_clone_stays_in_its_pool(driver: ZolderDriver, san: TwoZpools) -> None:
    """A clone that Cinder placed in another pool is refused, and says what to do."""
    source = new_volume(1, host=host(SLOW))
    driver.create_volume(source)
    with pytest.raises(exception.VolumeBackendAPIException, match="a clone stays in its source's pool"):
        driver.create_cloned_volume(new_volume(1, host=host(FAST)), source)
    assert san.list_zvols(FAST) == ()


@pytest.mark.parametrize("where", ["control@zolder#gone/volumes", "control@zolder"])
def test_a_pool_that_is_none_of_these(driver: ZolderDriver, where: str) -> None:
    """A volume whose pool was taken out of the configuration is not taken for deleted."""
    with pytest.raises(exception.VolumeBackendAPIException, match="put its parent back into it"):
        driver.delete_volume(new_volume(1, host=where))


def test_a_volume_that_is_older_than_its_pool(driver: ZolderDriver) -> None:
    """Cinder asks for the pool of a volume without one: the parent that has its zvol."""
    for parent in (FAST, SLOW):
        volume = new_volume(1, host=host(parent))
        driver.create_volume(volume)
        volume.host = "control@zolder"
        assert driver.get_pool(volume) == parent


@pytest.mark.parametrize("written", ["data/volumes, data/volumes/", "data/volumes,", "data/volumes; x"])
def test_parents_that_will_not_do(make_driver: Callable[..., ZolderDriver], written: str) -> None:
    """A list with a parent twice, or with what is no dataset, is refused with its text."""
    with pytest.raises(exception.InvalidConfigurationValue, match="san_zfs_volume_base"):
        make_driver(f"san_zfs_volume_base = {written}")


def test_each_parent_is_looked_at_first(make_driver: Callable[..., ZolderDriver]) -> None:
    """One that is not this identity's keeps the back end from starting, and is named."""
    with pytest.raises(exception.InvalidConfigurationValue, match="third/volumes will not do"):
        make_driver(f"{LINES}, third/volumes")
