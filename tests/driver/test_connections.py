"""Attaching and detaching: who may reach a volume, with which secret, and when nobody any more."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable
from typing import Any

import pytest
from cinder import exception, objects

from tests.driver.conftest import PARENT, connector_of, new_volume
from zolder.cinder.driver import ZolderDriver
from zolder.errors import ConnectionLost, PoolUnavailable
from zolder.fake import FakeStorage
from zolder.model import Change, Chap, Export
from zolder.names import InitiatorName

ONE = connector_of("one")
TWO = connector_of("two")
MakeDriver = Callable[..., ZolderDriver]


def attach(driver: ZolderDriver, volume: objects.Volume, connector: dict[str, str]) -> dict[str, Any]:
    """Do what Cinder's manager does for an attachment (VolumeManager._connection_create)."""
    driver.validate_connector(connector)
    volume.update(driver.create_export(None, volume, connector))
    connection = driver.initialize_connection(volume, connector)
    assert connection["driver_volume_type"] == "iscsi"
    data: dict[str, Any] = connection["data"]
    volume.volume_attachment.objects.append(
        objects.VolumeAttachment(
            connector=connector, connection_info={**data, "driver_volume_type": "iscsi", "attachment_id": "1"}
        )
    )
    return data


def detach(driver: ZolderDriver, volume: objects.Volume, connector: dict[str, str]) -> bool:
    """Do what Cinder does to end an attachment (VolumeManager.attachment_delete, then the API)."""
    shared = driver.terminate_connection(volume, connector, force=False)
    if not shared:
        driver.remove_export(None, volume)
    [ended, *_] = [row for row in volume.volume_attachment.objects if row.connector == connector]
    volume.volume_attachment.objects.remove(ended)
    return shared


def initiators(san: FakeStorage) -> list[str]:
    """Return the last words of the names of all who may reach something."""
    return [name.rpartition(":")[2] for export in san.list_exports(PARENT) for name in export.initiators]


@pytest.fixture
def volume(driver: ZolderDriver) -> objects.Volume:
    """A volume that the SAN has."""
    made = new_volume()
    driver.create_volume(made)
    return made


def test_an_attachment_opens_the_volume_to_one(
    driver: ZolderDriver, san: FakeStorage, volume: objects.Volume
) -> None:
    """os-brick is told all that it needs, and the portal is san_ip where nothing else is configured."""
    data = attach(driver, volume, ONE)
    iqn = f"iqn.2010-10.org.openstack:volume-{volume.id}"
    assert data == {
        "target_discovered": False,
        "target_iqn": iqn,
        "target_portal": "192.0.2.1:3260",
        "target_lun": 0,
        "volume_id": volume.id,
        "access_mode": "rw",
        "discard": True,
    }
    assert volume.provider_location == f"192.0.2.1:3260,1 {iqn} 0"
    assert volume.provider_auth is None
    assert initiators(san) == ["one"]


def test_several_portals_are_listed_for_multipath(make_driver: MakeDriver) -> None:
    """The lists name every portal; the location does, too."""
    driver = make_driver(
        "target_ip_address = 192.0.2.7\ntarget_secondary_ip_addresses = 198.51.100.7,2001:db8::7\n"
        "target_port = 3261"
    )
    volume = new_volume()
    driver.create_volume(volume)
    data = attach(driver, volume, ONE)
    assert data["target_portals"] == ["192.0.2.7:3261", "198.51.100.7:3261", "[2001:db8::7]:3261"]
    assert data["target_iqns"] == [data["target_iqn"]] * 3
    assert data["target_luns"] == [0, 0, 0]
    assert data["target_portal"] == "192.0.2.7:3261"
    assert volume.provider_location.startswith("192.0.2.7:3261;198.51.100.7:3261;[2001:db8::7]:3261,1 ")


def test_a_detachment_closes_it(driver: ZolderDriver, san: FakeStorage, volume: objects.Volume) -> None:
    """With the last initiator the target goes, and Cinder is told that nobody is left."""
    attach(driver, volume, ONE)
    assert detach(driver, volume, ONE) is False
    assert san.list_exports(PARENT) == ()


