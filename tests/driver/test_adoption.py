"""Manage and unmanage, through Cinder's own manager and flows over its own database."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from cinder import exception, objects
from cinder.db import api as db_api
from cinder.volume.flows.manager import manage_existing

from tests.driver.conftest import PARENT, connector_of
from tests.driver.test_records import BACKEND, Cinder, Database, database
from zolder.cinder.driver import ZolderDriver
from zolder.fake import FakeStorage
from zolder.names import SnapshotName, ZvolName

__all__ = ["database"]  # a fixture is found by its name here
GIB = 2**30
OLD = ZvolName("old-disk")
BLOCK = b"x" * 4096


class Managing(Cinder):
    """Cinder's manager, asked to manage what the SAN has."""

    def __init__(self, driver: ZolderDriver) -> None:
        """Leave out what goes to others."""
        super().__init__(driver)
        self.manager.stats = {"allocated_capacity_gb": 0, "pools": {}}
        for name in ("_notify_about_snapshot_usage", "publish_service_capabilities"):
            setattr(self.manager, name, lambda *_, **__: None)

    def row(self, status: str = "managing", host: str = f"{BACKEND}#{PARENT}") -> objects.Volume:
        """Make the row that the API makes."""
        kind = db_api.volume_type_create(self.context, {"name": uuid.uuid4().hex, "extra_specs": {}})
        volume = objects.Volume(
            self.context,
            size=0,
            host=host,
            status=status,
            attach_status="detached",
            project_id=self.context.project_id,
            user_id=uuid.uuid4().hex,
            volume_type_id=kind["id"],
        )
        volume.create()
        return volume

    def manage(self, reference: dict[str, Any]) -> objects.Volume:
        """Manage a zvol by the two tasks of Cinder's flow that ask the driver."""
        volume = self.row()
        tasks = (manage_existing.PrepareForQuotaReservationTask, manage_existing.ManageExistingTask)
        size = tasks[0](db_api, self.manager.driver).execute(self.context, volume, reference)["size"]
        tasks[1](db_api, self.manager.driver).execute(self.context, volume, reference, size)
        volume.update({"status": "available"})
        volume.save()
        return volume

    def snapshot_row(self, volume: objects.Volume) -> objects.Snapshot:
        """Make the row of a snapshot."""
        snapshot = objects.Snapshot(
            self.context,
            volume_id=volume.id,
            volume_size=volume.size,
            status="available",
            project_id=self.context.project_id,
            user_id=uuid.uuid4().hex,
            volume_type_id=volume.volume_type_id,
        )
        snapshot.create()
        return objects.Snapshot.get_by_id(self.context, snapshot.id)

    def volumes(self, **paging: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - Cinder's
        """List what could be managed, as the manager does."""
        asked = {"marker": None, "limit": 100, "offset": 0, "sort_keys": ["reference"], "sort_dirs": ["asc"]}
        return list(self.manager.get_manageable_volumes(self.context, **(asked | paging)))

    def snapshots(self) -> list[dict[str, Any]]:
        """List the snapshots that could be managed."""
        return list(self.manager.get_manageable_snapshots(self.context, None, 100, 0, ["reference"], ["asc"]))


@pytest.fixture
def cinder(make_driver: Callable[..., ZolderDriver], database: Database) -> Managing:  # noqa: ARG001 - it stands below
    """A Cinder with nothing but ``san_ip`` configured."""
    return Managing(make_driver())


def named(name: str) -> dict[str, str]:
    """Return a reference."""
    return {"source-name": name}


@pytest.mark.parametrize("reference", [OLD, f"{PARENT}/{OLD}"])
def test_a_volume_is_managed(cinder: Managing, san: FakeStorage, reference: str) -> None:
    """The zvol gets Cinder's name and whole GiB, keeps its data, and Cinder gets its size and place."""
    san.plant_foreign_zvol(PARENT, OLD, volsize_bytes=GIB + 2**20)
    san.write_block(f"{PARENT}/{OLD}", 7, BLOCK)
    volume = cinder.manage(named(reference))
    [zvol] = san.list_zvols(PARENT)
    assert (zvol.name, zvol.volume_id, zvol.volsize_bytes) == (volume.name, volume.id, 2 * GIB)
    assert san.read_blocks(f"{PARENT}/{volume.name}") == {7: BLOCK}
    assert volume.size == 2
    assert volume.provider_location


def test_a_volume_is_given_back(cinder: Managing, san: FakeStorage) -> None:
    """Unmanaged by Cinder's manager it is closed, nobody's, under the same name, and can be managed again."""
    san.plant_foreign_zvol(PARENT, OLD)
    volume = cinder.manage(named(OLD))
    name = volume.name
    san.write_block(f"{PARENT}/{name}", 0, BLOCK)
    cinder.attach(volume, connector_of("one"))
    volume.update({"status": "unmanaging", "attach_status": "detached"})
    volume.save()
    cinder.manager.delete_volume(cinder.context, volume, unmanage_only=True)
    assert san.list_zvols(PARENT) == ()
    assert san.list_exports(PARENT) == ()
    again = cinder.manage(named(name))
    assert san.read_blocks(f"{PARENT}/{again.name}") == {0: BLOCK}


@pytest.mark.parametrize("adopted", [True, False])
def test_deleting_what_could_not_be_managed_deletes_no_data(
    cinder: Managing, san: FakeStorage, *, adopted: bool
) -> None:
    """Cinder deletes a volume whose management it took for failed, and the zvol is given back instead."""
    san.plant_foreign_zvol(PARENT, OLD)
    volume = cinder.manage(named(OLD)) if adopted else cinder.row()
    volume.update({"status": "error_managing_deleting"})
    volume.save()
    cinder.manager.delete_volume(cinder.context, volume)
    assert san.list_zvols(PARENT) == ()
    assert [found.volume_id for found in san.list_found_zvols(PARENT)] == [None]
    with pytest.raises(exception.VolumeNotFound):
        objects.Volume.get_by_id(cinder.context, volume.id)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ({}, "needs a source-name"),
        ({"source-id": "7"}, "needs a source-name"),
        (named("absent"), f"{PARENT}/absent does not exist"),
        (named("Old_Disk"), "is not of the form"),
        (named("../volume"), "is not that pool's parent"),
        (named(f"fast/volumes/{OLD}"), f"'zfs rename fast/volumes/{OLD} {PARENT}/{OLD}' first"),
    ],
)
def test_references_that_will_not_do(cinder: Managing, reference: dict[str, str], reason: str) -> None:
    """They are refused before Cinder reserves a quota, in Cinder's own words."""
    with pytest.raises(exception.ManageExistingInvalidReference) as refused:
        cinder.manager.driver.manage_existing_get_size(cinder.row(), reference)
    assert reason in str(refused.value)


