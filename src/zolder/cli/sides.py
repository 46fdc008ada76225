"""The two sides that are compared: what Cinder has on record, and what the SAN says.

Plain values, so that the comparison needs neither. No secrets: what an initiator logs in with is read when
something is repaired, and not before. Cinder's words are those of its database (cinder/db/models.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from zolder.model import Access, Export, Zvol
from zolder.names import AttachmentId, InitiatorName, SnapshotName, VolumeId, ZvolName, viewed_id

# In every other status Cinder is working on the object, or attaches it for itself (cinder/objects/fields.py).
_VOLUME_AT_REST: Final = frozenset({
    "available", "in-use", "reserved", "awaiting-transfer", "error", "error_deleting", "error_extending",
    "error_restoring", "error_backing-up", "error_managing",
})  # fmt: skip
_SNAPSHOT_AT_REST: Final = frozenset({"available", "error", "error_deleting"})
_MIGRATION_AT_REST: Final = frozenset({None, "", "none", "success", "error"})


@dataclass(frozen=True, slots=True)
class AttachmentRow:
    """One of Cinder's attachments. ``initiators`` are its machine's names: iSCSI's, NVMe's or both."""

    id: str
    status: str
    has_connector: bool
    initiators: tuple[InitiatorName, ...] = ()
    attachment: AttachmentId | None = None
    instance: str | None = None

    def is_of(self, access: Access) -> bool:
        """Say whether the SAN's record is of this attachment."""
        return access.initiator in self.initiators and access.attachment == self.attachment


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """A volume in Cinder's database. ``was_made``: it has been available at least once."""

    id: str
    name_id: str
    zvol: ZvolName
    size_bytes: int
    status: str
    migration_status: str | None
    host: str
    was_made: bool
    attachments: tuple[AttachmentRow, ...] = ()

    @property
    def at_rest(self) -> bool:
        """Whether Cinder does nothing with it now, nor attaches it for itself.

        A migration has rows for both of its halves, each with a migration_status, until the old one is gone.
        """
        return self.status in _VOLUME_AT_REST and self.migration_status in _MIGRATION_AT_REST

    @property
    def pool(self) -> str:
        """The pool that Cinder has it in, which is a parent's name."""
        return self.host.partition("#")[2]


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """A snapshot in Cinder's database, and the zvol that it is of."""

    id: str
    zvol: ZvolName
    name: SnapshotName
    status: str

    @property
    def at_rest(self) -> bool:
        """Whether Cinder does nothing with it now."""
        return self.status in _SNAPSHOT_AT_REST


@dataclass(frozen=True, slots=True)
class CinderSide:
    """What Cinder has of the back ends that share one parent.

    ``others`` are the volumes that zvols here belong to and that Cinder has at another back end, ``deleted``
    those that it has deleted; ``others_snapshots`` are the ids of the former's snapshots that have a view
    here, and ``deleted_snapshots``, by their ids, those with one that it has deleted.
    """

    volumes: Mapping[ZvolName, VolumeRow] = field(default_factory=dict)
    snapshots: tuple[SnapshotRow, ...] = ()
    others: Mapping[ZvolName, VolumeRow] = field(default_factory=dict)
    deleted: Mapping[ZvolName, VolumeRow] = field(default_factory=dict)
    others_snapshots: frozenset[str] = frozenset()
    deleted_snapshots: Mapping[str, SnapshotRow] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SanSide:
    """What the SAN says of one parent. ``secrets_missing``: exports that wait for their CHAP secrets."""

    zvols: Mapping[ZvolName, Zvol] = field(default_factory=dict)
    snapshots: frozenset[tuple[ZvolName, SnapshotName]] = frozenset()
    exports: tuple[Export, ...] = ()
    attachments: tuple[Access, ...] = ()
    views: tuple[VolumeId, ...] = ()
    secrets_missing: int = 0

    @property
    def viewed(self) -> Mapping[VolumeId, tuple[InitiatorName, ...]]:
        """The ids of the snapshots that have a view, each with those who are on record as reading it."""
        found: dict[VolumeId, set[InitiatorName]] = {view_id: set() for view_id in self.views}
        for access in self.attachments:
            if (view_id := viewed_id(access.zvol)) is not None:
                found.setdefault(view_id, set()).add(access.initiator)
        return {view_id: tuple(sorted(found[view_id])) for view_id in sorted(found)}