def test_the_volume_stays_open_while_somebody_is_left(
    driver: ZolderDriver, san: FakeStorage, volume: objects.Volume
) -> None:
    """A live migration: the source goes while the destination writes on."""
    attach(driver, volume, ONE)
    attach(driver, volume, TWO)
    assert detach(driver, volume, ONE) is True
    assert initiators(san) == ["two"]
    assert detach(driver, volume, TWO) is False


def test_two_attachments_of_one_machine_share_its_access(
    driver: ZolderDriver, san: FakeStorage, volume: objects.Volume
) -> None:
    """A resize in place, or multiattach to two instances of one machine: the first to go cuts nobody."""
    attach(driver, volume, ONE)
    attach(driver, volume, ONE)
    assert detach(driver, volume, ONE) is True
    assert initiators(san) == ["one"]
    assert detach(driver, volume, ONE) is False
    assert initiators(san) == []


def test_a_failed_second_attachment_cuts_nobody(
    driver: ZolderDriver, san: FakeStorage, volume: objects.Volume
) -> None:
    """Cinder calls remove_export when initialize_connection fails; whoever is attached stays so."""
    attach(driver, volume, ONE)
    driver.remove_export(None, volume)
    assert initiators(san) == ["one"]


def test_a_forced_detachment_closes_all(
    driver: ZolderDriver, san: FakeStorage, volume: objects.Volume
) -> None:
    """Without a connector nobody may be left (CVE-2023-2088)."""
    attach(driver, volume, ONE)
    attach(driver, volume, TWO)
    assert driver.terminate_connection(volume, None, force=True) is False
    assert san.list_exports(PARENT) == ()


def test_detaching_twice_is_detaching_once(driver: ZolderDriver, volume: objects.Volume) -> None:
    """A repeat finds nothing to do."""
    attach(driver, volume, ONE)
    assert driver.terminate_connection(volume, ONE) is False
    assert driver.terminate_connection(volume, ONE) is False


def test_deleting_closes_all(driver: ZolderDriver, san: FakeStorage, volume: objects.Volume) -> None:
    """What an attachment left behind does not outlive the volume, nor keep it."""
    driver.initialize_connection(volume, ONE)
    driver.remove_export(None, volume)
    driver.delete_volume(volume)
    assert san.list_exports(PARENT) == ()
    assert san.list_zvols(PARENT) == ()


def test_initiators_are_folded(driver: ZolderDriver, san: FakeStorage, volume: objects.Volume) -> None:
    """RFC 3722: names differ not by case, so the same machine in two spellings is one."""
    shouting = ONE | {"initiator": ONE["initiator"].upper()}
    attach(driver, volume, shouting)
    assert initiators(san) == ["one"]
    assert detach(driver, volume, shouting) is False


@pytest.mark.parametrize(
    "connector", [{}, {"initiator": None}, {"initiator": "eve; rm -rf /"}, {"wwpns": ["x"]}]
)
def test_a_connector_without_an_initiator_is_refused(driver: ZolderDriver, connector: dict[str, Any]) -> None:
    """Cinder answers the user with 400, and nothing was asked of the SAN."""
    with pytest.raises(exception.InvalidConnectorException):
        driver.validate_connector(connector)


def test_chap_secrets_differ_for_each_initiator(make_driver: MakeDriver, san: FakeStorage) -> None:
    """Each is the HMAC of the initiator's name under the volume's own secret, which nobody is given."""
    driver = make_driver("use_chap_auth = true")
    volume = new_volume()
    driver.create_volume(volume)
    first, second = attach(driver, volume, ONE), attach(driver, volume, TWO)
    method, user, secret = volume.provider_auth.split()
    expected = hmac.new(secret.encode(), ONE["initiator"].encode(), hashlib.sha256).hexdigest()[:32]
    assert (first["auth_method"], first["auth_username"], first["auth_password"]) == (method, user, expected)
    assert first["auth_password"] != second["auth_password"]
    assert secret not in (first["auth_password"], second["auth_password"])
    assert len(san._exports[f"{PARENT}/{volume.name}"].secrets) == 2


