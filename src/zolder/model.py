"""The values that requests carry and answers return.

Frozen dataclasses without behaviour, in the words of zfsprops(7) and of iSCSI. Sizes are bytes.
The wire form of each is a JSON object with the same field names (zolder.shapes).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from zolder.names import (
    AttachmentId,
    DatasetName,
    ExporterName,
    InitiatorName,
    Portal,
    SnapshotName,
    TargetPrefix,
    VolumeId,
    ZvolName,
)
from zolder.properties import INHERITED, BlockSize, ZvolProperties

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """What every mutation answers: whether it changed anything, and what now holds."""

    changed: bool
    value: T


@dataclass(frozen=True, slots=True)
class Zvol:
    """A volume's dataset. ``origin`` is the snapshot it was cloned from, as a whole dataset name.

    ``properties`` are those that it has of its own.
    """

    parent: DatasetName
    name: ZvolName
    volume_id: VolumeId
    volsize_bytes: int
    sparse: bool
    origin: str | None = None
    properties: ZvolProperties = INHERITED


@dataclass(frozen=True, slots=True)
class ZvolSnapshot:
    """A ZFS snapshot of a zvol that was made on a client's request."""

    parent: DatasetName
    zvol: ZvolName
    name: SnapshotName


@dataclass(frozen=True, slots=True)
class ZvolCopy:
    """A zvol that is to be a clone of another, ``source``, below the same parent.

    ``volblocksize`` is what the source must have; null is any.
    """

    parent: DatasetName
    source: ZvolName
    zvol: ZvolName
    volume_id: VolumeId
    volsize_bytes: int
    sparse: bool
    properties: ZvolProperties = INHERITED
    volblocksize: BlockSize | None = None


@dataclass(frozen=True, slots=True)
class PutAside:
    """A zvol that was deleted, and that clones of its snapshots still need.

    ``name`` is the dataset's leaf now, ``volume_id`` which volume it was, ``deleted_at`` when that was
    deleted (UTC, ISO 8601; empty where nobody knows). ``used_bytes`` is what goes with it, ``holders``
    whatever keeps it: clones and snapshots by their whole names, sorted. Without any it goes when the
    figures are counted next. ``reverted``: the volume lives on, and this is what it was before a revert.
    """

    parent: DatasetName
    name: ZvolName
    volume_id: VolumeId
    deleted_at: str
    used_bytes: int
    holders: tuple[str, ...]
    reverted: bool = False


@dataclass(frozen=True, slots=True)
class FoundZvol:
    """A zvol directly below a parent, whoever made it.

    ``volume_id`` is the mark that it bears, ``obstacle`` why it cannot be adopted. ``name`` is as ZFS has it,
    perhaps with characters that no request can carry.
    """

    parent: DatasetName
    name: str
    volsize_bytes: int
    volume_id: VolumeId | None = None
    obstacle: str | None = None


@dataclass(frozen=True, slots=True)
class FoundSnapshot:
    """A snapshot of a zvol of ours, whoever took it. ``managed`` says that a client asked for it."""

    parent: DatasetName
    zvol: ZvolName
    name: str
    volsize_bytes: int
    managed: bool
    obstacle: str | None = None


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """Space below one parent.

    ``available_bytes`` is ZFS's own figure (quotas and other datasets' reservations counted),
    ``used_bytes`` what the parent and all below it take, ``provisioned_bytes`` the sum of the volsizes.
    ``secrets_missing`` counts the exports that stay shut until somebody sends their CHAP secrets again.
    """

    parent: DatasetName
    available_bytes: int
    used_bytes: int
    provisioned_bytes: int
    zvol_count: int
    secrets_missing: int = 0


@dataclass(frozen=True, slots=True)
class Chap:
    """CHAP for one initiator on one target. The secrets never show in ``repr``.

    With ``target_user`` and ``target_secret`` it is mutual: the target shows these to the initiator.
    """

    user: str
    secret: str = field(repr=False)
    target_user: str | None = None
    target_secret: str | None = field(default=None, repr=False)

    @property
    def is_mutual(self) -> bool:
        """Whether the target shows something, too."""
        return self.target_user is not None or self.target_secret is not None


@dataclass(frozen=True, slots=True)
class Route:
    """How one back end's volumes are reached.

    ``prefix`` begins the targets' names, and the zvol's name follows; ``portals`` is where they listen.
    """

    exporter: ExporterName
    prefix: TargetPrefix
    portals: tuple[Portal, ...]


@dataclass(frozen=True, slots=True)
class Access:
    """One attachment that is to be open, or is on record: an initiator may have a zvol several times.

    ``attachment`` is None for the one use of an initiator that has no id (Cinder's internal attachments).
    """

    zvol: ZvolName
    initiator: InitiatorName
    attachment: AttachmentId | None
    chap: Chap | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one of many was not done: an error's code and sentence."""

    zvol: ZvolName
    initiator: InitiatorName
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Export:
    """A zvol made reachable: its target (an IQN, or a subsystem's NQN) and who may log in.

    ``lun`` is the logical unit's number, or the namespace's id.
    """

    zvol: ZvolName
    exporter: ExporterName
    target: str
    portals: tuple[Portal, ...]
    lun: int
    initiators: tuple[InitiatorName, ...]
