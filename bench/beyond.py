"""What the draft of 2012 never did, by the driver alone: it finds no other way to be compared with.

Each verb as Cinder's manager calls it; what makes the ground for it is not measured.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Final, TypeAlias
from unittest.mock import patch

from cinder.volume import volume_utils

from bench.driver import DriverWay, snapshot_of, volume_of
from bench.ways import PARENT, Step
from lab import Lab
from tests.contract.ground import LET_ADOPT

MEMBERS: Final = 5
# Every verb, in the order in which `beyond` does them.
BEYOND: Final = (
    "retype in place",
    "revert in place",
    "revert by a clone",
    "delete, put aside",
    "delete the last clone",
    "snapshot a group of 5",
    "copy a group of 5",
    "list what to manage",
    "manage",
    "unmanage",
)


def beyond(lab: Lab, way: DriverWay, number: int) -> Iterator[tuple[str, Step]]:
    """Do each verb once, and yield what it cost; the zpool is as before at the end.

    :param number: names what is made, so that it is no round's before.
    """
    # It asks Cinder's database, which there is none of here.
    with patch.object(volume_utils, "is_group_a_cg_snapshot_type", lambda _: True):
        for verb, act in itertools.chain(
            _of_one(way.driver, f"bench-one-{number}"),
            _of_groups(way.driver, f"bench-group-{number}"),
            _of_others(lab, way.driver, f"bench-found-{number}"),
        ):
            way.settle()
            yield verb, way.watch(act)


# Each yields a verb and what does it, and goes on when that was done.
_Verbs: TypeAlias = Iterator[tuple[str, Callable[[], object]]]


def _of_one(driver: Any, name: str) -> _Verbs:  # noqa: ANN401 - Cinder's drivers have no types
    """Do what is done to one volume."""
    volume, typed = volume_of(name), SimpleNamespace(extra_specs={"zolder:compression": "zstd"})
    driver.create_volume(volume)
    yield "retype in place", lambda: driver.retype(None, volume, typed, {}, {"host": volume.host})
    first, second, third = (snapshot_of(volume, which) for which in ("s1", "s2", "s3"))
    driver.create_snapshot(first)
    yield "revert in place", lambda: driver.revert_to_snapshot(None, volume, first)
    clone = _cloned(driver, volume, second)
    yield "revert by a clone", lambda: driver.revert_to_snapshot(None, volume, first)
    driver.delete_volume(clone)
    clone = _cloned(driver, volume, third)
    driver.delete_snapshot(first)
    yield "delete, put aside", lambda: driver.delete_volume(volume)
    yield "delete the last clone", lambda: driver.delete_volume(clone)


def _cloned(driver: Any, volume: Any, snapshot: Any) -> Any:  # noqa: ANN401 - as above
    """Return a clone of a snapshot that was deleted since."""
    clone = volume_of(f"{volume.name}-{snapshot.name}")
    driver.create_snapshot(snapshot)
    driver.create_volume_from_snapshot(clone, snapshot)
    driver.delete_snapshot(snapshot)
    return clone


def _of_groups(driver: Any, name: str) -> _Verbs:  # noqa: ANN401 - as above
    """Do what is done to a consistent group."""
    group, copy = (SimpleNamespace(id=str(uuid.uuid4()), group_type_id="") for _ in range(2))
    volumes, copies = (
        [volume_of(f"{name}-{kind}-{member}") for member in range(MEMBERS)] for kind in ("member", "copy")
    )
    for volume in volumes:
        driver.create_volume(volume)
    snapshots = [snapshot_of(volume) for volume in volumes]
    yield "snapshot a group of 5", lambda: driver.create_group_snapshot(None, group, snapshots)
    driver.delete_group_snapshot(None, group, snapshots)
    yield (
        "copy a group of 5",
        lambda: driver.create_group_from_src(None, copy, copies, source_group=group, source_vols=volumes),
    )
    driver.delete_group(None, copy, copies)
    driver.delete_group(None, group, volumes)


def _of_others(lab: Lab, driver: Any, name: str) -> _Verbs:  # noqa: ANN401 - as above
    """Do what is done to a zvol that others made, among five of them."""
    leaves = [f"{name}-{number}" for number in range(MEMBERS)]
    lab.san.succeed(f"grep -q ^adopt_from /etc/zolder/san.toml || {LET_ADOPT}")
    for leaf in leaves:
        lab.san.succeed(f"zfs create -s -V 1G {PARENT}/{leaf} && udevadm settle")
    yield "list what to manage", lambda: driver.get_manageable_volumes([], None, 1000, 0, ["size"], ["asc"])
    volume = volume_of(f"{name}-managed")
    yield "manage", lambda: driver.manage_existing(volume, {"source-name": leaves[0]})
    yield "unmanage", lambda: driver.unmanage(volume)
    for leaf in (volume.name, *leaves[1:]):
        lab.san.succeed(f"udevadm settle; zfs destroy {PARENT}/{leaf}")
