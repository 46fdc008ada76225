"""A volume of the lab that is exported in one of the SAN's ways, through the agent as a driver asks it.

``WAYS`` is what the lab's policy allows: LIO, tgt and nvmet, each at its own port over both links.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import uuid
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.contract.ground import MIB, PARENT, PREFIX
from tests.support.reach import Reach
from zolder.api import Storage
from zolder.model import Chap, Export, Route
from zolder.names import (
    LIO,
    NVMET,
    TGT,
    AttachmentId,
    DatasetName,
    ExporterName,
    InitiatorName,
    Portal,
    VolumeId,
    ZvolName,
    chap_user,
    target_name,
)

if TYPE_CHECKING:
    from lab import Lab
    from lab.conversation import Conversation

ADDRESS = "192.168.77.1"
SECOND_ADDRESS = "192.168.78.1"
ADDRESS6 = "fd00:77::1"
PORTS = {LIO: 3260, TGT: 3261, NVMET: 4420}
SIZE = 64 * MIB

_numbers = itertools.count(1)


def portal_of(exporter: ExporterName, address: str = ADDRESS) -> Portal:
    """Return where an exporter listens at an address of the SAN's."""
    return Portal(f"[{address}]:{PORTS[exporter]}" if ":" in address else f"{address}:{PORTS[exporter]}")


def route_of(exporter: ExporterName, *addresses: str) -> Route:
    """Return the way over some addresses, the first link's if none is named."""
    portals = tuple(portal_of(exporter, address) for address in addresses or (ADDRESS,))
    return Route(exporter, PREFIX, portals)


def secret_for(volume: Volume, initiator: InitiatorName) -> Chap | None:
    """Return an initiator's secret at a volume's target, or None where there is no CHAP to be had."""
    return None if volume.exporter == NVMET else secret_at(target_name(PREFIX, volume.name), initiator)


def secret_at(target: str, initiator: InitiatorName) -> Chap:
    """Return an initiator's secret at a target."""
    digest = hashlib.sha256(f"{target} {initiator}".encode()).hexdigest()
    return Chap(chap_user(target, initiator), f"secret-{digest[16:32]}")


def dhchap_key(seed: bytes) -> str:
    """Return a made-up key for DH-HMAC-CHAP as it is written: 32 bytes and their CRC, in base64."""
    key = hashlib.sha256(seed).digest()
    return f"DHHC-1:00:{base64.b64encode(key + zlib.crc32(key).to_bytes(4, 'little')).decode()}:"


def new_attachment() -> AttachmentId:
    """Return a fresh attachment's id."""
    return AttachmentId(str(uuid.uuid4()))


@dataclass
class Volume:
    """A zvol of ours, its exporter, and what was opened of it."""

    storage: Storage
    exporter: ExporterName
    name: ZvolName
    volume_id: VolumeId
    parent: DatasetName = PARENT
    users: list[tuple[Reach, Export]] = field(default_factory=list)

    @property
    def dataset(self) -> str:
        """The zvol's whole name."""
        return f"{self.parent}/{self.name}"

    def open(
        self,
        initiator: Reach,
        attachment: AttachmentId | None = None,
        *,
        chap: Chap | None = None,
        addresses: tuple[str, ...] = (ADDRESS,),
    ) -> Export:
        """Let an initiator reach it.

        :param chap: what it must show; its usual secret if none is named, and none on nvmet.
        """
        export = self.storage.export_zvol(
            self.parent,
            self.name,
            initiator.name,
            route=route_of(self.exporter, *addresses),
            attachment=attachment,
            chap=chap or secret_for(self, initiator.name),
        ).value
        self.users.append((initiator, export))
        return export

    def use(self, initiator: Reach, export: Export) -> str:
        """Log in and return the disk, such as ``/dev/sda``."""
        # The target's own, which of a snapshot's view is another than the volume's.
        chap = None if self.exporter == NVMET else secret_at(export.target, initiator.name)
        assert initiator.log_in(export, chap), "the login was refused"
        return f"/dev/{initiator.disk(export)}"

    def close(
        self, initiator: Reach | None, attachment: AttachmentId | None = None
    ) -> tuple[InitiatorName, ...]:
        """End one attachment, or all where the initiator is None; return who may still reach it."""
        name = initiator.name if initiator else None
        return self.storage.withdraw_zvol(self.parent, self.name, name, attachment=attachment).value

    def standing(self) -> list[InitiatorName]:
        """Return who can reach it as the kernel or the daemon has it now."""
        exports = [export for export in self.storage.list_exports(self.parent) if export.zvol == self.name]
        return sorted(initiator for export in exports for initiator in export.initiators)

    def remove(self) -> None:
        """Let go of it everywhere and delete it."""
        for initiator, export in self.users:
            initiator.log_out(export)
        self.close(None)
        self.storage.delete_zvol(self.parent, self.name)


def make_volume(
    storage: Storage, exporter: ExporterName, *, size_bytes: int = SIZE, parent: DatasetName = PARENT
) -> Volume:
    """Create a sparse zvol under a fresh name."""
    name, volume_id = ZvolName(f"volume-{exporter}-{next(_numbers)}"), VolumeId(str(uuid.uuid4()))
    storage.create_zvol(parent, name, volume_id=volume_id, volsize_bytes=size_bytes, sparse=True)
    return Volume(storage, exporter, name, volume_id, parent)


def used_bytes(lab: Lab, dataset: str) -> int:
    """Return what a zvol takes in its zpool, with all that was written so far."""
    lab.san.succeed(f"zpool sync {dataset.partition('/')[0]}")
    return int(lab.san.succeed(["zfs", "get", "-Hpo", "value", "used", dataset]))


def count_commits(lab: Lab, dataset: str) -> int:
    """Return how often the intent log of a zvol was committed: what a flush has to reach."""
    zpool = dataset.partition("/")[0]
    awk = (
        f'$1 == "dataset_name" {{ ours = $3 == "{dataset}" }} ours && $1 == "zil_commit_count" {{ print $3 }}'
    )
    return int(lab.san.succeed(f"awk '{awk}' /proc/spl/kstat/zfs/{zpool}/objset-*"))


def wait_for_blocks(lab: Lab, writer: Conversation, more: int) -> None:
    """Wait until so many more blocks were acknowledged."""
    began = writer.ask("progress")["written"]

    def went_on() -> bool:
        now = writer.ask("progress")
        assert not now["error"], now["error"]
        return bool(now["written"] >= began + more)

    lab.compute.wait_until(went_on, 120, f"{more} more blocks to be written")
