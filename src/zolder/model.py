"""The values that requests carry and answers return.

Frozen dataclasses without behaviour, in the words of zfsprops(7) and of iSCSI. Sizes are bytes.
The wire form of each is a JSON object with the same field names (zolder.shapes).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from zolder.names import DatasetName, InitiatorName, Portal, SnapshotName, VolumeId, ZvolName

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """What every mutation answers: whether it changed anything, and what now holds."""

    changed: bool
    value: T


@dataclass(frozen=True, slots=True)
class Zvol:
    """A volume's dataset. ``origin`` is the snapshot it was cloned from, as a whole dataset name."""

    parent: DatasetName
    name: ZvolName
    volume_id: VolumeId
    volsize_bytes: int
    sparse: bool
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class ZvolSnapshot:
    """A ZFS snapshot of a zvol that was made on a client's request."""

    parent: DatasetName
    zvol: ZvolName
    name: SnapshotName


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """Space below one parent.

    ``available_bytes`` is ZFS's own figure (quotas and other datasets' reservations counted),
    ``used_bytes`` what the parent and all below it take, ``provisioned_bytes`` the sum of the volsizes.
    """

    parent: DatasetName
    available_bytes: int
    used_bytes: int
    provisioned_bytes: int
    zvol_count: int


@dataclass(frozen=True, slots=True)
class Chap:
    """One-way CHAP for one initiator on one target. The secret never shows in ``repr``."""

    user: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Export:
    """A zvol made reachable: its one target and who may log in."""

    zvol: ZvolName
    target: str
    portals: tuple[Portal, ...]
    lun: int
    initiators: tuple[InitiatorName, ...]