def test_a_volume_of_cinders_is_not_managed_again(cinder: Managing, san: FakeStorage) -> None:
    """Neither this back end's nor another's, by its id or by the name that a migration left it."""
    volume = cinder.new_volume()
    with pytest.raises(exception.ManageExistingInvalidReference, match=f"is volume {volume.id} of"):
        cinder.manage(named(volume.name))
    migrated = cinder.row(host="control@other#pool")
    name_id = volume.id
    volume.destroy()
    migrated.update({"_name_id": name_id})
    migrated.save()
    with pytest.raises(exception.ManageExistingInvalidReference, match=f"is volume {migrated.id}"):
        cinder.manage(named(f"volume-{name_id}"))
    [found] = san.list_found_zvols(PARENT)
    assert found.volume_id == name_id


def test_a_volume_that_cinder_has_lost(cinder: Managing, san: FakeStorage) -> None:
    """One whose mark no back end of this Cinder knows, as after a lost database, becomes the new volume."""
    lost = cinder.new_volume()
    name = lost.name
    lost.destroy()
    [entry] = cinder.volumes()
    assert entry["safe_to_manage"]
    assert f"marked as volume {lost.id}" in entry["extra_info"]
    volume = cinder.manage(named(name))
    [zvol] = san.list_zvols(PARENT)
    assert (zvol.name, zvol.volume_id) == (volume.name, volume.id)


