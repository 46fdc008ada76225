"""Attaching by NVMe over TCP: what os-brick's own connector makes of what the driver says."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from cinder import exception, objects
from os_brick.initiator import connector as brick
from os_brick.initiator.connectors import nvmeof

from tests.driver.conftest import PARENT, connector_of, lose_exports, new_snapshot, new_volume
from tests.driver.manager import attach, detach
from zolder.cinder.driver import ZolderDriver
from zolder.cinder.reconciliation import Sent
from zolder.fake import FakeStorage
from zolder.names import InitiatorName, TargetPrefix, ZvolName, subsystem_name

ONE = connector_of("one")
TWO = connector_of("two")
LINES = "target_protocol = nvmet_tcp\n"


@pytest.fixture
def driver(make_driver: Callable[..., ZolderDriver]) -> ZolderDriver:
    """A driver with two portals, one of IPv6."""
    return make_driver(f"{LINES}target_secondary_ip_addresses = 2001:db8::7")


@pytest.fixture
def volume(driver: ZolderDriver) -> objects.Volume:
    """A volume that the SAN has, and that was migrated once."""
    made = new_volume(_name_id=str(uuid.uuid4()))
    driver.create_volume(made)
    return made


def understood(data: dict[str, Any]) -> nvmeof.Target:
    """Return what os-brick reads out of the properties when they have come through Cinder's API."""
    properties = nvmeof.NVMeOFConnProps(json.loads(json.dumps(data)))
    assert properties.is_replicated is False
    [target] = properties.targets
    return target


def test_os_brick_understands_it(driver: ZolderDriver, volume: objects.Volume) -> None:
    """The subsystem, every portal in nvme-cli's spelling, and the UUID by which the namespace is found."""
    target = understood(attach(driver, volume, ONE))
    prefix = TargetPrefix("iqn.2010-10.org.openstack:")
    assert target.nqn == subsystem_name(prefix, ZvolName(volume.name), InitiatorName(ONE["nqn"]))
    assert [(portal.address, portal.port, portal.transport) for portal in target.portals] == [
        ("192.0.2.1", "4420", "tcp"),
        ("2001:db8::7", "4420", "tcp"),
    ]
    assert target.uuid == volume.name_id != volume.id
    assert target.devices_on_start is None, "it does not guess by which devices are new"


def test_nova_is_told_what_every_connection_has(driver: ZolderDriver, volume: objects.Volume) -> None:
    """The volume by its own id, writable, and with discard."""
    data = attach(driver, volume, ONE)
    assert (data["volume_id"], data["access_mode"], data["discard"]) == (volume.id, "rw", True)
    properties = nvmeof.NVMeOFConnProps(dict(data))
    assert (properties.readonly, properties.discard) == (False, True)
    assert "auth_method" not in data


def test_os_brick_has_a_connector_for_it(driver: ZolderDriver, volume: objects.Volume) -> None:
    """The driver_volume_type is the name under which os-brick knows NVMe over fabrics."""
    attach(driver, volume, ONE)
    kind = volume.volume_attachment[0].connection_info["driver_volume_type"]
    assert isinstance(brick.InitiatorConnector.factory(kind, None), nvmeof.NVMeOFConnector)


def test_each_initiator_has_a_subsystem(
    driver: ZolderDriver, san: FakeStorage, volume: objects.Volume
) -> None:
    """The location is true of both: it names what their NQNs have in common, and the namespace."""
    targets = [understood(attach(driver, volume, machine)).nqn for machine in (ONE, TWO)]
    assert len(set(targets)) == 2
    portals, transport, common, namespace = volume.provider_location.split()
    assert (portals, transport, namespace) == ("192.0.2.1:4420;[2001:db8::7]:4420", "tcp", "1")
    assert all(target.startswith(f"{common}:") for target in targets)
    assert detach(driver, volume, ONE) is True
    assert [export.initiators for export in san.list_exports(PARENT)] == [(TWO["nqn"],)]
    assert detach(driver, volume, TWO) is False


def test_a_host_nqn_is_taken_as_it_is(driver: ZolderDriver, san: FakeStorage, volume: objects.Volume) -> None:
    """The kernel compares NQNs letter by letter."""
    attach(driver, volume, ONE | {"nqn": "nqn.2014-08.org.nvmexpress:uuid:ABCDEF"})
    [export] = san.list_exports(PARENT)
    assert export.initiators == ("nqn.2014-08.org.nvmexpress:uuid:ABCDEF",)


@pytest.mark.parametrize(
    ("connector", "sentence"),
    [
        ({"initiator": ONE["initiator"]}, "nqn: nvme-cli has to be installed there"),
        ({"nqn": ""}, "/etc/nvme/hostnqn"),
        ({"nqn": ONE["initiator"]}, "which iqn.2004-10.org.example:one is not"),
        ({"nqn": "nqn.x"}, "is not of the form"),
    ],
)
def test_a_machine_without_nvme_is_refused(
    driver: ZolderDriver, connector: dict[str, str], sentence: str
) -> None:
    """The operator reads what that machine lacks."""
    with pytest.raises(exception.InvalidConnectorException, match=sentence):
        driver.validate_connector(connector)


def test_a_snapshot_is_found_by_its_own_uuid(driver: ZolderDriver, volume: objects.Volume) -> None:
    """Its clone's namespace bears the snapshot's id, and is read only."""
    snapshot = new_snapshot(volume)
    driver.create_snapshot(snapshot)
    data = driver.initialize_connection_snapshot(snapshot, dict(ONE))["data"]
    assert understood(data).uuid == snapshot.id
    assert nvmeof.NVMeOFConnProps(dict(data)).readonly is True


def test_a_secret_of_iscsis_time_is_not_sent(
    make_driver: Callable[..., ZolderDriver], san: FakeStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """What use_chap_auth gave volumes and snapshots stays in Cinder, and they attach over NVMe without it."""
    made = new_volume()
    iscsi = make_driver("use_chap_auth = true")
    made.update(iscsi.create_volume(made))
    snapshot = new_snapshot(made)
    iscsi.create_snapshot(snapshot)
    snapshot.update(iscsi.create_export_snapshot(None, snapshot, ONE))
    secrets = made.provider_auth, snapshot.provider_auth
    driver = make_driver(LINES)
    attach(driver, made, ONE)
    driver.initialize_connection_snapshot(snapshot, dict(ONE))
    driver.terminate_connection_snapshot(snapshot, dict(ONE))
    before = san.list_attachments(PARENT)
    made.volume_attachment[0].connection_info = None  # as the old attach call leaves it
    lose_exports(san)
    driver.update_provider_info([made], [])
    assert san.list_attachments(PARENT) == before
    assert driver._reconciliation.send_secrets(lambda: [made], PARENT) == Sent(0, complete=True)
    assert "could not be made sure of" not in caplog.text
    assert (made.provider_auth, snapshot.provider_auth) == secrets
    assert all(secrets)
    assert detach(driver, made, ONE) is False
    assert attach(iscsi, made, ONE)["auth_method"] == "CHAP"
