"""``zolder orphans`` over Cinder's own tables in SQLite, and the SAN in memory."""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cinder import context, objects
from cinder.db import api as database
from cinder.db import models
from oslo_config import cfg
from oslo_db.sqlalchemy import enginefacade

from zolder.cinder.chap import chap_for, new_provider_auth
from zolder.cinder.settings import Settings
from zolder.cinder.storage import San
from zolder.cli import backends, command
from zolder.cli.cinder_side import CinderReader
from zolder.cli.finding import Kind
from zolder.cli.sides import SanSide
from zolder.errors import ConnectFailed
from zolder.fake import FakeStorage
from zolder.model import Access, Change, Chap, Refusal, Route
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
    target_name,
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

    def ensure_exports(
        self, parent: DatasetName, wanted: tuple[Access, ...], *, route: Route
    ) -> Change[tuple[Refusal, ...]]:
        ensured = super().ensure_exports(parent, wanted, route=route)
        self.meanwhile.pop("ensure_exports", lambda: None)()
        return ensured


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
        self.capture.readouterr()
        status = command.main(
            ["orphans", "--config-file", str(self.configuration), "--settle", "0", *words],
            connect=self._connect,
        )
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


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with Cinder's tables and nothing in them."""
    path = tmp_path_factory.mktemp("empty") / "cinder.sqlite"
    facade = enginefacade.transaction_context()
    facade.configure(connection=f"sqlite:///{path}")
    models.BASE.metadata.create_all(facade.writer.get_engine())
    facade.dispose_pool()
    return path


@pytest.fixture
def cloud(empty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Cloud]:
    """A Cinder with an empty database of its own, and an empty SAN."""
    path = tmp_path / "cinder.conf"
    path.write_text(CONFIGURATION.format(folder=tmp_path, enabled="other, one, two"))
    cfg.CONF([], project="cinder", default_config_files=[str(path)])
    shutil.copy(empty, tmp_path)
    facade = enginefacade.transaction_context()
    facade.configure(connection=f"sqlite:///{tmp_path}/cinder.sqlite")
    restore = database.main_context_manager.patch_factory(facade)
    yield Cloud(path, capsys)
    restore()
    assert not OpenedSan.left
    facade.dispose_pool()
    cfg.CONF.reset()


def test_nothing_found(cloud: Cloud) -> None:
    """Where both sides have the same volumes, snapshots and attachments, the exit status is 0."""
    volume = cloud.add_volume()
    cloud.add_snapshot(volume)
    _, access = cloud.attach(volume)
    cloud.open(access)
    status, said = cloud.run()
    assert status == 0
    assert "1 volumes in Cinder and 1 zvols compared: nothing is on one side only." in said


def test_words_and_status(cloud: Cloud) -> None:
    """What is found is said below a heading for its kind, and the exit status is 1."""
    lost, left = cloud.add_volume(zvol=False), cloud.add_volume(row=False)
    status, said = cloud.run()
    assert status == 1
    assert "volumes in Cinder without a zvol (volume-only-in-cinder):" in said
    assert f"    data/volumes/volume-{lost}: " in said
    assert f"`zfs destroy data/volumes/volume-{left}`" in said
    assert "2 differences, 0 of which --repair can mend." in said


def test_pages(cloud: Cloud) -> None:
    """What Cinder has is read whole, however many pages it takes."""
    for _ in range(5):
        cloud.add_snapshot(cloud.add_volume())
    backends.read_configuration([str(cloud.configuration)])
    (ground,) = backends.read_grounds(["one"])
    for page in (1, 2, 5, 6):
        side = CinderReader(ground, page=page).read(SanSide())
        assert (len(side.volumes), len(side.snapshots)) == (5, 5)


def test_only_some_kinds(cloud: Cloud) -> None:
    """--only leaves the other kinds out, and what is left out does not count."""
    cloud.add_volume(zvol=False)
    cloud.add_volume(row=False)
    assert cloud.kinds("--only", "zvol-only-on-san") == [Kind.ZVOL_ONLY_ON_SAN]
    assert cloud.run("--only", "size-differs")[0] == 0


def test_shared_parent(cloud: Cloud) -> None:
    """Two back ends over one parent are compared together, also where only one of them is asked for."""
    cloud.add_volume()
    cloud.add_volume(host=f"control@two#{PARENT}")
    assert cloud.kinds() == cloud.kinds("--backend", "one") == []
    assert len(cloud.asked) == 2