def test_a_secret_that_exists_is_never_changed(make_driver: MakeDriver) -> None:
    """create_export runs at every attachment; others are logged in with what they were given."""
    driver = make_driver("use_chap_auth = true")
    volume = new_volume()
    driver.create_volume(volume)
    first = attach(driver, volume, ONE)
    auth = volume.provider_auth
    attach(driver, volume, TWO)
    assert volume.provider_auth == auth
    assert driver.create_export(None, volume, ONE) == {}
    assert driver.initialize_connection(volume, ONE)["data"] == first


def test_two_volumes_have_two_secrets(make_driver: MakeDriver) -> None:
    """One volume's secret opens no other."""
    driver = make_driver("use_chap_auth = true")
    volumes = [new_volume(), new_volume()]
    passwords = set()
    for volume in volumes:
        driver.create_volume(volume)
        passwords.add(attach(driver, volume, ONE)["auth_password"])
    assert len(passwords) == 2


def test_chap_is_never_dropped(make_driver: MakeDriver) -> None:
    """A volume with a secret keeps it when the option goes off; one without is not opened when it is on."""
    volume = new_volume()
    driver = make_driver("use_chap_auth = true")
    driver.create_volume(volume)
    with pytest.raises(exception.VolumeBackendAPIException, match="not exported without"):
        driver.initialize_connection(volume, ONE)
    secured = attach(driver, volume, ONE)
    assert attach(make_driver("use_chap_auth = false"), volume, ONE) == secured


def test_a_broken_provider_auth_is_not_shown(make_driver: MakeDriver) -> None:
    """The sentence says what is wrong and not what stands there."""
    volume = new_volume(provider_auth="sesame open")
    driver = make_driver()
    driver.create_volume(volume)
    with pytest.raises(exception.VolumeBackendAPIException, match="not of the form") as raised:
        driver.initialize_connection(volume, ONE)
    assert "sesame" not in str(raised.value)


