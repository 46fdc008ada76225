"""The driver against Cinder's interface, in names and arguments: Cinder's own test compares neither."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
from cinder.interface import util, volume_driver
from cinder.volume import driver as cinder_driver

from tools.support import interfaces
from zolder.cinder.driver import ZolderDriver

CORE = {
    name: method
    for name, method in vars(volume_driver.VolumeDriverCore).items()
    if inspect.isfunction(method) and not name.startswith("_")
}


# What the driver's own classes define, over what Cinder's base class does.
OWN = {
    name: method
    for kind in reversed(ZolderDriver.__mro__)
    if kind.__module__.startswith("zolder.")
    for name, method in vars(kind).items()
}


def methods_of(kind: type) -> dict[str, Callable[..., object]]:
    """Return the methods that a class of cinder/interface declares itself."""
    return {name: method for name, method in vars(kind).items() if inspect.isfunction(method)}


def arguments(method: object) -> list[str]:
    """Return the names of a method's own arguments."""
    signature = inspect.signature(method)  # type: ignore[arg-type]  # a function out of a class's dictionary
    return [
        name
        for name, parameter in signature.parameters.items()
        if name != "self" and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]


def test_cinder_finds_the_driver() -> None:
    """It is registered as a volume driver, with what Cinder's documentation shows of it."""
    found = [entry for entry in util.get_volume_drivers() if entry.cls is ZolderDriver]
    assert [entry.class_fqn for entry in found] == ["zolder.cinder.driver.ZolderDriver"]
    assert issubclass(ZolderDriver, volume_driver.VolumeDriverCore)


@pytest.mark.parametrize("name", sorted(CORE))
def test_every_core_method_takes_what_the_interface_gives(name: str) -> None:
    """What has no default is given by position, the rest by name; some are attributes in Cinder itself."""
    found = inspect.getattr_static(ZolderDriver, name)
    if isinstance(found, property):
        return
    parameters = inspect.signature(CORE[name]).parameters
    optional = {
        arg: None for arg in arguments(CORE[name]) if parameters[arg].default is not inspect.Parameter.empty
    }
    needed = [arg for arg in arguments(CORE[name]) if arg not in optional]
    inspect.signature(getattr(ZolderDriver, name)).bind(None, *needed, **optional)


@pytest.mark.parametrize("kind", interfaces(), ids=lambda kind: kind.__name__)
def test_an_interface_is_implemented_whole_or_not_at_all(kind: type) -> None:
    """Of each class of cinder/interface the driver defines all methods, under the same arguments, or none.

    What the core has is compared above, for Cinder's own base class does part of it.
    """
    methods = methods_of(kind)
    claimed = methods.keys() & OWN.keys()
    if kind is volume_driver.VolumeDriverCore:
        assert claimed
        return
    assert claimed in (set(), methods.keys())
    for name in claimed:
        assert arguments(OWN[name]) == arguments(methods[name]), name


def test_the_interfaces_that_are_claimed() -> None:
    """Those of groups, and of managing volumes and snapshots with their lists."""
    claimed = {kind.__name__ for kind in interfaces() if methods_of(kind).keys() & OWN.keys()}
    assert claimed >= {
        "VolumeDriverCore",
        "VolumeGroupDriver",
        "VolumeManagementDriver",
        "VolumeListManageableDriver",
        "VolumeSnapshotManagementDriver",
    }
    assert "VolumeConsistencyGroupDriver" not in claimed


def test_what_is_overridden_has_the_base_classs_arguments() -> None:
    """The manager calls some hooks by keyword, so the names count."""
    for name, method in OWN.items():
        base = getattr(cinder_driver.VolumeDriver, name, None)
        if inspect.isfunction(method) and base is not None and not name.startswith("__"):
            assert arguments(method) == arguments(base), name


def test_the_managers_own_calls_bind() -> None:
    """As cinder/volume/manager.py of version 29 writes them."""
    calls: list[tuple[str, tuple[object, ...], dict[str, object]]] = [
        ("initialize_connection", ("volume", "connector"), {}),
        ("terminate_connection", ("volume", "connector"), {"force": False}),
        ("terminate_connection", ("volume", None), {"force": True}),
        ("create_export", ("context", "volume", "connector"), {}),
        ("remove_export", ("context", "volume"), {}),
        ("ensure_export", ("context", "volume"), {}),
        ("update_provider_info", ("volumes", "snapshots"), {}),
        ("create_export_snapshot", ("context", "snapshot", "connector"), {}),
        ("initialize_connection_snapshot", ("snapshot", "connector"), {}),
        ("terminate_connection_snapshot", ("snapshot", "connector"), {"force": False}),
        ("remove_export_snapshot", ("context", "snapshot"), {}),
        ("extend_volume", ("volume", 2), {}),
        ("revert_to_snapshot", ("context", "volume", "snapshot"), {}),
        ("create_group", ("context", "group"), {}),
        ("update_group", ("context", "group"), {"add_volumes": [], "remove_volumes": []}),
        ("delete_group", ("context", "group", []), {}),
        ("create_group_snapshot", ("context", "group_snapshot", []), {}),
        ("delete_group_snapshot", ("context", "group_snapshot", []), {}),
        ("create_group_from_src", ("context", "group", [], None, None, "source", []), {}),
        ("manage_existing", ("volume", {}), {}),
        ("manage_existing_get_size", ("volume", {}), {}),
        ("unmanage", ("volume",), {}),
        ("get_manageable_volumes", ([], None, 1, 0, [], []), {}),
        ("manage_existing_snapshot", (), {"snapshot": "snapshot", "existing_ref": {}}),
        ("manage_existing_snapshot_get_size", (), {"snapshot": "snapshot", "existing_ref": {}}),
        ("unmanage_snapshot", ("snapshot",), {}),
        ("get_manageable_snapshots", ([], None, 1, 0, [], []), {}),
        ("get_volume_stats", (), {"refresh": True}),
        ("migrate_volume", ("context", "volume", {"host": "one@two#three"}), {}),
        ("update_migrated_volume", ("context", "volume", "new_volume", "available"), {}),
        ("retype", ("context", "volume", "new_type", {}, {"host": "one@two#three"}), {}),
    ]
    for name, positional, keywords in calls:
        inspect.signature(getattr(ZolderDriver, name)).bind(None, *positional, **keywords)


def test_what_the_driver_does_not_do_it_does_not_pretend() -> None:
    """A stub that lies loses data: what is not overridden is Cinder's own honest default."""
    for name in ("failover_host", "failover", "failover_completed"):
        assert name not in OWN


def test_several_may_serve_one_back_end() -> None:
    """Cinder starts no driver in a cluster without this word; docs/cluster.md says what backs it."""
    assert ZolderDriver.SUPPORTS_ACTIVE_ACTIVE is True
