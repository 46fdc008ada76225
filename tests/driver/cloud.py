"""Cinder's own tables in SQLite and a SAN in memory, for ``zolder orphans`` to compare."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cinder import context, objects
from cinder.db import api as database

from zolder.cinder.settings import Settings
from zolder.cinder.storage import San
from zolder.cli import command
from zolder.errors import ConnectFailed
from zolder.fake import FakeStorage
from zolder.model import Access, Change, Chap, Export, Route
from zolder.names import (
    LIO,
    AttachmentId,
    DatasetName,
    InitiatorName,
    Portal,
    SnapshotName,
    TargetPrefix,
    VolumeId,
    ZvolName,
)

objects.register_all()

PARENT = DatasetName("data/volumes")
ROUTE = Route(LIO, TargetPrefix("iqn.2010-10.org.openstack:"), (Portal("192.0.2.1:3260"),))
MACHINE = InitiatorName("iqn.2004-10.org.example:compute")
STRANGER = InitiatorName("iqn.2004-10.org.example:stranger")
GIB = 2**30
ADMIN = context.get_admin_context()
CONFIGURATION = """\
[DEFAULT]
host = control
enabled_backends = {enabled}
state_path = {folder}
[database]
connection = sqlite:///{folder}/cinder.sqlite
[other]
volume_driver = cinder.volume.drivers.lvm.LVMVolumeDriver
[one]
volume_driver = zolder.cinder.driver.ZolderDriver
san_ip = 192.0.2.1
[two]
volume_driver = zolder.cinder.driver.ZolderDriver
san_ip = 192.0.2.1
[far]
volume_driver = zolder.cinder.driver.ZolderDriver
san_ip = 192.0.2.9
"""


class BusySan(FakeStorage):
    """A SAN whose world moves on: ``meanwhile`` has what happens once, right after a method has answered."""

    def __init__(self) -> None:
        """Start empty, and with nothing to happen."""
        super().__init__((PARENT,))
        self.meanwhile: dict[str, Callable[[], object]] = {}

    def list_attachments(self, parent: DatasetName) -> tuple[Access, ...]:
        listed = super().list_attachments(parent)
        self.meanwhile.pop("list_attachments", lambda: None)()
        return listed

    def export_zvol(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        initiator: InitiatorName,
        *,
        route: Route,
        attachment: AttachmentId | None,
        chap: Chap | None,
    ) -> Change[Export]:
        opened = super().export_zvol(parent, zvol, initiator, route=route, attachment=attachment, chap=chap)
        self.meanwhile.pop("export_zvol", lambda: None)()
        return opened


@dataclass(frozen=True)
class OpenedSan(San):
    """A SAN that counts how often it was opened and not closed again."""

    left: ClassVar[int] = 0

    def __post_init__(self) -> None:
        """Count."""
        type(self).left += 1

    def close(self) -> None:
        """Count back."""
        type(self).left -= 1


@dataclass
class Cloud:
    """Cinder's database with what is put there, a SAN, and the command."""

    configuration: Path
    capture: pytest.CaptureFixture[str]
    asked: list[Settings] = field(default_factory=list)
    san: BusySan = field(default_factory=BusySan)
    away: str = ""

    def run(self, *words: str) -> tuple[int, str]:
        """Run the command and return its exit status with what it said."""
        return self.run_command("orphans", "--settle", "0", *words)

    def run_command(self, name: str, *words: str) -> tuple[int, str]:
        """Run one of zolder's commands and return its exit status with what it said."""
        self.capture.readouterr()
        status = command.main([name, "--config-file", str(self.configuration), *words], connect=self._connect)
        said = self.capture.readouterr()
        return status, said.out + said.err

    def findings(self, *words: str) -> list[dict[str, Any]]:
        """Run the command for scripts and return its findings."""
        _, said = self.run("--json", *words)
        return [finding for parent in json.loads(said)["parents"] for finding in parent["findings"]]

    def kinds(self, *words: str) -> list[str]:
        """Run the command and return the kinds that it finds."""
        return [finding["kind"] for finding in self.findings(*words)]

    def add_volume(self, *, zvol: bool = True, row: bool = True, **fields: object) -> str:
        """Have a volume of 1 GiB in Cinder, on the SAN or on both, and return its id."""
        identifier = str(fields.pop("id", uuid.uuid4()))
        values = {
            "id": identifier,
            "size": 1,
            "status": "available",
            "host": f"control@one#{PARENT}",
            "volume_type_id": str(uuid.uuid4()),
            "launched_at": None,
        }
        if row:
            database.volume_create(ADMIN, values | fields)
        if zvol:
            self.san.create_zvol(
                PARENT, name_of(identifier), volume_id=VolumeId(identifier), volsize_bytes=GIB, sparse=True
            )
        return identifier

    def add_snapshot(self, volume: str, *, zvol: bool = True) -> str:
        """Have a snapshot in Cinder, and perhaps on the SAN, and return its id."""
        identifier = str(uuid.uuid4())
        values = {
            "id": identifier, "volume_id": volume, "status": "available", "volume_size": 1,
            "volume_type_id": str(uuid.uuid4()),
        }  # fmt: skip
        database.snapshot_create(ADMIN, values)
        if zvol:
            self.san.create_snapshot(PARENT, name_of(volume), SnapshotName(f"snapshot-{identifier}"))
        return identifier

    def attach(
        self, volume: str, *, told: dict[str, str] | None = None, named: bool = True
    ) -> tuple[str, Access]:
        """Have an attachment's row, as the driver leaves it; return its id and the record that it needs."""
        attachment = AttachmentId(str(uuid.uuid4())) if named else None
        connector = {"initiator": MACHINE, "host": "compute"}
        connector |= {"zolder_attachment": str(attachment)} if attachment else {}
        row = database.volume_attach(
            ADMIN,
            {
                "volume_id": volume,
                "attach_status": "attached",
                "instance_uuid": str(uuid.uuid4()),
                "connector": json.dumps(connector),
                "connection_info": json.dumps({"driver_volume_type": "iscsi"} | told) if told else None,
            },
        )
        database.volume_update(ADMIN, volume, {"status": "in-use"})
        return str(row.id), Access(name_of(volume), MACHINE, attachment)

    def open(self, access: Access, *, chap: Chap | None = None) -> None:
        """Let an initiator in on the SAN."""
        self.san.export_zvol(
            PARENT, access.zvol, access.initiator, route=ROUTE, attachment=access.attachment, chap=chap
        )

    def _connect(self, settings: Settings) -> San:
        assert not OpenedSan.left, "the one before was not left"
        self.asked.append(settings)
        if self.away:
            raise ConnectFailed(self.away)
        if settings.san_address != "192.0.2.1":
            message = f"{settings.san_address} cannot be reached: check that the SAN is up"
            raise ConnectFailed(message)
        return OpenedSan(self.san, self.san)


def name_of(identifier: str) -> ZvolName:
    """Return the name of a volume's zvol."""
    return ZvolName(f"volume-{identifier}")