def test_other_control_node(cloud: Cloud) -> None:
    """Volumes that Cinder has at a back end that is not configured here are noted, and are no finding."""
    cloud.add_volume()
    cloud.add_volume(host=f"control2@one#{PARENT}")
    migrated = cloud.add_volume(row=False)
    cloud.add_volume(zvol=False, host=f"control2@one#{PARENT}", _name_id=migrated)
    status, said = cloud.run()
    assert status == 0
    assert f"the volumes of 2 zvols here at control2@one#{PARENT}" in said


def test_nothing_but_another_control_nodes(cloud: Cloud) -> None:
    """Where this configuration has no volume, and Cinder all zvols elsewhere, nothing was compared: 2."""
    cloud.add_volume(host=f"control2@one#{PARENT}")
    status, said = cloud.run()
    assert status == 2
    assert "Cinder has no volume at control@one, control@two, and all 1 zvols here at control2@one" in said
    cloud.add_volume(row=False)
    assert cloud.run()[0] == 1


@pytest.mark.parametrize("section", ["one", "backend_defaults", "DEFAULT"])
def test_backend_host(cloud: Cloud, section: str) -> None:
    """cinder-volume takes it from the back end's own section, and a shared one does not count."""
    text = cloud.configuration.read_text() + "[backend_defaults]\n"
    cloud.configuration.write_text(text.replace(f"[{section}]\n", f"[{section}]\nbackend_host = elsewhere\n"))
    backends.read_configuration([str(cloud.configuration)])
    (ground,) = backends.read_grounds([])
    first = "elsewhere@one" if section == "one" else "control@one"
    assert [back_end.host for back_end in ground.back_ends] == [first, "control@two"]


def test_cluster(cloud: Cloud) -> None:
    """In a cluster the volumes of its other members are this back end's too."""
    text = cloud.configuration.read_text().replace("host = control\n", "host = control\ncluster = pair\n")
    cloud.configuration.write_text(text)
    lost = cloud.add_volume(zvol=False, host=f"control2@one#{PARENT}", cluster_name=f"pair@one#{PARENT}")
    assert [finding["volume_id"] for finding in cloud.findings()] == [lost]


def test_migrated_volume(cloud: Cloud) -> None:
    """A volume whose zvol bears the id of its migration is found by it; what it left behind is left over."""
    moved = str(uuid.uuid4())
    volume = cloud.add_volume()
    database.volume_update(ADMIN, volume, {"_name_id": moved})
    cloud.add_volume(row=False, id=moved)
    assert [finding["object"] for finding in cloud.findings()] == [f"{PARENT}/{name_of(volume)}"]


@pytest.mark.parametrize("first", [0, 1])
def test_last_moment_of_a_migration(cloud: Cloud, first: int) -> None:
    """While both rows of a migration name the same zvol, the one that still moves decides."""
    user, target = sorted(str(uuid.uuid4()) for _ in range(2))[:: 1 if first else -1]
    cloud.add_volume(zvol=False, id=user, _name_id=target)
    cloud.add_volume(zvol=False, id=target, migration_status=f"target:{user}")
    assert cloud.kinds() == []
    database.volume_update(ADMIN, target, {"migration_status": None})
    assert cloud.kinds() == [Kind.VOLUME_ONLY_IN_CINDER]


def test_deleted_volume(cloud: Cloud) -> None:
    """Of a zvol whose volume Cinder has deleted that is said, and its attachments are withdrawn."""
    volume = cloud.add_volume()
    database.volume_destroy(ADMIN, volume)
    cloud.open(Access(name_of(volume), STRANGER, None))
    status, said = cloud.run("--repair", "--yes")
    assert "Cinder has deleted the volume and its zvol is still there" in said
    assert f"withdrawn: {STRANGER} is shut out" in said
    assert status == 1
    assert cloud.san.list_attachments(PARENT) == ()
    assert [zvol.name for zvol in cloud.san.list_zvols(PARENT)] == [name_of(volume)]


