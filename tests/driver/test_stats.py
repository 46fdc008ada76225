"""The figures that the scheduler sees: the SAN's own, and none while it cannot be asked."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from cinder.common import constants
from cinder.scheduler.filters.capacity_filter import CapacityFilter
from cinder.scheduler.filters.driver_filter import DriverFilter
from cinder.scheduler.host_manager import HostManager, PoolState
from cinder.scheduler.weights.goodness import GoodnessWeigher

from tests.driver.conftest import PARENT, new_volume
from zolder.cinder.driver import ZolderDriver
from zolder.fake import FakeStorage

GIB = 2**30


def test_the_figures_are_the_sans(make_driver: Callable[..., ZolderDriver], san: FakeStorage) -> None:
    """Thick volumes take space at once, and everything provisioned is counted."""
    driver = make_driver("san_thin_provision = false\nvolume_backend_name = zol\nreserved_percentage = 7")
    driver.create_volume(new_volume(10))
    driver.create_volume(new_volume(5))
    stats = driver.get_volume_stats(refresh=True)
    [pool] = stats.pop("pools")
    assert stats == {
        "volume_backend_name": "zol",
        "vendor_name": "Zolder",
        "driver_version": driver.get_version(),
        "storage_protocol": "iSCSI",
        "backend_state": "up",
        "replication_enabled": False,
        "shared_targets": False,
    }
    assert pool == {
        "pool_name": "data/volumes",
        "backend_state": "up",
        "total_capacity_gb": 100,
        "free_capacity_gb": 85,
        "provisioned_capacity_gb": 15,
        "total_volumes": 2,
        "reserved_percentage": 7,
        "location_info": f"zolder:{san.get_guid(PARENT)}:data/volumes",
        "thin_provisioning_support": False,
        "thick_provisioning_support": True,
        "max_over_subscription_ratio": 20.0,
        "QoS_support": False,
        "multiattach": True,
        "online_extend_support": True,
        "consistent_group_snapshot_enabled": True,
        "filter_function": None,
        "goodness_function": None,
    }


def test_thin_volumes_are_provisioned_only(driver: ZolderDriver) -> None:
    """They take no space until they are written to."""
    driver.create_volume(new_volume(10))
    [pool] = driver.get_volume_stats(refresh=True)["pools"]
    assert (pool["free_capacity_gb"], pool["provisioned_capacity_gb"]) == (100, 10)
    assert (pool["thin_provisioning_support"], pool["thick_provisioning_support"]) == (True, True)


def test_the_pool_of_a_volume_is_the_parent(driver: ZolderDriver) -> None:
    """As in the stats, so that Cinder counts a volume where it is."""
    assert driver.get_pool(new_volume()) == driver.get_volume_stats()["pools"][0]["pool_name"]


def test_a_silent_san_is_down_and_up_again(
    driver: ZolderDriver, san: FakeStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """Cinder's periodic task never fails; no figure is invented; one line says it, one that it is over."""
    caplog.set_level("INFO")
    san.imported = False
    for _ in range(3):
        stats = driver.get_volume_stats(refresh=True)
        assert stats["backend_state"] == "down"
        [pool] = stats["pools"]
        assert (pool["total_capacity_gb"], pool["free_capacity_gb"]) == ("unknown", 0)
        assert pool["provisioned_capacity_gb"] is None
    assert caplog.text.count("is down: zpool data is not imported") == 1
    san.imported = True
    assert driver.get_volume_stats(refresh=True)["backend_state"] == "up"
    assert caplog.text.count("is up again") == 1


def test_the_scheduler_places_nothing_on_a_silent_san(driver: ZolderDriver, san: FakeStorage) -> None:
    """Cinder's own CapacityFilter takes the back end while it is up and refuses it while it is down."""

    def passes() -> bool:
        [pool] = driver.get_volume_stats(refresh=True)["pools"]
        state = SimpleNamespace(backend_id="control@zolder#data/volumes", cluster_name=None, **pool)
        passed: bool = CapacityFilter().backend_passes(state, {"size": 1})
        return passed

    assert passes()
    san.imported = False
    assert not passes()
    san.imported = True
    assert passes()


def test_the_scheduler_understands_every_report(driver: ZolderDriver, san: FakeStorage) -> None:
    """Cinder's own HostManager compares a report with the one before, whichever way the SAN goes."""
    scheduler = HostManager.__new__(HostManager)  # its constructor wants a database
    before: dict[str, object] = {}
    changed = []
    for imported in (True, False, False, True):
        san.imported = imported
        stats = driver.get_volume_stats(refresh=True)
        for pool in stats["pools"]:
            pool["allocated_capacity_gb"] = 0  # as the volume manager adds
        changed.append(bool(scheduler._get_updated_pools(before, stats)))
        before = stats
    assert changed == [True, True, False, True]


@pytest.mark.parametrize(
    ("lines", "protocol"), [("target_helper = tgtadm", "iSCSI"), ("target_protocol = nvmet_tcp", "NVMe-TCP")]
)
def test_the_protocol_is_that_of_the_exporter(
    make_driver: Callable[..., ZolderDriver], lines: str, protocol: str
) -> None:
    """In one of Cinder's own words, so that a volume type that asks for any of its spellings finds it."""
    assert protocol in {constants.ISCSI, constants.NVMEOF_TCP}
    assert make_driver(lines).get_volume_stats(refresh=True)["storage_protocol"] == protocol


def test_capabilities_are_there_at_start_even_without_the_san(driver: ZolderDriver, san: FakeStorage) -> None:
    """The manager asks for them right after set-up."""
    san.imported = False
    driver.init_capabilities()
    assert driver.capabilities["storage_protocol"] == "iSCSI"


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize(("function", "passes"), [("1 < 2", True), ("2 < 1", False)])
def test_the_functions_of_the_configuration_count(
    make_driver: Callable[..., ZolderDriver], san: FakeStorage, function: str, *, passes: bool, silent: bool
) -> None:
    """Cinder's driver filter and goodness weigher read what cinder.conf says of this back end.

    Without variables: those Cinder 29 cannot read with the pyparsing that is installed here (3.3.3).
    """
    driver = make_driver(f"filter_function = {function}\ngoodness_function = 3 * 20")
    san.imported = not silent
    [pool] = driver.get_volume_stats(refresh=True)["pools"]
    state = PoolState("control@zolder", None, pool, pool_name="data/volumes")
    state.update_from_volume_capability(pool | {"timestamp": None})
    assert DriverFilter().backend_passes(state, {}) is passes
    assert GoodnessWeigher()._weigh_object(state, {}) == 60
