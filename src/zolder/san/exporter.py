"""One way to export a zvol's device, on one page: what LIO, tgt and nvmet each have to offer.

``Exporter`` is implemented by zolder.san.lio, zolder.san.tgt and zolder.san.nvmet. Each export is closed but
for its initiators, bears names that follow from its subject alone, and is found without looking at any other.
What an earlier attempt left by half is completed by `ensure_export` and removed by `remove_export`; what
somebody else made is never touched. Nothing is locked here: the caller holds a lock for the zvol's name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from zolder.model import Chap
from zolder.names import (
    DatasetName,
    ExporterName,
    InitiatorName,
    Portal,
    TargetPrefix,
    VolumeId,
    ZvolName,
    zvol_dataset,
)


@dataclass(frozen=True, slots=True)
class Subject:
    """A zvol, and what the names of its targets begin with."""

    parent: DatasetName
    zvol: ZvolName
    prefix: TargetPrefix

    @property
    def dataset(self) -> str:
        """The zvol's whole name."""
        return zvol_dataset(self.parent, self.zvol)


@dataclass(frozen=True, slots=True)
class Exported:
    """One target or subsystem of ours as it stands. ``dataset`` is the zvol that its own names say."""

    target: str
    dataset: str
    initiators: tuple[InitiatorName, ...]
    portals: tuple[Portal, ...]


class Exporter(ABC):
    """One of the SAN's ways to export."""

    name: ClassVar[ExporterName]

    @abstractmethod
    def ensure_export(
        self,
        subject: Subject,
        *,
        device: Path,
        volume_id: VolumeId,
        portals: tuple[Portal, ...],
        initiator: InitiatorName,
        chap: Chap | None,
        read_only: bool,
    ) -> bool:
        """Let an initiator reach a device; return whether that changed anything.

        Its other initiators stay as they are. What this call made is taken back if it fails.

        :param device: the whole disk (``/dev/zdN``), held open by the caller until this returns, so that its
            number cannot come to mean another zvol.
        :param volume_id: what serial, WWN, NGUID and UUID derive from.
        :param portals: where the export is reached. Where targets have portals of their own, exactly these.
        :param chap: what the initiator must show; an earlier secret of its is replaced.
        :raises AlreadyExists: something of that name belongs to somebody else.
        :raises Busy: the device is claimed by somebody else.
        :raises InvalidRequest: the initiator's name is of another kind, or such CHAP cannot be had here.
        :raises BackendError: the kernel or the daemon refuses a step, or is not there.
        """

    @abstractmethod
    def remove_initiator(self, subject: Subject, initiator: InitiatorName) -> bool:
        """Shut an initiator out and end its sessions; the export goes with the last one.

        :return: whether that changed anything.
        :raises AlreadyExists: what bears that name belongs to somebody else.
        :raises BackendError: the kernel or the daemon refuses a step.
        """

    @abstractmethod
    def remove_export(self, subject: Subject) -> bool:
        """Remove an export, whoever is logged in; return False where there was none.

        :raises AlreadyExists: what bears that name belongs to somebody else.
        :raises BackendError: the kernel or the daemon refuses a step.
        """

    @abstractmethod
    def initiators_of(self, subject: Subject) -> tuple[InitiatorName, ...]:
        """Return who may reach it, sorted; none where it is absent."""

    @abstractmethod
    def is_open(self, subject: Subject) -> bool:
        """Say whether this exporter has the zvol's device open under our names, whatever the prefix."""

    @abstractmethod
    def grow_export(self, subject: Subject, *, device: Path, seconds: float) -> None:
        """Have the export show its device's present size, without an error to those who use it.

        If it fails, they have the export that they had, or its new size.

        :param device: the whole disk, held open by the caller.
        :param seconds: the longest that it may take.
        :raises Busy: the device is claimed by somebody else.
        :raises BackendError: the kernel or the daemon refuses a step, or its users' I/O does not end in time.
        """

    @abstractmethod
    def list_exports(self, prefix: TargetPrefix) -> tuple[Exported, ...]:
        """Return the exports of ours whose names begin with a prefix, sorted; the cost grows with them."""
