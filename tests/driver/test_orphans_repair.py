"""What ``zolder orphans --repair`` mends, and what it leaves alone."""

from __future__ import annotations

import io
import sqlite3
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from cinder.db import api as database

from tests.driver.cloud import ADMIN, MACHINE, PARENT, ROUTE, STRANGER, Cloud, name_of
from tests.driver.conftest import lose_exports
from zolder.cinder.chap import chap_for, new_provider_auth
from zolder.cli.finding import Kind
from zolder.model import Access, Chap
from zolder.names import AttachmentId, SnapshotName, VolumeId, ZvolName


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
    cloud.san.meanwhile["export_zvol"] = lambda: database.attachment_destroy(ADMIN, row)
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
        chap=chap_for(secret, ROUTE, access.zvol, MACHINE),
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
    export_snapshot(cloud, volume, snapshot)
    assert cloud.kinds() == [Kind.VIEW_LEFT]
    database.snapshot_update(ADMIN, snapshot, {"status": "backing-up"})
    assert cloud.kinds() == []
    database.snapshot_update(ADMIN, snapshot, {"status": "available"})
    assert cloud.run("--repair", "--yes")[0] == 0
    assert cloud.san.list_attachments(PARENT) == ()
    assert len(cloud.san.list_snapshots(PARENT)) == 1


def export_snapshot(cloud: Cloud, volume: str, snapshot: str) -> None:
    """Let somebody read a snapshot."""
    cloud.san.export_snapshot(
        PARENT, name_of(volume), SnapshotName(f"snapshot-{snapshot}"), MACHINE,
        view_id=VolumeId(snapshot), route=ROUTE, attachment=None, chap=None,
    )  # fmt: skip


@pytest.mark.parametrize("volume_is_deleted", [False, True])
def test_repair_closes_views_of_deleted_snapshots(cloud: Cloud, *, volume_is_deleted: bool) -> None:
    """A view that outlived its snapshot in Cinder goes, and nothing keeps the volume any more."""
    volume = cloud.add_volume()
    snapshot = cloud.add_snapshot(volume)
    export_snapshot(cloud, volume, snapshot)
    cloud.san._snapshots[f"{PARENT}/{name_of(volume)}@snapshot-{snapshot}"].deferred = True
    database.snapshot_destroy(ADMIN, snapshot)
    database.volume_update(ADMIN, volume, {"status": "backing-up"})
    assert cloud.kinds() == [], "the temporary snapshot of a backup that goes on"
    database.volume_update(ADMIN, volume, {"status": "available"})
    if volume_is_deleted:
        database.volume_destroy(ADMIN, volume)
    (finding,) = cloud.findings("--only", Kind.VIEW_LEFT, "--repair", "--yes")
    assert (finding["row"], finding["mended"]) == (snapshot, True)
    assert "Cinder has deleted it" in finding["meaning"]
    assert cloud.san.list_views(PARENT) == ()
    assert cloud.san.delete_zvol(PARENT, name_of(volume)).changed


def test_repair_closes_views_without_a_record(cloud: Cloud) -> None:
    """What an agent left that was killed before it wrote the record is found and goes, too."""
    volume = cloud.add_volume()
    snapshot = cloud.add_snapshot(volume)
    export_snapshot(cloud, volume, snapshot)
    lose_exports(cloud.san)
    assert cloud.san.list_attachments(PARENT) == ()
    (finding,) = cloud.findings("--repair", "--yes")
    assert (finding["kind"], finding["mended"]) == (Kind.VIEW_LEFT, True)
    assert "open to nobody" in finding["meaning"]
    assert cloud.san.list_views(PARENT) == ()
    assert cloud.run()[0] == 0


def test_repair_leaves_the_view_of_a_backup_that_began(cloud: Cloud) -> None:
    """Whoever answers late finds that Cinder reads the volume again, and the view stays."""
    volume = cloud.add_volume()
    snapshot = cloud.add_snapshot(volume)
    export_snapshot(cloud, volume, snapshot)
    database.snapshot_destroy(ADMIN, snapshot)
    begin = lambda: database.volume_update(ADMIN, volume, {"status": "backing-up"})  # noqa: E731 - said once
    assert f"left alone: volume {volume} is backing-up now" in run_with_operator(cloud, "y", begin)[1]
    assert cloud.san.list_views(PARENT) == (snapshot,)


def test_view_that_cinder_never_knew(cloud: Cloud) -> None:
    """Another cloud's view is found and is left to whoever made it."""
    volume, snapshot = cloud.add_volume(), str(uuid.uuid4())
    cloud.san.create_snapshot(PARENT, name_of(volume), SnapshotName(f"snapshot-{snapshot}"))
    export_snapshot(cloud, volume, snapshot)
    (finding,) = cloud.findings("--only", Kind.VIEW_LEFT, "--repair", "--yes")
    assert (finding["repairable"], finding["mended"]) == (False, None)
    assert cloud.san.list_views(PARENT) == (snapshot,)


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
