"""Whether a real scheduler places volumes in a back end's two pools by what each of them says of itself.

The back end is `lab.cloud.arrangement.CLUSTER`'s: the pool with fewer volumes is the better one, and a volume
of 4 GiB or more wants a pool larger than that. That of FAST is smaller than 1 GiB.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from cinderclient import client

from lab.cloud.agreement import compare, read_sides
from lab.cloud.arrangement import DATA, FAST
from lab.cloud.repair import leave_nothing
from lab.errors import LabError
from lab.machine import Machine
from lab.waiting import wait_until

MADE_SECONDS = 120.0
SMALL = 4
LARGE_GIB = 5
LARGE = 3


def place(cinder: client.Client, san: Machine) -> list[str]:
    """Make volumes and copies in both pools, delete all of them, and return what was seen, a line each.

    :raises LabError: one of them was not where it should be.
    """
    lines = [_figures(cinder)]
    small: Counter[str] = Counter()
    for made in range(SMALL):
        _wait_known(cinder, made)
        small[_pool(_make(cinder, 1))] += 1
    if small != {DATA: SMALL // 2, FAST: SMALL // 2}:
        raise LabError(f"{SMALL} volumes without a type came into {dict(small)}, and not half into each pool")
    lines.append(f"{SMALL} volumes of 1 GiB by goodness_function: {_counts(small)}")
    large = Counter(_pool(_make(cinder, LARGE_GIB)) for _ in range(LARGE))
    if set(large) != {DATA}:
        raise LabError(f"volumes of {LARGE_GIB} GiB came into {dict(large)}, which filter_function forbids")
    lines.append(f"{LARGE} volumes of {LARGE_GIB} GiB by filter_function: {_counts(large)}")
    lines += [_copies(cinder, san, parent) for parent in (DATA, FAST)]
    sides = read_sides(cinder, san, [DATA, FAST])
    if wrong := compare(sides):
        raise LabError("\n".join(["Cinder and the SAN differ:", *wrong]))
    lines.append(sides.line())
    return [*lines, leave_nothing(cinder, san, [DATA, FAST])]


def _copies(cinder: client.Client, san: Machine, parent: str) -> str:
    """Make one by a type that names the pool, its snapshot, its clone, and one from the snapshot."""
    kind = cinder.volume_types.create(f"in {parent}")
    kind.set_keys({"pool_name": parent, "zolder:compression": "lz4"})
    first = _make(cinder, 1, volume_type=kind.id)
    snapshot = cinder.volume_snapshots.create(first.id)
    wait_until(
        lambda: cinder.volume_snapshots.get(snapshot.id).status == "available",
        MADE_SECONDS,
        "a snapshot",
        interval_seconds=0.5,
    )
    those = [first, _make(cinder, 1, source_volid=first.id), _make(cinder, 2, snapshot_id=snapshot.id)]
    pools = Counter(_pool(one) for one in those)
    if set(pools) != {parent}:
        raise LabError(f"a volume of {parent} and its copies are in {dict(pools)}")
    asked = ["zfs", "get", "-H", "-o", "value", "compression"]
    set_to = san.succeed([*asked, *(f"{parent}/volume-{one.id}" for one in those)]).split()
    if set_to != ["lz4"] * len(those):
        raise LabError(f"zolder:compression = lz4 came to {set_to}")
    return f"by a type with pool_name = {parent}: a volume, its clone and one from its snapshot, all there"


def _make(cinder: client.Client, size: int, **how: str) -> Any:  # noqa: ANN401 - Cinder's client has no types
    volume = cinder.volumes.create(size, **how)

    def is_made() -> Any:  # noqa: ANN401 - ditto
        found = cinder.volumes.get(volume.id)
        if found.status.startswith("error"):
            raise LabError(f"a volume of {size} GiB with {how} came to {found.status}")
        return found if found.status == "available" else None

    return wait_until(is_made, MADE_SECONDS, "a volume", interval_seconds=0.5)


def _pool(volume: object) -> str:
    return str(getattr(volume, "os-vol-host-attr:host")).partition("#")[2]


def _wait_known(cinder: client.Client, count: int) -> None:
    """Wait until the scheduler has heard of so many volumes in all."""

    def is_known() -> bool:
        pools = [pool.to_dict()["capabilities"] for pool in cinder.pools.list(detailed=True)]
        return sum(int(pool["total_volumes"]) for pool in pools) == count

    wait_until(is_known, MADE_SECONDS, f"the scheduler to know of {count} volumes", interval_seconds=0.5)


def _counts(pools: Counter[str]) -> str:
    return ", ".join(f"{count} in {pool}" for pool, count in sorted(pools.items()))


def _figures(cinder: client.Client) -> str:
    pools = [pool.to_dict() for pool in cinder.pools.list(detailed=True)]
    said = [
        f"{pool['name'].partition('#')[2]} {pool['capabilities']['free_capacity_gb']} of"
        f" {pool['capabilities']['total_capacity_gb']} GiB free"
        for pool in pools
    ]
    return f"the scheduler knows: {', '.join(sorted(said))}"
