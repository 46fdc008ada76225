"""Compares who may reach a zvol, on record and as it stands, with who has it attached in Cinder.

Pure, as zolder.cli.orphans, of which it is a part. An attachment on record that nobody has in Cinder is the
difference that matters most: somebody reads and writes what is not theirs, or could.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from zolder.cli.finding import Finding, Kind
from zolder.cli.sides import CinderSide, SanSide, VolumeRow
from zolder.model import Access
from zolder.names import DatasetName, InitiatorName, ZvolName, view_name, viewed_id, zvol_dataset

_REPAIR: Final = "`zolder orphans --repair` closes it"
_ASK_AGAIN: Final = "Cinder may be attaching it at this moment: look again later"


def find_accesses(parent: DatasetName, cinder: CinderSide, san: SanSide) -> Iterator[Finding]:
    """Return every difference in who may reach what."""
    yield from _records(parent, cinder, san)
    yield from _views(parent, cinder, san)
    yield from _missing_records(parent, cinder, san)
    yield from _exports(parent, san)


def is_explained(volume: VolumeRow, access: Access) -> bool:
    """Say whether a volume's rows have room for an attachment that the SAN has on record.

    While Cinder works on a volume it attaches it for itself and has no row for that. So it does with the
    temporary volume of a revert, or of a reimage from a snapshot, which it calls in-use all the while
    (VolumeManager._revert_to_snapshot_generic). The old attach call (os-initialize_connection) leaves a row
    without a connector, which may be anybody's.
    """
    if not volume.at_rest:
        return True
    if access.attachment is None and volume.status == "in-use" and not volume.attachments:
        return True
    return any(
        row.is_of(access) or (not row.has_connector and row.status != "reserved")
        for row in volume.attachments
    )


def is_being_attached(volume: VolumeRow) -> bool:
    """Say whether an attachment is reserved: its row is given the connector once the SAN has opened it."""
    return any(not row.has_connector for row in volume.attachments)


def _records(parent: DatasetName, cinder: CinderSide, san: SanSide) -> Iterator[Finding]:
    for access in san.attachments:
        if viewed_id(access.zvol) or access.zvol in cinder.others:
            continue
        volume = cinder.volumes.get(access.zvol)
        waiting = volume is not None and is_being_attached(volume)
        if volume is not None:
            if is_explained(volume, access):
                continue
            whose, known = f"Cinder has no such attachment of volume {volume.id}", volume
        elif access.zvol in cinder.deleted:
            known = cinder.deleted[access.zvol]
            whose = f"Cinder has deleted volume {known.id}"
        else:
            whose, known = "Cinder knows no such volume", None
        yield Finding(
            Kind.ATTACHMENT_ONLY_ON_SAN,
            zvol_dataset(parent, access.zvol),
            f"open to {_described(access)}: {whose}",
            _advice(known=known is not None, waiting=waiting),
            repairable=known is not None and not waiting,
            volume_id=known.id if known else None,
            access=access,
        )


def _described(access: Access) -> str:
    return f"{access.initiator} ({access.attachment or 'without an id, as Cinder attaches for itself'})"


def _advice(*, known: bool, waiting: bool) -> str:
    if waiting:
        return _ASK_AGAIN
    if known:
        return f"unless somebody works with it, {_REPAIR}"
    return "it may be another cloud's: see who the initiator is; withdrawing it is for whoever made it"


def _views(parent: DatasetName, cinder: CinderSide, san: SanSide) -> Iterator[Finding]:
    snapshots = {row.id: row for row in cinder.snapshots}
    for view_id, readers in san.viewed.items():
        row, deleted = snapshots.get(view_id), cinder.deleted_snapshots.get(view_id)
        known = row or deleted
        volume = known and (cinder.volumes.get(known.zvol) or cinder.others.get(known.zvol))
        # An in-use volume is backed up through a snapshot of its own, which is available all the while.
        busy = (row is not None and not row.at_rest) or (volume is not None and not volume.at_rest)
        if busy or view_id in cinder.others_snapshots:
            continue
        if row:
            why = "nothing is backing it up"
        else:
            why = "Cinder has deleted it" if deleted else "Cinder has no such snapshot"
        yield Finding(
            Kind.VIEW_LEFT,
            zvol_dataset(parent, view_name(view_id)),
            f"snapshot {view_id} is open to {', '.join(readers) or 'nobody'}, and {why}",
            f"a backup that died left it: {_REPAIR}"
            if known
            else "another cloud's, perhaps: see who reads it",
            repairable=known is not None,
            volume_id=volume.id if volume else None,
            row=view_id,
        )


def _missing_records(parent: DatasetName, cinder: CinderSide, san: SanSide) -> Iterator[Finding]:
    on_record = {(access.zvol, access.initiator, access.attachment) for access in san.attachments}
    for name, volume in cinder.volumes.items():
        if not volume.at_rest or name not in san.zvols:
            continue
        for row in volume.attachments:
            if row.status != "attached" or not row.initiators:
                continue
            if any((name, initiator, row.attachment) in on_record for initiator in row.initiators):
                continue
            yield Finding(
                Kind.ATTACHMENT_ONLY_IN_CINDER,
                zvol_dataset(parent, name),
                f"{row.initiators[0]} has it attached by attachment {row.id}"
                f"{f' for instance {row.instance}' if row.instance else ''}, and the SAN does not let it in",
                "`zolder orphans --repair` opens it, as cinder-volume does when it starts",
                repairable=True,
                volume_id=volume.id,
                row=row.id,
            )


def _exports(parent: DatasetName, san: SanSide) -> Iterator[Finding]:
    wanted = {(access.zvol, access.initiator) for access in san.attachments}
    recorded = {access.zvol for access in san.attachments}
    standing: set[tuple[ZvolName, InitiatorName]] = set()
    for export in san.exports:
        standing |= {(export.zvol, initiator) for initiator in export.initiators}
        beyond = sorted(
            initiator for initiator in export.initiators if (export.zvol, initiator) not in wanted
        )
        if beyond or not (export.initiators or export.zvol in recorded):
            yield Finding(
                Kind.EXPORT_ONLY,
                zvol_dataset(parent, export.zvol),
                f"{export.target} stands for {', '.join(beyond) or 'nobody'}, and no record wants it",
                "on the SAN: `zolder-san restore` takes it away",
                row=export.target,
            )
    waits = (
        f"; {san.secrets_missing} exports wait for their secrets: cinder-volume sends those of attachments"
        " that Cinder has on record; of any other nobody has one: end it"
    )
    for zvol, initiator in sorted(wanted - standing):
        yield Finding(
            Kind.RECORD_ONLY,
            zvol_dataset(parent, zvol),
            f"{initiator} is on record and cannot reach it{waits if san.secrets_missing else ''}",
            "on the SAN: `zolder-san restore`, and `zolder-san check` if that does not help",
            row=initiator,
        )
