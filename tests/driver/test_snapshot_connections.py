"""Snapshots that are read as they are: what a backup from a snapshot asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cinder import exception, objects

from tests.driver.conftest import PARENT, connector_of, new_snapshot, new_volume
from zolder.cinder.driver import ZolderDriver
from zolder.errors import ConnectionLost
from zolder.fake import FakeStorage
from zolder.model import Change, Export

ONE = connector_of("one")
MakeDriver = Callable[..., ZolderDriver]


def snapshot_on(driver: ZolderDriver) -> objects.Snapshot:
    """Return a snapshot that the SAN has."""
    volume = new_volume()
    volume.update(driver.create_volume(volume))
    snapshot = new_snapshot(volume)
    driver.create_snapshot(snapshot)
    return snapshot


def describe(driver: ZolderDriver, snapshot: objects.Snapshot) -> None:
    """Keep what the driver says of a snapshot's export (VolumeManager.initialize_connection_snapshot)."""
    if update := driver.create_export_snapshot(None, snapshot, ONE):
        snapshot.provider_location = update.get("provider_location", None)
        snapshot.provider_auth = update.get("provider_auth", None)


def attach(driver: ZolderDriver, snapshot: objects.Snapshot) -> dict[str, Any]:
    """Do what Cinder's manager does; the connector came over RPC and is dropped."""
    driver.validate_connector(dict(ONE))
    describe(driver, snapshot)
    data: dict[str, Any] = driver.initialize_connection_snapshot(snapshot, dict(ONE))["data"]
    return data


def test_a_snapshot_is_read_through_a_view(driver: ZolderDriver, san: FakeStorage) -> None:
    """It has a target of its own, read only, and the volume's is not touched."""
    snapshot = snapshot_on(driver)
    data = attach(driver, snapshot)
    iqn = f"iqn.2010-10.org.openstack:zolder-view-{snapshot.id}"
    assert (data["target_iqn"], data["access_mode"], data["volume_id"]) == (iqn, "ro", snapshot.id)
    assert snapshot.provider_location == f"192.0.2.1:3260,1 {iqn} 0"
    [export] = san.list_exports(PARENT)
    assert (export.target, export.initiators) == (iqn, (ONE["initiator"],))


def test_the_view_goes_with_the_reader(driver: ZolderDriver, san: FakeStorage) -> None:
    """Cinder terminates, then removes the export; a repeat of either finds nothing to do."""
    snapshot = snapshot_on(driver)
    attach(driver, snapshot)
    for _ in range(2):
        driver.terminate_connection_snapshot(snapshot, dict(ONE), force=False)
        assert san.list_exports(PARENT) == ()
        driver.remove_export_snapshot(None, snapshot)
    driver.delete_snapshot(snapshot)
    assert san.list_snapshots(PARENT) == ()


@pytest.mark.parametrize("forced", [False, True])
def test_what_a_failed_backup_left_goes(driver: ZolderDriver, san: FakeStorage, *, forced: bool) -> None:
    """remove_export_snapshot closes it to all, and so does a terminate_connection without a connector."""
    snapshot = snapshot_on(driver)
    attach(driver, snapshot)
    if forced:
        driver.terminate_connection_snapshot(snapshot, None, force=True)
    else:
        driver.remove_export_snapshot(None, snapshot)
    assert san.list_exports(PARENT) == ()


def test_what_a_dead_backup_left_goes_with_the_snapshot(driver: ZolderDriver, san: FakeStorage) -> None:
    """Its cleanup deletes the snapshot and ends no connection; then nothing keeps the volume."""
    snapshot = snapshot_on(driver)
    attach(driver, snapshot)
    for _ in range(2):
        driver.delete_snapshot(snapshot)
    assert san.list_exports(PARENT) == ()
    assert san.list_attachments(PARENT) == ()
    driver.delete_volume(snapshot.volume)
    assert san.list_zvols(PARENT) == ()


def test_a_snapshot_has_a_secret_of_its_own(make_driver: MakeDriver) -> None:
    """It is made with the first export, kept with the second, and is not the volume's."""
    driver = make_driver("use_chap_auth = true")
    snapshot = snapshot_on(driver)
    first = attach(driver, snapshot)
    auth = snapshot.provider_auth
    assert auth.startswith(f"CHAP zolder-view-{snapshot.id} ")
    assert auth != snapshot.volume.provider_auth
    assert first["auth_method"] == "CHAP"
    assert attach(driver, snapshot) == first
    assert snapshot.provider_auth == auth


def test_a_new_place_does_not_clear_the_secret(make_driver: MakeDriver) -> None:
    """Cinder's manager takes a field that is left out for None."""
    snapshot = snapshot_on(make_driver())
    describe(make_driver("use_chap_auth = true"), snapshot)
    auth = snapshot.provider_auth
    describe(make_driver("target_ip_address = 192.0.2.7"), snapshot)
    assert snapshot.provider_location.startswith("192.0.2.7:3260,")
    assert snapshot.provider_auth == auth


def test_chap_is_never_dropped(make_driver: MakeDriver, san: FakeStorage) -> None:
    """A snapshot without a secret is not opened where CHAP is asked for."""
    driver = make_driver("use_chap_auth = true")
    snapshot = snapshot_on(driver)
    with pytest.raises(exception.VolumeBackendAPIException, match="not exported without"):
        driver.initialize_connection_snapshot(snapshot, dict(ONE))
    assert san.list_exports(PARENT) == ()


def test_an_absent_snapshot_is_said_in_cinders_words(driver: ZolderDriver) -> None:
    """The backup's error names the snapshot."""
    snapshot = snapshot_on(driver)
    driver.delete_snapshot(snapshot)
    with pytest.raises(exception.SnapshotNotFound, match=snapshot.id):
        driver.initialize_connection_snapshot(snapshot, dict(ONE))


def test_what_a_lost_answer_opened_is_closed_again(make_driver: MakeDriver) -> None:
    """The view does not stay behind."""

    class Losing(FakeStorage):
        def export_snapshot(self, *args: Any, **kwargs: Any) -> Change[Export]:  # noqa: ANN401 - passed on
            super().export_snapshot(*args, **kwargs)
            message = "the line was cut"
            raise ConnectionLost(message)

    losing = Losing((PARENT,))
    driver = make_driver(storage=losing)
    snapshot = snapshot_on(driver)
    with pytest.raises(exception.VolumeBackendAPIException, match="cut"):
        attach(driver, snapshot)
    assert losing.list_exports(PARENT) == ()