def test_second_look_clears_what_moved(cloud: Cloud) -> None:
    """What differs at the first look only, since it was being detached, is no finding."""
    volume = cloud.add_volume()
    row, access = cloud.attach(volume)
    cloud.open(access)

    def detach() -> None:
        cloud.san.withdraw_zvol(PARENT, access.zvol, MACHINE, attachment=access.attachment)
        database.volume_attachment_update(ADMIN, row, {"attach_status": "detached"})
        database.attachment_destroy(ADMIN, row)

    cloud.san.meanwhile["list_attachments"] = detach
    assert cloud.kinds() == []
    assert not cloud.san.meanwhile


def test_what_comes_between_the_looks_is_left_for_the_next(cloud: Cloud) -> None:
    """What differs at the second look only has been seen once, and is no finding yet."""
    volume = cloud.add_volume()
    old, new = (Access(name_of(volume), STRANGER, AttachmentId(str(uuid.uuid4()))) for _ in range(2))
    cloud.open(old)
    cloud.san.meanwhile["list_attachments"] = lambda: cloud.open(new)
    assert [finding["attachment"] for finding in cloud.findings()] == [old.attachment]
    assert cloud.kinds() == [Kind.ATTACHMENT_ONLY_ON_SAN] * 2


def test_repair_withdraws(cloud: Cloud) -> None:
    """An attachment that nobody has in Cinder is withdrawn, and one that somebody has stays."""
    volume = cloud.add_volume()
    _, access = cloud.attach(volume)
    cloud.open(access)
    stranger = Access(access.zvol, STRANGER, AttachmentId(str(uuid.uuid4())))
    cloud.open(stranger)
    (finding,) = cloud.findings("--repair", "--yes")
    assert (finding["kind"], finding["initiator"], finding["mended"]) == (
        Kind.ATTACHMENT_ONLY_ON_SAN, STRANGER, True,
    )  # fmt: skip
    assert cloud.san.list_attachments(PARENT) == (access,)
    assert cloud.run()[0] == 0


def test_repair_asks_cinder_again(cloud: Cloud) -> None:
    """What Cinder has begun to attach for itself since it was listed is left alone."""
    volume = cloud.add_volume()
    internal = Access(name_of(volume), MACHINE, None)
    cloud.open(internal)
    begin = lambda: database.volume_update(ADMIN, volume, {"status": "backing-up"})  # noqa: E731 - said once
    status, said = run_with_operator(cloud, "y", begin)
    assert status == 0
    assert f"left alone: volume {volume} has moved on (backing-up)" in said
    assert cloud.san.list_attachments(PARENT) == (internal,)


def test_repair_leaves_a_revert_alone(cloud: Cloud) -> None:
    """Its temporary volume is in-use without a row, and what Cinder has attached there for itself stays."""
    volume = cloud.add_volume(status="in-use")
    internal = Access(name_of(volume), MACHINE, None)
    cloud.open(internal)
    assert cloud.run("--repair", "--yes")[0] == 0
    database.volume_update(ADMIN, volume, {"status": "available"})
    begin = lambda: database.volume_update(ADMIN, volume, {"status": "in-use"})  # noqa: E731 - said once
    assert run_with_operator(cloud, "y", begin)[0] == 0
    assert cloud.san.list_attachments(PARENT) == (internal,)


def test_repair_of_a_san_that_went_away(cloud: Cloud) -> None:
    """A SAN that cannot be reached once the operator has answered leaves every finding unmended, in words."""
    volume = cloud.add_volume()
    cloud.open(Access(name_of(volume), STRANGER, None))
    status, said = run_with_operator(cloud, "y", lambda: setattr(cloud, "away", "it is away"))
    assert status == 1
    assert "failed: it is away" in said


def test_operator_says_no(cloud: Cloud) -> None:
    """Whoever answers anything but yes has nothing changed."""
    volume = cloud.add_volume()
    cloud.open(Access(name_of(volume), STRANGER, None))
    status, said = run_with_operator(cloud, "", lambda: None)
    assert status == 1
    assert "Repair 1 of them now? [y/N]" in said
    assert len(cloud.san.list_attachments(PARENT)) == 1


def run_with_operator(cloud: Cloud, answer: str, change: Callable[[], object]) -> tuple[int, str]:
    """Run a repair at a terminal where somebody answers after ``change`` has happened."""

    class Operator(io.StringIO):
        def isatty(self) -> bool:
            return True

        def readline(self, *_: object) -> str:  # type: ignore[override] # a size is never asked for
            change()
            return f"{answer}\n"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", Operator())
        return cloud.run("--repair")


