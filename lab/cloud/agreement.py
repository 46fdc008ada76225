"""Whether Cinder's rows and the SAN's zvols agree, each against the other.

It trusts neither the driver nor ``zolder orphans``: the SAN is asked by `zfs list`, Cinder by its API.
`compare` is pure.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cinderclient import client

from lab.machine import Machine

GIB = 2**30
COLUMNS = ("name", "type", "volsize", "defer_destroy", "zolder:volume", "zolder:deleted")
# What Cinder's user has deleted and clones still need (docs/design.md, 9).
BETWEEN = re.compile(r"zolder-deleted-")
# Those of its own the driver names otherwise.
SNAPSHOT = "snapshot-"
# In these a volume has a zvol of its size.
WHOLE = frozenset({"available", "in-use", "reserved", "attaching", "detaching"})


@dataclass(frozen=True)
class Row:
    """A volume as Cinder has it."""

    id: str
    status: str
    size_gib: int
    pool: str


@dataclass(frozen=True)
class SnapshotRow:
    """A snapshot as Cinder has it."""

    id: str
    volume: str
    status: str


@dataclass(frozen=True)
class Held:
    """A zvol as ZFS has it, or a snapshot of one."""

    parent: str
    leaf: str
    size_bytes: int
    mark: str = ""
    deleted: bool = False


@dataclass(frozen=True)
class Sides:
    """Both sides, at a moment when nobody works."""

    volumes: Sequence[Row]
    snapshots: Sequence[SnapshotRow]
    zvols: Sequence[Held]
    held: Sequence[Held]

    def line(self) -> str:
        """Say how much was compared."""
        hidden = sum(not _is_volume(zvol) for zvol in self.zvols)
        return (
            f"compared {len(self.volumes)} volumes and {len(self.snapshots)} snapshots of Cinder with"
            f" {len(self.zvols) - hidden} zvols and {len(self.held)} snapshots of ZFS"
            f" ({hidden} more zvols are kept for their clones)"
        )


def compare(sides: Sides, *, unsettled: Collection[str] = ()) -> list[str]:
    """Return what does not agree, a line each.

    :param unsettled: ids of rows of which it is known that somebody died over them: they may have a zvol or
        none, of any size, but never two.
    """
    by_mark: dict[str, list[Held]] = defaultdict(list)
    for zvol in sides.zvols:
        if _is_volume(zvol):
            by_mark[zvol.mark].append(zvol)
    found = []
    rows = {row.id: row for row in sides.volumes}
    for row in sides.volumes:
        found += _of_row(row, by_mark.get(row.id, []), settled=row.id not in unsettled)
    for mark, zvols in by_mark.items():
        if mark not in rows:
            found += [
                f"{zvol.parent}/{zvol.leaf}: Cinder has no volume {mark or 'of no mark'}" for zvol in zvols
            ]
    return found + _snapshots(sides, rows, unsettled)


def _of_row(row: Row, zvols: list[Held], *, settled: bool) -> list[str]:
    places = ", ".join(f"{zvol.parent}/{zvol.leaf}" for zvol in zvols)
    if len(zvols) > 1:
        return [f"volume {row.id} ({row.status}) is there {len(zvols)} times: {places}"]
    if not settled:
        return []
    if row.status not in WHOLE:
        return [f"volume {row.id} is {row.status}"]
    if not zvols:
        return [f"volume {row.id} ({row.status}) has no zvol"]
    (zvol,) = zvols
    wanted = (row.pool, f"volume-{row.id}", row.size_gib * GIB)
    if (zvol.parent, zvol.leaf, zvol.size_bytes) != wanted:
        return [f"volume {row.id} should be {wanted[0]}/{wanted[1]} of {wanted[2]} bytes, and is {zvol}"]
    return []


def _snapshots(sides: Sides, rows: Mapping[str, Row], unsettled: Collection[str]) -> list[str]:
    wanted = {
        f"volume-{row.volume}@{SNAPSHOT}{row.id}": row
        for row in sides.snapshots
        if {row.id, row.volume}.isdisjoint(unsettled)
    }
    held = [one.leaf for one in sides.held if one.leaf.partition("@")[2].startswith(SNAPSHOT)]
    found = [
        f"snapshot {row.id} of volume {row.volume} is {row.status}"
        for row in wanted.values()
        if row.status != "available"
    ]
    found += [f"snapshot {name} is not in ZFS" for name in wanted if name not in held]
    known = {row.id for row in sides.snapshots}
    for name in held:
        zvol, _, snapshot = name.partition("@")
        if BETWEEN.match(zvol):
            continue
        if snapshot.removeprefix(SNAPSHOT) not in known and zvol.removeprefix("volume-") in rows:
            found.append(f"{name}: Cinder has no such snapshot")
    return found + [f"snapshot {name} is there twice" for name in set(held) if held.count(name) > 1]


def _is_volume(zvol: Held) -> bool:
    return not (zvol.deleted or BETWEEN.match(zvol.leaf))


def read_sides(cinder: client.Client, san: Machine, parents: Sequence[str]) -> Sides:
    """Ask both sides; nobody is to be working meanwhile."""
    everybody = {"all_tenants": 1}
    volumes = [
        Row(one.id, one.status, one.size, getattr(one, "os-vol-host-attr:host", "").partition("#")[2])
        for one in cinder.volumes.list(search_opts=everybody)
    ]
    snapshots = [
        SnapshotRow(one.id, one.volume_id, one.status)
        for one in cinder.volume_snapshots.list(search_opts=everybody)
    ]
    listing = ["zfs", "list", "-H", "-p", "-r", "-t", "volume,snapshot", "-o", ",".join(COLUMNS), *parents]
    zvols, held = parse_listing(san.succeed(listing, timeout_seconds=300).splitlines())
    return Sides(volumes, snapshots, zvols, held)


def parse_listing(lines: Iterable[str]) -> tuple[list[Held], list[Held]]:
    """Return the zvols and the snapshots of what `zfs list -H -p` said of `COLUMNS`."""
    zvols, held = [], []
    for line in lines:
        name, kind, size, deferred, mark, deleted = line.split("\t")
        parent, _, leaf = name.rpartition("/")
        if kind == "volume":
            zvols.append(Held(parent, leaf, int(size), "" if mark == "-" else mark, deleted != "-"))
        elif deferred != "on":  # else Cinder has deleted it, and a clone needs it still
            held.append(Held(parent, leaf, 0))
    return zvols, held
