"""Compares what Cinder has on record with what the SAN says, and finds what is on one side only.

Pure: both sides are given, nothing is asked and nothing changed. What Cinder is working on is left out; so is
what Cinder has at another back end over the same parent. A cause is said once: a zvol that is missing is one
finding, and its missing snapshots are part of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from zolder.cli.accesses import find_accesses
from zolder.cli.finding import Finding, Kind
from zolder.cli.sides import CinderSide, SanSide, VolumeRow
from zolder.model import Zvol
from zolder.names import DatasetName, migrating_id, snapshot_dataset, zvol_dataset

_MANAGING_FAILED: Final = "error_managing"


def compare(parent: DatasetName, cinder: CinderSide, san: SanSide) -> tuple[Finding, ...]:
    """Return every difference, the worst kind first."""
    found = [
        *_zvols(parent, cinder, san),
        *_volumes(parent, cinder, san),
        *_snapshots(parent, cinder, san),
        *find_accesses(parent, cinder, san),
    ]
    order = {kind: place for place, kind in enumerate(Kind)}
    return tuple(sorted(found, key=lambda finding: (order[finding.kind], finding.thing, str(finding.key))))


def _zvols(parent: DatasetName, cinder: CinderSide, san: SanSide) -> Iterator[Finding]:
    snapshots = Counter(zvol for zvol, _ in san.snapshots)
    moving = {row.name_id: row for row in (*cinder.volumes.values(), *cinder.others.values())}
    for name, zvol in san.zvols.items():
        other = cinder.others.get(name)
        if name in cinder.volumes or (other is not None and other.pool in {"", parent}):
            continue
        # The mark of a copy that is not whole is of no volume, and its name has the volume's id.
        halved = migrating_id(name)
        half = moving.get(halved or zvol.volume_id)
        is_half = halved is not None
        if half is not None and (is_half or other is half) and not half.at_rest:
            continue
        dataset = zvol_dataset(parent, name)
        deleted = name in cinder.deleted
        meaning = (
            "Cinder has deleted the volume and its zvol is still there"
            if deleted
            else "Cinder knows no such volume: left over, or another cloud's"
        )
        if is_half and half is not None:
            meaning = (
                f"Cinder has the volume at {half.host}: this is left of its migration to another SAN; where"
                " that has failed, migrate it once more, which settles it"
            )
        elif other is not None:
            meaning = (
                f"Cinder has the volume at {other.host}: this is left of a create or a move that was cut"
            )
        holds = snapshots[name]
        if holds:
            meaning += f"; it has {holds} snapshot{'s' if holds > 1 else ''}"
        yield Finding(
            Kind.ZVOL_ONLY_ON_SAN,
            dataset,
            meaning,
            f"on the SAN: `zfs list -r -t all {dataset}`; once nobody needs its data `zfs destroy {dataset}`"
            f"{' (its snapshots first)' if holds else ''}",
            volume_id=zvol.volume_id,
        )


def _volumes(parent: DatasetName, cinder: CinderSide, san: SanSide) -> Iterator[Finding]:
    for name, volume in cinder.volumes.items():
        if not volume.at_rest:
            continue
        zvol = san.zvols.get(name)
        if zvol is None:
            yield _missing_zvol(parent, volume)
        else:
            yield from _differences(parent, volume, zvol)


def _missing_zvol(parent: DatasetName, volume: VolumeRow) -> Finding:
    if volume.status == "error" and not volume.was_made:
        meaning = "its creation failed, so there is none, as is to be expected"
        advice = f"`openstack volume delete {volume.id}`"
    elif volume.status == _MANAGING_FAILED:
        meaning = "its management was refused, so there is none of its name"
        advice = f"`openstack volume delete {volume.id}`, which deletes no data"
    elif volume.status == "error_deleting":
        meaning = "its deletion failed in Cinder after the zvol had gone"
        advice = f"`openstack volume delete {volume.id}` again"
    else:
        meaning = f"Cinder has it as {volume.status}: its data are lost, or elsewhere"
        advice = (
            f"on the SAN: `zfs list -r -t volume` and `zpool history {parent.zpool}`; do not delete it in"
            " Cinder before you know where it went"
        )
    if volume.pool and volume.pool != parent:
        meaning += f"; Cinder has it in pool {volume.pool}, and san_zfs_volume_base is {parent}"
    return Finding(
        Kind.VOLUME_ONLY_IN_CINDER,
        zvol_dataset(parent, volume.zvol),
        meaning,
        advice,
        volume_id=volume.id,
    )


def _differences(parent: DatasetName, volume: VolumeRow, zvol: Zvol) -> Iterator[Finding]:
    dataset = zvol_dataset(parent, volume.zvol)
    if zvol.volume_id != volume.name_id:
        yield Finding(
            Kind.MARK_DIFFERS,
            dataset,
            f"it is marked as volume {zvol.volume_id}, and by its name it is {volume.name_id}",
            "somebody renamed it, or set the mark by hand: its serial follows the mark; find out whose data"
            " it has before anybody attaches it",
            volume_id=volume.id,
        )
    if volume.status == _MANAGING_FAILED and not volume.size_bytes:
        yield Finding(
            Kind.SIZE_DIFFERS,
            dataset,
            "Cinder took its management for failed, and the zvol is adopted",
            f"`openstack volume delete {volume.id}`, which gives the zvol back and deletes no data",
            volume_id=volume.id,
        )
    elif zvol.volsize_bytes != volume.size_bytes:
        smaller = zvol.volsize_bytes < volume.size_bytes
        yield Finding(
            Kind.SIZE_DIFFERS,
            dataset,
            f"the zvol has {zvol.volsize_bytes} bytes and Cinder's volume {volume.size_bytes}",
            f"on the SAN: `zfs set volsize={volume.size_bytes} {dataset}`"
            if smaller
            else "an extension failed half-way: extend it in Cinder to this size or more; never shrink it",
            volume_id=volume.id,
        )


def _snapshots(parent: DatasetName, cinder: CinderSide, san: SanSide) -> Iterator[Finding]:
    known = {(row.zvol, row.name) for row in cinder.snapshots}
    for zvol, name in san.snapshots - known:
        volume = cinder.volumes.get(zvol)
        if volume is None or not volume.at_rest or zvol not in san.zvols:
            continue
        snapshot = snapshot_dataset(parent, zvol, name)
        yield Finding(
            Kind.SNAPSHOT_ONLY_ON_SAN,
            snapshot,
            "Cinder knows no such snapshot: it takes space, and keeps the volume from being deleted",
            f"once nobody needs it, on the SAN: `zfs destroy {snapshot}`",
            volume_id=volume.id,
        )
    for row in cinder.snapshots:
        volume = cinder.volumes.get(row.zvol)
        if volume is None or not (volume.at_rest and row.at_rest) or row.zvol not in san.zvols:
            continue
        if (row.zvol, row.name) not in san.snapshots:
            yield Finding(
                Kind.SNAPSHOT_ONLY_IN_CINDER,
                snapshot_dataset(parent, row.zvol, row.name),
                "its making failed, so there is none, as is to be expected"
                if row.status == "error"
                else f"Cinder has it as {row.status}: what it kept is lost",
                f"`openstack volume snapshot delete {row.id}`: the SAN takes what is not there for deleted",
                volume_id=volume.id,
                row=row.id,
            )