@pytest.mark.parametrize("named", [True, False])
def test_repair_opens(cloud: Cloud, named: bool) -> None:  # noqa: FBT001 - pytest's way
    """An attached initiator is let in again as it was told to log in, and its secret is said to nobody."""
    volume = cloud.add_volume(provider_auth="CHAP user not-this-one-0000")
    told = {"auth_method": "CHAP", "auth_username": "u", "auth_password": "told-to-the-initiator"}
    _, access = cloud.attach(volume, told=told, named=named)
    assert cloud.kinds() == [Kind.ATTACHMENT_ONLY_IN_CINDER]
    status, said = cloud.run("--repair", "--yes")
    assert status == 0
    assert cloud.san.list_attachments(PARENT) == (access,)
    assert "told-to-the-initiator" not in said
    same = cloud.san.export_zvol(
        PARENT, access.zvol, MACHINE, route=ROUTE, attachment=access.attachment,
        chap=Chap("u", "told-to-the-initiator"),
    )  # fmt: skip
    assert not same.changed


def test_repair_takes_back_what_was_detached(cloud: Cloud) -> None:
    """An attachment that ends while it is being opened again is closed again."""
    volume = cloud.add_volume()
    row, _ = cloud.attach(volume)
    cloud.san.meanwhile["ensure_exports"] = lambda: database.attachment_destroy(ADMIN, row)
    (finding,) = cloud.findings("--repair", "--yes")
    assert finding["outcome"] == f"left alone: attachment {row} was detached meanwhile"
    assert cloud.san.list_attachments(PARENT) == ()


def test_repair_of_the_old_call(cloud: Cloud) -> None:
    """An attachment without a connection on record is opened with what the volume's secret gives."""
    secret = new_provider_auth(ZvolName("volume-x"))
    volume = cloud.add_volume(provider_auth=secret)
    _, access = cloud.attach(volume)
    assert cloud.run("--repair", "--yes")[0] == 0
    same = cloud.san.export_zvol(
        PARENT,
        access.zvol,
        MACHINE,
        route=ROUTE,
        attachment=access.attachment,
        chap=chap_for(secret, target_name(ROUTE.prefix, access.zvol), MACHINE),
    )
    assert not same.changed


def test_repair_of_another_protocol_fails(cloud: Cloud) -> None:
    """An attachment that was told of NVMe is not opened over iSCSI, and the exit status is 1."""
    volume = cloud.add_volume()
    row, _ = cloud.attach(volume)
    database.volume_attachment_update(ADMIN, row, {"connection_info": '{"driver_volume_type": "nvmeof"}'})
    status, said = cloud.run("--repair", "--yes")
    assert status == 1
    assert "failed: " in said
    assert cloud.san.list_attachments(PARENT) == ()


def test_repair_closes_views(cloud: Cloud) -> None:
    """The view that a dead backup left goes, and the snapshot stays."""
    volume = cloud.add_volume()
    snapshot = cloud.add_snapshot(volume)
    cloud.san.export_snapshot(
        PARENT, name_of(volume), SnapshotName(f"snapshot-{snapshot}"), MACHINE,
        view_id=VolumeId(snapshot), route=ROUTE, attachment=None, chap=None,
    )  # fmt: skip
    assert cloud.kinds() == [Kind.VIEW_LEFT]
    database.snapshot_update(ADMIN, snapshot, {"status": "backing-up"})
    assert cloud.kinds() == []
    database.snapshot_update(ADMIN, snapshot, {"status": "available"})
    assert cloud.run("--repair", "--yes")[0] == 0
    assert cloud.san.list_attachments(PARENT) == ()
    assert len(cloud.san.list_snapshots(PARENT)) == 1


def test_view_of_another_back_end(cloud: Cloud) -> None:
    """The view of a snapshot that Cinder has at another back end is that one's."""
    volume = cloud.add_volume(host=f"control2@one#{PARENT}")
    snapshot = cloud.add_snapshot(volume)
    cloud.san.export_snapshot(
        PARENT, name_of(volume), SnapshotName(f"snapshot-{snapshot}"), MACHINE,
        view_id=VolumeId(snapshot), route=ROUTE, attachment=None, chap=None,
    )  # fmt: skip
    assert cloud.kinds() == []


