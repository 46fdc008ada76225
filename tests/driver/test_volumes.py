"""Volumes, snapshots and clones: what Cinder asks for is what the SAN then holds."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from cinder import exception

from tests.driver.conftest import PARENT, new_snapshot, new_volume
from zolder.cinder.driver import ZolderDriver
from zolder.errors import BackendError, Busy, Error, PoolSuspended
from zolder.fake import FakeStorage
from zolder.names import VolumeId, ZvolName

GIB = 2**30


def test_a_volume_is_a_zvol_of_its_size(driver: ZolderDriver, san: FakeStorage) -> None:
    """Its name is Cinder's, its mark the volume's id."""
    volume = new_volume(3)
    driver.create_volume(volume)
    [zvol] = san.list_zvols(PARENT)
    assert zvol.name == f"volume-{volume.id}"
    assert (zvol.volume_id, zvol.volsize_bytes, zvol.sparse) == (volume.id, 3 * GIB, True)


def test_thick_volumes_where_they_are_asked_for(
    make_driver: Callable[..., ZolderDriver], san: FakeStorage
) -> None:
    """``san_thin_provision = false`` reserves the space."""
    make_driver("san_thin_provision = false").create_volume(new_volume())
    assert not san.list_zvols(PARENT)[0].sparse


def test_creating_twice_is_creating_once(driver: ZolderDriver, san: FakeStorage) -> None:
    """Cinder may ask again after a restart."""
    volume = new_volume()
    driver.create_volume(volume)
    driver.create_volume(volume)
    assert len(san.list_zvols(PARENT)) == 1


def test_a_migrated_volume_goes_by_its_name_id(driver: ZolderDriver, san: FakeStorage) -> None:
    """After a migration the zvol keeps the name that it was created with."""
    name_id = str(uuid.uuid4())
    volume = new_volume(_name_id=name_id)
    driver.create_volume(volume)
    assert [zvol.name for zvol in san.list_zvols(PARENT)] == [f"volume-{name_id}"]
    driver.delete_volume(volume)
    assert not san.list_zvols(PARENT)


def test_deleting_what_is_proven_absent_succeeds(driver: ZolderDriver) -> None:
    """Cinder deletes volumes whose creation failed, too."""
    driver.delete_volume(new_volume())


def test_an_exported_zpool_is_never_taken_for_absence(driver: ZolderDriver, san: FakeStorage) -> None:
    """Deleting while the zpool is away fails, and nothing is forgotten; so does everything else."""
    volume = new_volume()
    driver.create_volume(volume)
    snapshot = new_snapshot(volume)
    driver.create_snapshot(snapshot)
    san.imported = False
    with pytest.raises(exception.VolumeBackendAPIException, match="not imported"):
        driver.delete_volume(volume)
    with pytest.raises(exception.VolumeBackendAPIException, match="not imported"):
        driver.delete_snapshot(snapshot)
    san.imported = True
    assert len(san.list_zvols(PARENT)) == 1


def test_a_volume_with_a_snapshot_is_busy(driver: ZolderDriver, san: FakeStorage) -> None:
    """Cinder keeps it available, and its log names what holds it."""
    volume = new_volume()
    driver.create_volume(volume)
    san.plant_foreign_snapshot(PARENT, ZvolName(volume.name), "autosnap")
    with pytest.raises(exception.VolumeIsBusy, match="autosnap"):
        driver.delete_volume(volume)
    assert len(san.list_zvols(PARENT)) == 1


def test_extending_grows_the_zvol(driver: ZolderDriver, san: FakeStorage) -> None:
    """The new size is Cinder's, in GiB; a smaller one is refused and changes nothing."""
    volume = new_volume(1)
    driver.create_volume(volume)
    driver.extend_volume(volume, 5)
    assert san.list_zvols(PARENT)[0].volsize_bytes == 5 * GIB
    with pytest.raises(exception.VolumeBackendAPIException, match="never shrunk"):
        driver.extend_volume(volume, 2)
    assert san.list_zvols(PARENT)[0].volsize_bytes == 5 * GIB


def test_a_volume_from_a_snapshot_is_its_clone(driver: ZolderDriver, san: FakeStorage) -> None:
    """It depends on the snapshot, has its own name and may be larger."""
    source = new_volume(1)
    driver.create_volume(source)
    snapshot = new_snapshot(source)
    driver.create_snapshot(snapshot)
    clone = new_volume(2)
    driver.create_volume_from_snapshot(clone, snapshot)
    zvol = san.get_zvol(PARENT, ZvolName(clone.name))
    assert zvol.origin == f"{PARENT}/{source.name}@snapshot-{snapshot.id}"
    assert (zvol.volume_id, zvol.volsize_bytes) == (clone.id, 2 * GIB)


def test_a_snapshot_goes_before_its_clones(driver: ZolderDriver, san: FakeStorage) -> None:
    """Cinder may delete it while volumes made from it live on, and they do."""
    source = new_volume()
    driver.create_volume(source)
    snapshot = new_snapshot(source)
    driver.create_snapshot(snapshot)
    clone = new_volume()
    driver.create_volume_from_snapshot(clone, snapshot)
    driver.delete_snapshot(snapshot)
    driver.delete_snapshot(snapshot)
    assert san.get_zvol(PARENT, ZvolName(clone.name))
    driver.delete_volume(clone)
    driver.delete_volume(source)
    assert not san.list_zvols(PARENT)


