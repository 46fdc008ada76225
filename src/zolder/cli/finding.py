"""What a difference between Cinder and the SAN is called, what it means, and what to do about it.

The kinds and the fields are what scripts read (``--json``) and stay as they are; the sentences are people's.
Put-aside zvols will be kinds of their own once there are any.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from zolder.model import Access


class Kind(StrEnum):
    """The kinds, the one that matters most first: somebody may reach what is not theirs."""

    ATTACHMENT_ONLY_ON_SAN = "attachment-only-on-san"
    VIEW_LEFT = "view-left"
    EXPORT_ONLY = "export-only"
    ATTACHMENT_ONLY_IN_CINDER = "attachment-only-in-cinder"
    RECORD_ONLY = "record-only"
    VOLUME_ONLY_IN_CINDER = "volume-only-in-cinder"
    SNAPSHOT_ONLY_IN_CINDER = "snapshot-only-in-cinder"
    SIZE_DIFFERS = "size-differs"
    MARK_DIFFERS = "mark-differs"
    ZVOL_ONLY_ON_SAN = "zvol-only-on-san"
    SNAPSHOT_ONLY_ON_SAN = "snapshot-only-on-san"


HEADINGS = {
    Kind.ATTACHMENT_ONLY_ON_SAN: "open to an initiator that has no attachment in Cinder",
    Kind.VIEW_LEFT: "temporary clones of snapshots, left although nothing is being backed up",
    Kind.EXPORT_ONLY: "exported without being on record",
    Kind.ATTACHMENT_ONLY_IN_CINDER: "attached in Cinder, and not open on the SAN",
    Kind.RECORD_ONLY: "on record, and not exported",
    Kind.VOLUME_ONLY_IN_CINDER: "volumes in Cinder without a zvol",
    Kind.SNAPSHOT_ONLY_IN_CINDER: "snapshots in Cinder that the SAN does not have",
    Kind.SIZE_DIFFERS: "sizes that differ",
    Kind.MARK_DIFFERS: "zvols that bear another volume's mark",
    Kind.ZVOL_ONLY_ON_SAN: "zvols without a volume in Cinder",
    Kind.SNAPSHOT_ONLY_ON_SAN: "snapshots on the SAN that Cinder does not have",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference. ``repairable``: ``--repair`` can mend it.

    :ivar thing: what it is about on the SAN: a dataset, or a snapshot's whole name.
    :ivar row: the attachment's, volume's or snapshot's id in Cinder, where it has one there.
    :ivar access: the attachment that is to be withdrawn, or that is missing.
    """

    kind: Kind
    thing: str
    meaning: str
    advice: str
    repairable: bool = False
    volume_id: str | None = None
    row: str | None = None
    access: Access | None = None

    @property
    def key(self) -> tuple[Kind, str, str, Access | None]:
        """What makes it the same finding when one looks again."""
        return self.kind, self.thing, self.row or "", self.access