def test_no_secret_reaches_the_log(make_driver: MakeDriver, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a volume's secret nor an initiator's, nor the SAN's password, at any level, nor in a repr."""
    with caplog.at_level(logging.DEBUG):
        driver = make_driver("use_chap_auth = true\nsan_password = sesame-of-the-san")
        volume = new_volume()
        driver.create_volume(volume)
        data = attach(driver, volume, ONE)
        driver.ensure_export(None, volume)
        detach(driver, volume, ONE)
    said = caplog.text + repr(driver._settings) + repr(vars(driver))
    for secret in (volume.provider_auth.split()[2], data["auth_password"], "sesame-of-the-san"):
        assert secret not in said


def test_a_secret_is_made_with_the_volume(make_driver: MakeDriver) -> None:
    """Two attachments that begin at once find one secret: Cinder runs create_export for both."""
    driver = make_driver("use_chap_auth = true")
    source, clone = new_volume(), new_volume()
    source.update(driver.create_volume(source))
    clone.update(driver.create_cloned_volume(clone, source))
    for volume in (source, clone):
        assert volume.provider_auth.startswith(f"CHAP {volume.name} ")
        assert driver.create_export(None, volume, ONE) == {}
    assert source.provider_auth != clone.provider_auth


def test_ensure_export_gives_what_each_was_told(make_driver: MakeDriver, san: FakeStorage) -> None:
    """CHAP that was turned on later, or a secret made anew, is not yet that of those who are attached."""
    volume = new_volume()
    plain = make_driver("use_chap_auth = false")
    plain.create_volume(volume)
    attach(plain, volume, ONE)
    driver = make_driver("use_chap_auth = true")
    told = attach(driver, volume, TWO)
    volume.provider_auth = "CHAP another secret"
    san._exports.clear()
    driver.ensure_export(None, volume)
    secrets = san._exports[f"{PARENT}/{volume.name}"].secrets
    assert secrets[InitiatorName(ONE["initiator"])] is None
    assert secrets[InitiatorName(TWO["initiator"])] == Chap(told["auth_username"], told["auth_password"])


def test_ensure_export_opens_what_cinder_has_on_record(make_driver: MakeDriver, san: FakeStorage) -> None:
    """A SAN that lost its targets gets them back when cinder-volume starts, with the same secrets."""
    driver = make_driver("use_chap_auth = true")
    volume = new_volume()
    driver.create_volume(volume)
    attach(driver, volume, ONE)
    attach(driver, volume, TWO)
    volume.volume_attachment.objects.append(objects.VolumeAttachment(connector=None, connection_info=None))
    before = dict(san._exports[f"{PARENT}/{volume.name}"].secrets)
    san._exports.clear()
    driver.ensure_export(None, volume)
    assert san._exports[f"{PARENT}/{volume.name}"].secrets == before


class Losing(FakeStorage):
    """A SAN whose answer to an export is lost after it was carried out."""

    def export_zvol(self, *args: Any, **kwargs: Any) -> Change[Export]:  # noqa: ANN401 - passed on
        """Export and lose the answer."""
        super().export_zvol(*args, **kwargs)
        message = "the line was cut"
        raise ConnectionLost(message)


def test_what_a_lost_answer_opened_is_closed_again(make_driver: MakeDriver) -> None:
    """Cinder has no record of that attachment and would never end it."""
    losing = Losing((PARENT,))
    driver = make_driver(storage=losing)
    volume = new_volume()
    driver.create_volume(volume)
    with pytest.raises(exception.VolumeBackendAPIException, match="cut"):
        driver.initialize_connection(volume, ONE)
    assert losing.list_exports(PARENT) == ()


def test_a_lost_answer_does_not_cut_who_was_attached_before(make_driver: MakeDriver) -> None:
    """Asking again for a connection that Cinder has on record leaves it open whatever comes of the asking."""
    losing = Losing((PARENT,))
    driver = make_driver(storage=losing)
    volume = new_volume(1, ONE)
    driver.create_volume(volume)
    with pytest.raises(exception.VolumeBackendAPIException):
        driver.initialize_connection(volume, ONE)
    assert initiators(losing) == ["one"]


def test_what_cannot_be_closed_again_is_said(
    make_driver: MakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """The operator reads to whom the volume may be open; the first error is the one that counts."""

    class Gone(Losing):
        def withdraw_zvol(self, *_args: object, **_kwargs: object) -> None:  # type: ignore[override]  # only raises
            message = "the zpool went away"
            raise PoolUnavailable(message)

    driver = make_driver(storage=Gone((PARENT,)))
    volume = new_volume()
    driver.create_volume(volume)
    with pytest.raises(exception.VolumeBackendAPIException, match="the line was cut"):
        driver.initialize_connection(volume, ONE)
    assert f"{volume.name} may stay open to {ONE['initiator']}" in caplog.text


class Counting:
    """Stands before a SAN and notes what it is asked."""

    def __init__(self, storage: FakeStorage) -> None:
        """Pass everything on to ``storage``."""
        self._storage = storage
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - passed on
        """Note a verb."""
        self.asked.append(name)
        return getattr(self._storage, name)


def test_each_verb_is_one_request(make_driver: MakeDriver, san: FakeStorage) -> None:
    """An attachment is one, a detachment is one, and so is deleting with all that goes before it."""
    counting = Counting(san)
    driver = make_driver("use_chap_auth = true", storage=counting)
    volume = new_volume()
    driver.create_volume(volume)
    attach(driver, volume, ONE)
    detach(driver, volume, ONE)
    driver.remove_export(None, volume)
    driver.delete_volume(volume)
    assert counting.asked == ["get_figures", "create_zvol", "export_zvol", "withdraw_zvol", "delete_zvol"]