def test_what_is_exported_is_not_managed(cinder: Managing, san: FakeStorage) -> None:
    """The list says why, and managing refuses with the same words."""
    lost = cinder.new_volume()
    name = lost.name
    cinder.attach(lost, connector_of("one"))
    objects.Volume.get_by_id(cinder.context, lost.id).destroy()
    [entry] = cinder.volumes()
    assert not entry["safe_to_manage"]
    assert "is exported: detach it first" in entry["reason_not_safe"]
    with pytest.raises(exception.ManageExistingInvalidReference, match="is exported: detach it first"):
        cinder.manage(named(name))
    assert san.list_attachments(PARENT)


def test_the_list_of_volumes(cinder: Managing, san: FakeStorage) -> None:
    """It has every zvol with its size, whose it is and what keeps it, and pages as Cinder does."""
    mine = cinder.new_volume()
    other = cinder.new_volume()
    other.update({"host": "control@other#pool"})
    other.save()
    for number in range(3):
        san.plant_foreign_zvol(PARENT, ZvolName(f"old-{number}"), volsize_bytes=(number + 1) * GIB - 1)
    entries = {entry["reference"]["source-name"]: entry for entry in cinder.volumes()}
    assert len(entries) == 5
    assert entries["old-1"] == {
        "reference": named("old-1"),
        "size": 2,
        "safe_to_manage": True,
        "reason_not_safe": None,
        "cinder_id": None,
        "extra_info": None,
    }
    assert (entries[mine.name]["cinder_id"], entries[mine.name]["reason_not_safe"]) == (
        mine.id,
        "already managed",
    )
    assert entries[other.name]["cinder_id"] == other.id
    assert "another back end" in entries[other.name]["reason_not_safe"]
    first = cinder.volumes(limit=2, sort_keys=["size"], sort_dirs=["desc"])
    assert [entry["size"] for entry in first] == [3, 2]
    marker = json.dumps(first[-1]["reference"])
    rest = cinder.volumes(limit=9, marker=marker, sort_keys=["size"], sort_dirs=["desc"])
    assert [entry["size"] for entry in rest] == [1, 1, 1]
    objects.ManageableVolumeList.from_primitives(cinder.context, list(entries.values()))


@pytest.mark.parametrize("form", ["autosnap", "{name}@autosnap", f"{PARENT}/{{name}}@autosnap"])
def test_a_snapshot_is_managed(cinder: Managing, san: FakeStorage, form: str) -> None:
    """The manager names both arguments; the snapshot gets Cinder's name, and is deleted like any other."""
    volume = cinder.new_volume()
    san.plant_foreign_snapshot(PARENT, ZvolName(volume.name), "autosnap")
    reference = named(form.format(name=volume.name))
    snapshot = cinder.snapshot_row(volume)
    driver = cinder.manager.driver
    assert driver.manage_existing_snapshot_get_size(snapshot=snapshot, existing_ref=reference) == 1
    driver.manage_existing_snapshot(snapshot=snapshot, existing_ref=reference)
    assert [one.name for one in san.list_snapshots(PARENT)] == [snapshot.name]
    [entry] = cinder.snapshots()
    assert (entry["cinder_id"], entry["reason_not_safe"]) == (snapshot.id, "already managed")
    driver.unmanage_snapshot(snapshot)
    assert san.list_snapshots(PARENT) == ()
    driver.manage_existing_snapshot(snapshot=snapshot, existing_ref=named(snapshot.name))
    driver.delete_snapshot(snapshot)
    assert san.list_found_snapshots(PARENT, None) == ()