def test_a_volume_from_a_volume_is_its_clone(driver: ZolderDriver, san: FakeStorage) -> None:
    """Cinder need not know of the snapshot that this takes."""
    source = new_volume(1)
    driver.create_volume(source)
    clone = new_volume(4)
    driver.create_cloned_volume(clone, source)
    zvol = san.get_zvol(PARENT, ZvolName(clone.name))
    assert zvol.origin is not None
    assert zvol.origin.startswith(f"{PARENT}/{source.name}@")
    assert zvol.volsize_bytes == 4 * GIB


def test_an_absent_source_is_said_in_cinders_words(driver: ZolderDriver) -> None:
    """Cinder then knows that no other back end has it either, and does not reschedule."""
    source = new_volume()
    with pytest.raises(exception.VolumeNotFound):
        driver.create_cloned_volume(new_volume(), source)
    driver.create_volume(source)
    with pytest.raises(exception.SnapshotNotFound):
        driver.create_volume_from_snapshot(new_volume(), new_snapshot(source))


def test_no_space_is_said_with_the_numbers(make_driver: Callable[..., ZolderDriver]) -> None:
    """A thick volume that does not fit names what it needs and what there is."""
    with pytest.raises(
        exception.VolumeBackendAPIException, match=f"{101 * GIB} bytes are needed and {100 * GIB}"
    ):
        make_driver("san_thin_provision = false").create_volume(new_volume(101))


def test_what_is_not_ours_is_left_alone(driver: ZolderDriver, san: FakeStorage) -> None:
    """A zvol of our name that bears no mark is neither taken over nor destroyed."""
    volume = new_volume()
    san.plant_foreign_zvol(PARENT, ZvolName(volume.name))
    for verb in (driver.create_volume, driver.delete_volume):
        with pytest.raises(exception.VolumeBackendAPIException, match="left alone"):
            verb(volume)


class Failing(FakeStorage):
    """A SAN on which deleting fails in a given way."""

    error: Error

    def delete_zvol(self, *_args: object, **_kwargs: object) -> None:  # type: ignore[override]  # it only raises
        """Raise the error."""
        raise self.error


@pytest.mark.parametrize(
    ("error", "expected", "text"),
    [
        (Busy("held by lvm", holders=["lvm"]), exception.VolumeIsBusy, "held by lvm"),
        (PoolSuspended("data has suspended"), exception.VolumeBackendAPIException, "data has suspended"),
        (
            BackendError("zfs destroy failed", exit_status=1, stderr="cannot open"),
            exception.VolumeBackendAPIException,
            "zfs destroy failed (exit_status: 1, stderr: cannot open)",
        ),
    ],
)
def test_errors_become_cinders(
    make_driver: Callable[..., ZolderDriver], error: Error, expected: type[Exception], text: str
) -> None:
    """Each keeps its one sentence; what nobody recognised brings what the SAN said; the cause is kept."""
    failing = Failing((PARENT,))
    failing.error = error
    with pytest.raises(expected) as raised:
        make_driver(storage=failing).delete_volume(new_volume())
    assert str(raised.value) == text
    assert raised.value.__cause__ is error


def test_the_zvol_bears_the_volumes_id(driver: ZolderDriver, san: FakeStorage) -> None:
    """The mark is what its serial derives from, so it must be the id that survives."""
    volume = new_volume()
    driver.create_volume(volume)
    assert san.get_zvol(PARENT, ZvolName(volume.name)).volume_id == VolumeId(volume.name_id)


def test_a_volume_goes_back_to_its_snapshot(driver: ZolderDriver, san: FakeStorage) -> None:
    """Its data are the snapshot's again, without a temporary snapshot of Cinder's, and it keeps its size."""
    volume = new_volume()
    driver.create_volume(volume)
    dataset = f"{PARENT}/volume-{volume.id}"
    san.write_block(dataset, 0, b"before")
    snapshot = new_snapshot(volume)
    driver.create_snapshot(snapshot)
    san.write_block(dataset, 0, b"after")
    assert driver.snapshot_revert_use_temp_snapshot() is False
    driver.revert_to_snapshot(None, volume, snapshot)
    assert san.read_blocks(dataset) == {0: b"before"}
    assert san.get_zvol(PARENT, ZvolName(f"volume-{volume.id}")).volsize_bytes == GIB


def test_a_snapshot_that_is_gone_reverts_nothing(driver: ZolderDriver, san: FakeStorage) -> None:
    """That is said in Cinder's words, and the volume is as it was."""
    volume = new_volume()
    driver.create_volume(volume)
    san.write_block(f"{PARENT}/volume-{volume.id}", 0, b"mine")
    with pytest.raises(exception.SnapshotNotFound):
        driver.revert_to_snapshot(None, volume, new_snapshot(volume))
    assert san.read_blocks(f"{PARENT}/volume-{volume.id}") == {0: b"mine"}


def test_a_volume_goes_before_its_clones(driver: ZolderDriver, san: FakeStorage) -> None:
    """Cinder deletes a source while its copies live: they keep their data."""
    source, copy = new_volume(), new_volume()
    driver.create_volume(source)
    san.write_block(f"{PARENT}/volume-{source.id}", 0, b"shared")
    driver.create_cloned_volume(copy, source)
    driver.delete_volume(source)
    assert san.read_blocks(f"{PARENT}/volume-{copy.id}") == {0: b"shared"}
    driver.delete_volume(copy)
    assert (san.list_zvols(PARENT), san.list_put_aside(PARENT)) == ((), ())
