"""Reads what Cinder has of volumes, snapshots and attachments, from its database. It writes nothing.

It asks cinder.db.api and not cinder.objects: loading an attachment as an object asks once more for each, and
rewrites old rows on the way (VolumeAttachment._from_db_object). In pages, each a query of its own, so what it
returns is not of one moment: zolder.cli.looking looks twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from cinder import context, exception, objects
from cinder.db import api as database

from zolder.cinder.attachments import KEY
from zolder.cinder.chap import chap_for
from zolder.cinder.connection import chap_of, told_of
from zolder.cinder.translate import initiator_of, size_bytes
from zolder.cli.backends import BackEnd, Ground
from zolder.cli.sides import AttachmentRow, CinderSide, SanSide, SnapshotRow, VolumeRow
from zolder.errors import InvalidRequest
from zolder.model import Access
from zolder.names import AttachmentId, InitiatorName, SnapshotName, ZvolName

PAGE: Final = 500
# What a connector calls the machine's name, for iSCSI and for NVMe over Fabrics.
_INITIATOR: Final = "initiator"
_NQN: Final = "nqn"


@dataclass(frozen=True, slots=True)
class CinderReader:
    """Cinder's database, as far as it is about the back ends of one parent."""

    ground: Ground
    page: int = PAGE

    def read(self, san: SanSide) -> CinderSide:
        """Return what Cinder has, and whose are those zvols on the SAN that it does not have here."""
        rows: dict[str, Any] = {}
        for back_end in self.ground.back_ends:
            for filters in _filters(back_end):
                found = self._pages(database.volume_get_all, filters)
                rows |= {row.id: row for row in found if back_end.has_pool(row.host or "")}
        volumes = _by_zvol(_volume_row(row) for row in rows.values())
        names = {row.id: ZvolName(row.name) for row in rows.values()}
        snapshots = {
            row.id: _snapshot_row(row, names[row.volume_id])
            for back_end in self.ground.back_ends
            for filters in _filters(back_end)
            for row in self._pages(database.snapshot_get_all, filters)
            if row.volume_id in names
        }
        side = CinderSide(volumes, tuple(snapshots.values()))
        return self._look_up(side, san)

    def find_volume(self, identifier: str, *, deleted: str = "no") -> VolumeRow | None:
        """Return one volume as it is now; None for one that is deleted or was never there.

        :param deleted: ``yes`` returns a deleted one as well.
        """
        found = database.volume_get_all(_context(deleted=deleted), filters={"id": [identifier]})
        return _volume_row(found[0]) if found else None

    def find_snapshot(self, identifier: str, *, deleted: str = "no") -> SnapshotRow | None:
        """Return one snapshot as it is now; None for one that is deleted or was never there.

        :param deleted: as with `find_volume`; its volume may be deleted, too.
        """
        try:
            row = database.snapshot_get(_context(deleted=deleted), identifier)
        except exception.SnapshotNotFound:
            return None
        volume = self.find_volume(row.volume_id, deleted=deleted)
        return None if volume is None else _snapshot_row(row, volume.zvol)

    def opening(self, volume_id: str, attachment_id: str) -> tuple[BackEnd, Access] | None:
        """Return how an attached initiator was told to reach its volume, its secret included.

        None where the row is gone, is not attached any more, or belongs to none of these back ends.

        :raises InvalidRequest: it was told of something that its back end does not offer any more.
        """
        for row in database.volume_get_all(_context(), filters={"id": [volume_id]}):
            back_end = next((one for one in self.ground.back_ends if one.has(row.host or "")), None)
            for attached in row.volume_attachment:
                if attached.id == attachment_id and attached.attach_status == "attached" and back_end:
                    return back_end, _access(row, attached, back_end)
        return None

    def _pages(self, ask: Callable[..., list[Any]], filters: dict[str, str]) -> Iterator[Any]:
        # By offset: a marker that is deleted between two pages would be an error.
        offset = 0
        while True:
            page = ask(
                _context(),
                filters=filters,
                limit=self.page,
                offset=offset,
                sort_keys=["id"],
                sort_dirs=["asc"],
            )
            yield from page
            if len(page) < self.page:
                return
            offset += len(page)

    def _look_up(self, side: CinderSide, san: SanSide) -> CinderSide:
        """Add the volumes that Cinder has elsewhere, or has deleted, of the zvols that are none of these."""
        strange = sorted({zvol.volume_id for name, zvol in san.zvols.items() if name not in side.volumes})
        others: dict[ZvolName, VolumeRow] = {}
        deleted: dict[ZvolName, VolumeRow] = {}
        for start in range(0, len(strange), self.page):
            part = strange[start : start + self.page]
            for column in ("id", "_name_id"):
                # Soft-deleted rows stay until `cinder-manage db purge`.
                for row in database.volume_get_all(_context(deleted="yes"), filters={column: part}):
                    known = _volume_row(row)
                    (deleted if row.deleted else others)[known.zvol] = known
        viewed = san.viewed.keys() - {row.id for row in side.snapshots}
        theirs = frozenset(identifier for identifier in viewed if self.find_snapshot(identifier) is not None)
        gone = {name: self.find_snapshot(name, deleted="yes") for name in viewed - theirs}
        # A volume that came to this back end after its page was read is nobody else's.
        arrived = {name: row for name, row in others.items() if self._is_here(row)}
        return replace(
            side,
            volumes={**side.volumes, **arrived},
            others={name: row for name, row in others.items() if name not in arrived},
            deleted={name: row for name, row in deleted.items() if name not in others},
            others_snapshots=theirs,
            deleted_snapshots={name: row for name, row in gone.items() if row is not None},
        )

    def _is_here(self, volume: VolumeRow) -> bool:
        host = volume.host.partition("#")[0]
        return any(
            host == back_end.host and back_end.has_pool(volume.host) for back_end in self.ground.back_ends
        )