def test_snapshots_that_are_not_managed(cinder: Managing, san: FakeStorage) -> None:
    """Another volume's, an absent one and one that Cinder has already are refused with the reason."""
    volume, other = cinder.new_volume(), cinder.new_volume()
    san.plant_foreign_snapshot(PARENT, ZvolName(volume.name), "autosnap")
    san.create_snapshot(PARENT, ZvolName(volume.name), SnapshotName("snapshot-known"))
    driver, snapshot = cinder.manager.driver, cinder.snapshot_row(volume)
    for name, reason in (
        (f"{other.name}@autosnap", "is not the volume that was named"),
        ("absent", "@absent does not exist"),
        ("snapshot-known", "is a snapshot of Cinder's already"),
    ):
        with pytest.raises(exception.ManageExistingInvalidReference, match=reason):
            driver.manage_existing_snapshot_get_size(snapshot=snapshot, existing_ref=named(name))
        with pytest.raises(exception.ManageExistingInvalidReference, match=reason):
            driver.manage_existing_snapshot(snapshot=snapshot, existing_ref=named(name))


def test_the_list_of_snapshots(cinder: Managing, san: FakeStorage) -> None:
    """It has those of this back end's volumes, each with its volume and what keeps it."""
    volume = cinder.new_volume()
    san.plant_foreign_snapshot(PARENT, ZvolName(volume.name), "autosnap")
    san.create_snapshot(PARENT, ZvolName(volume.name), SnapshotName("snapshot-lost"))
    entries = {entry["reference"]["source-name"]: entry for entry in cinder.snapshots()}
    assert entries["autosnap"] == {
        "reference": named("autosnap"),
        "size": 1,
        "safe_to_manage": True,
        "reason_not_safe": None,
        "cinder_id": None,
        "extra_info": None,
        "source_reference": named(volume.name),
    }
    assert "zolder orphans" in entries["snapshot-lost"]["reason_not_safe"]
    objects.ManageableSnapshotList.from_primitives(cinder.context, list(entries.values()))


def test_a_volume_with_snapshots_is_not_given_back(cinder: Managing, san: FakeStorage) -> None:
    """Its snapshots would be Cinder's and its zvol nobody's; they are named."""
    volume = cinder.new_volume()
    san.create_snapshot(PARENT, ZvolName(volume.name), SnapshotName("snapshot-known"))
    with pytest.raises(exception.VolumeIsBusy, match="snapshot-known"):
        cinder.manager.driver.unmanage(volume)


@pytest.mark.parametrize("status", ["deleting", "error_managing_deleting"])
def test_what_was_cut_behind_the_adoption_is_given_back(
    cinder: Managing, san: FakeStorage, status: str
) -> None:
    """A row without a size, whatever its status became, was never more than somebody else's zvol."""
    san.plant_foreign_zvol(PARENT, OLD)
    volume = cinder.row(status=status)
    cinder.manager.driver.manage_existing(volume, named(OLD))
    cinder.manager.delete_volume(cinder.context, volume)
    assert [found.volume_id for found in san.list_found_zvols(PARENT)] == [None]


def test_a_type_holds_for_what_is_managed(cinder: Managing, san: FakeStorage) -> None:
    """A managed volume gets what its type says, and one whose blocks are others is refused."""
    for words, fits in (
        ({"zolder:compression": "zstd"}, True),
        ({"zolder:volblocksize": "64k"}, False),
    ):
        san.plant_foreign_zvol(PARENT, OLD, sparse=False)
        volume = cinder.row()
        volume.volume_type.extra_specs = words
        if not fits:
            with pytest.raises(exception.ManageExistingVolumeTypeMismatch, match="volblocksize"):
                cinder.manager.driver.manage_existing(volume, named(OLD))
            continue
        cinder.manager.driver.manage_existing(volume, named(OLD))
        managed = san.get_zvol(PARENT, ZvolName(volume.name))
        assert (managed.properties.compression, managed.sparse) == ("zstd", False), "no word of thin"
