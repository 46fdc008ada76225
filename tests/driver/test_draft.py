"""The faults of the 2012 draft that were the driver's, each with the test that keeps it away."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
from cinder import exception

import zolder.cinder
import zolder.client
from tests.driver.conftest import PARENT, connector_of, new_snapshot, new_volume
from zolder.cinder.driver import ZolderDriver
from zolder.fake import FakeStorage
from zolder.names import ZvolName


def test_a_clone_is_not_the_snapshot_itself(driver: ZolderDriver, san: FakeStorage) -> None:
    """The draft cloned a snapshot onto the snapshot's own name, and promoted it: the source lost it."""
    source = new_volume()
    driver.create_volume(source)
    snapshot = new_snapshot(source)
    driver.create_snapshot(snapshot)
    clone = new_volume()
    driver.create_volume_from_snapshot(clone, snapshot)
    assert {zvol.name for zvol in san.list_zvols(PARENT)} == {source.name, clone.name}
    assert san.get_zvol(PARENT, ZvolName(source.name)).origin is None, "the source depends on nothing"
    another = new_volume()
    driver.create_volume_from_snapshot(another, snapshot)
    assert san.get_zvol(PARENT, ZvolName(another.name)).origin == f"{PARENT}/{source.name}@{snapshot.name}"


def test_a_failure_is_not_absence(driver: ZolderDriver, san: FakeStorage) -> None:
    """The draft took any failure of `zfs list` for "not there", and Cinder forgot volumes with data."""
    volume = new_volume()
    driver.create_volume(volume)
    san.imported = False
    with pytest.raises(exception.VolumeBackendAPIException):
        driver.delete_volume(volume)


def test_a_volume_that_begins_alike_is_another(driver: ZolderDriver, san: FakeStorage) -> None:
    """The draft asked whether the output *starts with* the name."""
    long, short = new_volume(), new_volume()
    driver.create_volume(long)
    driver.delete_volume(short)
    assert [zvol.name for zvol in san.list_zvols(PARENT)] == [long.name]


def test_targets_that_were_not_ours_are_left_alone(driver: ZolderDriver, san: FakeStorage) -> None:
    """The draft numbered targets from Cinder's database, whatever the SAN had: here each zvol has its own."""
    volumes = [new_volume(), new_volume()]
    for volume in volumes:
        driver.create_volume(volume)
        driver.initialize_connection(volume, connector_of("one"))
    driver.terminate_connection(volumes[0], connector_of("one"))
    assert [export.zvol for export in san.list_exports(PARENT)] == [volumes[1].name]


def test_the_portal_need_not_be_configured(make_driver: Callable[..., ZolderDriver]) -> None:
    """The draft's author had to set iscsi_ip_address, "a result of something mistakenly implemented"."""
    driver = make_driver()
    volume = new_volume()
    driver.create_volume(volume)
    connection = driver.initialize_connection(volume, connector_of("one"))
    assert connection["data"]["target_portal"] == "192.0.2.1:3260"


def test_no_command_is_a_string() -> None:
    """The draft joined words by spaces for a shell on the SAN: nothing here starts a shell or joins words."""
    for package in (zolder.cinder, zolder.client):
        for path in Path(inspect.getfile(package)).parent.glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.keyword):
                    assert node.arg != "shell", path
                if isinstance(node, ast.Attribute):
                    assert node.attr not in {"system", "popen", "getoutput", "getstatusoutput"}, path


def test_it_is_not_run_by_root_on_the_control_node() -> None:
    """No verb of the driver asks for rootwrap or privsep."""
    source = inspect.getsource(inspect.getmodule(ZolderDriver))  # type: ignore[arg-type]  # it has one
    assert "run_as_root" not in source
    assert "_execute" not in source