def prepare() -> None:
    """Make Cinder's objects known, without which its database module cannot be asked."""
    objects.register_all()


def _context(*, deleted: str = "no") -> Any:  # noqa: ANN401 - Cinder has no types
    return context.get_admin_context(read_deleted=deleted)


def _filters(back_end: BackEnd) -> list[dict[str, str]]:
    # A volume that came before its cluster is known by its host alone.
    clustered = [{"cluster_name": back_end.cluster}] if back_end.cluster else []
    return [{"host": back_end.host}, *clustered]


def _by_zvol(volumes: Iterable[VolumeRow]) -> dict[ZvolName, VolumeRow]:
    """Return volumes by their zvols; of two that share one, as a migration ends, the one that moves."""
    found: dict[ZvolName, VolumeRow] = {}
    for volume in volumes:
        before = found.get(volume.zvol)
        if before is None or before.at_rest:
            found[volume.zvol] = volume
    return found


def _volume_row(row: Any) -> VolumeRow:  # noqa: ANN401 - Cinder has no types
    return VolumeRow(
        id=row.id,
        name_id=row.name_id,
        zvol=ZvolName(row.name),
        size_bytes=size_bytes(row.size or 0),
        status=row.status or "",
        migration_status=row.migration_status,
        host=row.host or "",
        was_made=row.launched_at is not None,
        attachments=tuple(_attachment_row(attached) for attached in row.volume_attachment),
    )


def _attachment_row(row: Any) -> AttachmentRow:  # noqa: ANN401 - as above
    connector = _read_json(row.connector)
    return AttachmentRow(
        id=row.id,
        status=row.attach_status or "",
        has_connector=bool(connector),
        initiators=_initiators(connector, (_INITIATOR, _NQN)),
        attachment=_attachment_id(connector),
        instance=row.instance_uuid,
    )


def _snapshot_row(row: Any, zvol: ZvolName) -> SnapshotRow:  # noqa: ANN401 - as above
    return SnapshotRow(row.id, zvol, SnapshotName(row.name), row.status or "")


def _access(row: Any, attached: Any, back_end: BackEnd) -> Access:  # noqa: ANN401 - as above
    connector, told = _read_json(attached.connector), _read_json(attached.connection_info)
    route = back_end.settings.route
    if not told_of(told, route):
        message = f"attachment {attached.id} was told of another protocol than {back_end.section} has now"
        raise InvalidRequest(message)
    try:
        initiator = initiator_of(connector, route.exporter)
    except exception.InvalidConnectorException as err:
        message = f"attachment {attached.id}: {err.msg}"
        raise InvalidRequest(message) from err
    # The old attach call leaves no connection on record.
    zvol = ZvolName(row.name)
    chap = chap_of(told) if told else chap_for(row.provider_auth, route, zvol, initiator)
    return Access(zvol, initiator, _attachment_id(connector), chap)


def _initiators(connector: dict[str, Any], keys: Sequence[str]) -> tuple[InitiatorName, ...]:
    found = []
    for key in keys:
        name = connector.get(key)
        try:
            # iSCSI's names are folded (RFC 3722), NVMe's are compared letter by letter.
            found += [InitiatorName(str(name).lower() if key == _INITIATOR else str(name))] if name else []
        except InvalidRequest:
            continue  # no name that the driver would have opened a volume to
    return tuple(found)


def _attachment_id(connector: dict[str, Any]) -> AttachmentId | None:
    try:
        return AttachmentId(str(connector[KEY])) if connector.get(KEY) else None
    except InvalidRequest:
        return None  # nor would the driver have taken it


def _read_json(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else None
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