def test_repair_deletes_no_data(cloud: Cloud) -> None:
    """--repair leaves every zvol and every snapshot where it is."""
    volume = cloud.add_volume()
    cloud.san.create_snapshot(PARENT, name_of(volume), SnapshotName("snapshot-x"))
    cloud.add_volume(row=False)
    before = cloud.san.list_zvols(PARENT), cloud.san.list_snapshots(PARENT)
    status, _ = cloud.run("--repair", "--yes")
    assert status == 1
    assert (cloud.san.list_zvols(PARENT), cloud.san.list_snapshots(PARENT)) == before


def test_database_is_not_written(cloud: Cloud, tmp_path: Path) -> None:
    """Looking and repairing leave Cinder's database as it is, byte for byte."""
    volume = cloud.add_volume()
    cloud.attach(volume)
    cloud.open(Access(name_of(volume), STRANGER, None))
    with sqlite3.connect(tmp_path / "cinder.sqlite") as file:
        before = list(file.iterdump())
        assert cloud.run("--repair", "--yes")[0] == 0
        assert list(file.iterdump()) == before
    file.close()


def test_repair_without_a_terminal(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can be asked, --repair without --yes is refused before anything is looked at."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    for words in (("--repair",), ("--repair", "--json")):
        status, said = cloud.run(*words)
        assert (status, cloud.asked) == (2, [])
        assert "add --yes" in said


def test_san_that_does_not_answer(cloud: Cloud) -> None:
    """A SAN that cannot be asked makes the exit status 2, and the others are compared all the same."""
    cloud.configuration.write_text(cloud.configuration.read_text().replace("other, one, two", "far, one"))
    cloud.add_volume(zvol=False)
    status, said = cloud.run()
    assert status == 2
    assert "could not be looked at: 192.0.2.9 cannot be reached: check that the SAN is up" in said
    assert str(Kind.VOLUME_ONLY_IN_CINDER) in said


def test_database_that_does_not_answer(cloud: Cloud, tmp_path: Path) -> None:
    """A database without Cinder's tables makes the exit status 2, in one line."""
    (tmp_path / "cinder.sqlite").unlink()
    status, said = cloud.run()
    assert status == 2
    assert "Cinder's database cannot be asked: " in said
    assert "SELECT" not in said


@pytest.mark.parametrize(
    ("enabled", "words", "sentence"),
    [
        ("other", (), "enables no back end with volume_driver = zolder.cinder.driver.ZolderDriver"),
        ("one", ("--backend", "two"), "two: no back end of Zolder's in enabled_backends (one)"),
        ("one", ("--config-file", "/nonexistent"), "cinder.conf cannot be read"),
    ],
)
def test_configuration_that_will_not_do(
    cloud: Cloud, enabled: str, words: tuple[str, ...], sentence: str
) -> None:
    """A configuration without what was asked for makes the exit status 2, and a sentence."""
    cloud.configuration.write_text(cloud.configuration.read_text().replace("other, one, two", enabled))
    status, said = cloud.run(*words)
    assert status == 2
    assert sentence in said


def test_settings_that_will_not_do(cloud: Cloud) -> None:
    """A back end whose settings the driver would refuse is refused in the same words."""
    text = cloud.configuration.read_text().replace("[one]\n", "[one]\nsan_zfs_volume_base = -o\n")
    cloud.configuration.write_text(text)
    status, said = cloud.run()
    assert status == 2
    assert "[one]: " in said
    assert "san_zfs_volume_base = -o will not do" in said


@pytest.mark.parametrize("words", [["--settle", "x"], ["--only", "x"], ["--settle", "-1"]])
def test_usage(cloud: Cloud, words: list[str]) -> None:
    """A word that the command does not know ends it with exit status 2."""
    with pytest.raises(SystemExit) as ended:
        cloud.run(*words)
    assert ended.value.code == 2


def test_command_runs_by_itself(cloud: Cloud, tmp_path: Path) -> None:
    """As a process of its own it reads cinder.conf, and says so where the SAN cannot be reached."""
    del cloud
    path = tmp_path / "cinder.conf"
    path.write_text(path.read_text().replace("192.0.2.1", "127.0.0.1\nsan_ssh_port = 1"))
    done = subprocess.run(
        [sys.executable, "-m", "zolder.cli.command", "orphans", "--config-file", str(path)],
        capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, "could not be looked at" in done.stdout) == (2, True), done.stderr
    assert not done.stderr
