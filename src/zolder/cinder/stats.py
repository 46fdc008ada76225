"""The figures that Cinder's scheduler places volumes by: the SAN's own, or none while it cannot be asked.

The keys are those of cinder/interface/volume_driver.py, get_volume_stats. Pure, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cinder.common import constants

from zolder import __version__
from zolder.cinder.destination import Location
from zolder.cinder.settings import Settings
from zolder.cinder.translate import GIB
from zolder.model import PoolFigures
from zolder.names import NVMET, DatasetName


def describe_stats(
    settings: Settings, known: Mapping[DatasetName, PoolFigures | None], guids: Mapping[DatasetName, str]
) -> dict[str, Any]:
    """Return the stats of a back end: a pool for each parent, with figures or, where they are None, down.

    :param guids: those of the parents, as far as they are known.
    """
    pools = [_pool_down() if figures is None else _pool_up(settings, figures) for figures in known.values()]
    up = any(figures is not None for figures in known.values())
    for parent, pool in zip(known, pools, strict=True):
        # By which the driver of another back end knows which SAN this is, if it is one.
        pool["location_info"] = str(Location(guids[parent], parent)) if parent in guids else "unknown"
    return _stats(settings, dict(zip(known, pools, strict=True)), up=up)


def _pool_up(settings: Settings, figures: PoolFigures) -> dict[str, Any]:
    return {
        "backend_state": "up",
        "total_capacity_gb": _gib(figures.available_bytes + figures.used_bytes),
        "free_capacity_gb": _gib(figures.available_bytes),
        "provisioned_capacity_gb": _gib(figures.provisioned_bytes),
        "total_volumes": figures.zvol_count,
        "reserved_percentage": settings.reserved_percentage,
    }


def _pool_down() -> dict[str, Any]:
    """Return the figures of a pool of which the SAN says nothing.

    An unknown total that is wholly reserved is what CapacityFilter refuses; ``unknown`` free space it would
    take for enough (cinder/scheduler/filters/capacity_filter.py). Every key has to be there: the scheduler
    compares report with report (host_manager.py, REQUIRED_KEYS).
    """
    return {
        "backend_state": "down",
        "total_capacity_gb": "unknown",
        "free_capacity_gb": 0,
        "provisioned_capacity_gb": None,
        "reserved_percentage": 100,
    }


def _stats(settings: Settings, pools: Mapping[DatasetName, dict[str, Any]], *, up: bool) -> dict[str, Any]:
    common = {
        "thin_provisioning_support": settings.sparse,
        # A type may ask for either anywhere. But where the operator reserves by default, thin is not claimed:
        # the scheduler would over-subscribe volumes whose type says nothing (CapacityFilter).
        "thick_provisioning_support": True,
        "max_over_subscription_ratio": settings.max_over_subscription_ratio,
        # That of a back end; what the front end consumes goes through Cinder's manager to Nova.
        "QoS_support": False,
        # Each initiator of a volume is opened and closed by itself, and the SAN's record says who is left.
        "multiattach": True,
        "online_extend_support": True,
        # A group's volumes are snapshotted at one moment (zolder.cinder.groups).
        "consistent_group_snapshot_enabled": True,
    }
    nvme = settings.route.exporter == NVMET
    return {
        "volume_backend_name": settings.backend_name,
        "vendor_name": "Zolder",
        "driver_version": __version__,
        "storage_protocol": constants.NVMEOF_TCP if nvme else constants.ISCSI,
        "backend_state": "up" if up else "down",
        "replication_enabled": False,
        # A target a volume: whoever scans one sees no other volume.
        "shared_targets": False,
        "pools": [{"pool_name": str(parent), **common, **pool} for parent, pool in pools.items()],
    }


def _gib(size_bytes: int) -> float:
    # Rounded down: the scheduler must not be promised what is not there.
    return size_bytes * 100 // GIB / 100
