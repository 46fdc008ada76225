"""Initiators as a test that runs over every exporter sees them: one set of verbs for iSCSI and NVMe/TCP.

Each logs in once and is refused once: nothing here hides a refusal behind a retry. What it made in its
machine it removes again, whatever became of the target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tests.support.initiator import Initiator
from tests.support.nvme import NvmeInitiator
from zolder.model import Chap, Export
from zolder.names import NVMET, ExporterName, InitiatorName, Portal

if TYPE_CHECKING:
    from lab import Lab, Machine

COMPUTE_IQN = InitiatorName("iqn.2004-10.org.zolder:compute")
SECOND_IQN = InitiatorName("iqn.2004-10.org.zolder:second")
COMPUTE_NQN = InitiatorName("nqn.2014-08.org.nvmexpress:uuid:5a6f6c64-6572-4c61-8000-636f6d707574")
SECOND_NQN = InitiatorName("nqn.2014-08.org.nvmexpress:uuid:5a6f6c64-6572-4c61-8000-7365636f6e64")


class Reach(Protocol):
    """One initiator in one machine."""

    @property
    def name(self) -> InitiatorName:
        """Its IQN or host NQN."""

    @property
    def machine(self) -> Machine:
        """Where its disks are."""

    def discover(self, portal: Portal) -> list[str]:
        """Return the targets or subsystems that a portal shows to it, sorted."""

    def log_in(self, export: Export, chap: Chap | None = None, portal: Portal | None = None) -> bool:
        """Log in over one portal, the export's first if none is named; say whether it was let in."""

    def log_out(self, export: Export) -> None:
        """Let go of an export, in whatever state it is."""

    def is_logged_in(self, export: Export) -> bool:
        """Say whether it has a session that works."""

    def disk(self, export: Export) -> str:
        """Wait for the disk behind a session and return its kernel name, such as ``sda``."""

    def rescan(self, export: Export) -> None:
        """Have the machine look at a disk's size again, where nobody tells it by itself."""

    def identity(self, export: Export) -> dict[str, str]:
        """Return what tells this disk from all others in the world, by the names that sysfs gives it."""


class IscsiReach:
    """open-iscsi in the compute machine."""

    def __init__(self, compute: Machine, name: InitiatorName) -> None:
        """Use the machine's own name, or an interface record for another."""
        self.name = name
        self.machine = compute
        self._own = None if name == COMPUTE_IQN else str(name)
        self._at: dict[str, Initiator] = {}

    def discover(self, portal: Portal) -> list[str]:
        """See ``Reach``."""
        return self._initiator(portal).discover()

    def log_in(self, export: Export, chap: Chap | None = None, portal: Portal | None = None) -> bool:
        """See ``Reach``."""
        where = portal or export.portals[0]
        status = self._initiator(where).login(export.target, chap)
        if status:
            self._initiator(where).logout(export.target)
        # 24: the target refused it; 19: there is no such target; 8: with the last one LIO's portal went, too;
        # 11: there is none at tgtd, which then says nothing at all.
        assert status in {0, 8, 11, 19, 24}, f"iscsiadm exited with {status}"
        return status == 0

    def log_out(self, export: Export) -> None:
        """See ``Reach``."""
        for portal in export.portals:
            if portal in self._at:
                self._at[portal].logout(export.target)

    def is_logged_in(self, export: Export) -> bool:
        """See ``Reach``."""
        return self._initiator(export.portals[0]).is_logged_in(export.target)

    def disk(self, export: Export) -> str:
        """See ``Reach``."""
        return self._initiator(export.portals[0]).disk(export.target)

    def rescan(self, export: Export) -> None:
        """See ``Reach``."""
        self.machine.succeed(f"echo 1 > /sys/block/{self.disk(export)}/device/rescan")

    def identity(self, export: Export) -> dict[str, str]:
        """See ``Reach``."""
        device = f"/sys/block/{self.disk(export)}/device"
        serial = self.machine.succeed(f"tail -c +5 {device}/vpd_pg80 | tr -d '\\0'").strip()
        return {"serial": serial, "wwid": self.machine.succeed(f"cat {device}/wwid").strip()}

    def _initiator(self, portal: Portal) -> Initiator:
        if portal not in self._at:
            self._at[portal] = Initiator(self.machine, self._own, portal=portal)
        return self._at[portal]


def compute_reach(lab: Lab, exporter: ExporterName) -> Reach:
    """Return the compute machine's own initiator for an exporter."""
    if exporter == NVMET:
        return NvmeInitiator(lab.compute, COMPUTE_NQN)
    return IscsiReach(lab.compute, COMPUTE_IQN)


def second_reach(lab: Lab, exporter: ExporterName) -> Reach:
    """Return a second initiator.

    A kernel takes no second NVMe namespace with the ids of one that it has ("ignoring nsid 1 because of
    duplicate IDs", drivers/nvme/host/core.c), so the second one for NVMe is another kernel: the SAN's own.
    """
    if exporter == NVMET:
        lab.san.succeed("modprobe nvme-tcp")
        return NvmeInitiator(lab.san, SECOND_NQN)
    return IscsiReach(lab.compute, SECOND_IQN)
