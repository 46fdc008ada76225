"""Attaching and detaching: who may reach a volume, with which secret, and when nobody any more."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cinder import exception, objects

from tests.driver.conftest import PARENT, connector_of, new_volume, secrets_of
from tests.driver.manager import attach, connect, detach
from zolder.cinder.driver import ZolderDriver
from zolder.errors import ConnectionLost, PoolUnavailable
from zolder.fake import FakeStorage
from zolder.model import Change, Export
from zolder.names import InitiatorName, chap_user

ONE = connector_of("one")
TWO = connector_of("two")
MakeDriver = Callable[..., ZolderDriver]


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
    assert detach(driver, volume, ONE, which=1) is True
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


def test_an_empty_connector_closes_nothing(
    driver: ZolderDriver, san: FakeStorage, volume: objects.Volume
) -> None:
    """Only one that is not there at all stands for everybody."""
    attach(driver, volume, ONE)
    with pytest.raises(exception.InvalidConnectorException):
        driver.terminate_connection(volume, {})
    assert initiators(san) == ["one"]


def test_a_connector_without_its_id_ends_no_other(
    driver: ZolderDriver, san: FakeStorage, volume: objects.Volume, caplog: pytest.LogCaptureFixture
) -> None:
    """os-force_detach takes a connector from a person: which attachment is meant is not guessed, but said."""
    attach(driver, volume, ONE)
    assert driver.terminate_connection(volume, dict(ONE)) is True
    assert initiators(san) == ["one"]
    assert "force-detach without a connector ends all" in caplog.text


def test_a_protocol_that_was_changed_meanwhile(make_driver: MakeDriver, san: FakeStorage) -> None:
    """Who was attached by the old one can detach, and until then nobody attaches by the new one."""
    volume = new_volume()
    volume.update(make_driver().create_volume(volume))
    attach(make_driver(), volume, ONE)
    driver = make_driver("target_protocol = nvmet_tcp")
    with pytest.raises(exception.VolumeBackendAPIException, match="once they have detached"):
        attach(driver, volume, TWO)
    assert detach(driver, volume, ONE) is False
    assert san.list_exports(PARENT) == ()
    attach(driver, volume, TWO)
    assert detach(make_driver(), volume, TWO) is False
    assert san.list_exports(PARENT) == ()


def test_detaching_twice_is_detaching_once(
    driver: ZolderDriver, san: FakeStorage, volume: objects.Volume
) -> None:
    """A repeat finds nothing to do, and takes nothing from the same machine's other attachment."""
    attach(driver, volume, ONE)
    attach(driver, volume, ONE)
    first, second = (row.connector for row in volume.volume_attachment)
    assert driver.terminate_connection(volume, first) is True
    assert driver.terminate_connection(volume, first) is True
    assert initiators(san) == ["one"]
    assert driver.terminate_connection(volume, second) is False
    assert driver.terminate_connection(volume, second) is False


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
    ("connector", "sentence"),
    [
        ({}, "open-iscsi has to be installed there"),
        ({"initiator": None}, "open-iscsi has to be installed there"),
        ({"nqn": ONE["nqn"]}, "open-iscsi has to be installed there"),
        ({"initiator": "eve; rm -rf /"}, "initiator: 'eve; rm -rf /' is not of the form"),
        ({"initiator": ONE["nqn"]}, "which nqn.2014-08.org.nvmexpress:uuid:one is not"),
    ],
)
def test_a_connector_without_an_initiator_is_refused(
    driver: ZolderDriver, connector: dict[str, Any], sentence: str
) -> None:
    """Cinder answers the user with 400 and says what that machine lacks; nothing was asked of the SAN."""
    with pytest.raises(exception.InvalidConnectorException, match=sentence):
        driver.validate_connector(connector)


@pytest.mark.parametrize("written", ["", "1", "../../etc", 7, {"a": 1}])
def test_an_id_that_is_none_is_refused(
    driver: ZolderDriver, san: FakeStorage, volume: objects.Volume, written: object
) -> None:
    """Users can write into a connector what they like; it opens and ends nothing."""
    attach(driver, volume, ONE)
    before = san.list_attachments(PARENT)
    for verb in (driver.initialize_connection, driver.terminate_connection):
        with pytest.raises(exception.InvalidConnectorException, match="zolder_attachment"):
            verb(volume, ONE | {"zolder_attachment": written})
    assert san.list_attachments(PARENT) == before


def test_two_detachments_at_once_leave_nothing(
    driver: ZolderDriver, san: FakeStorage, volume: objects.Volume
) -> None:
    """Each ends its own, and what the rows still say while both are on their way counts nothing."""
    attach(driver, volume, ONE)
    attach(driver, volume, ONE)
    first, second = (row.connector for row in volume.volume_attachment)
    with ThreadPoolExecutor(2) as pool:
        left = [*pool.map(lambda connector: driver.terminate_connection(volume, connector), (first, second))]
    assert san.list_exports(PARENT) == ()
    assert False in left


def test_chap_secrets_differ_for_each_initiator(make_driver: MakeDriver, san: FakeStorage) -> None:
    """Each is the HMAC of the initiator's name under the volume's own secret, which nobody is given."""
    driver = make_driver("use_chap_auth = true")
    volume = new_volume()
    driver.create_volume(volume)
    first, second = attach(driver, volume, ONE), attach(driver, volume, TWO)
    method, _, secret = volume.provider_auth.split()
    expected = hmac.new(secret.encode(), ONE["initiator"].encode(), hashlib.sha256).hexdigest()[:32]
    user = chap_user(first["target_iqn"], InitiatorName(ONE["initiator"]))
    assert (first["auth_method"], first["auth_username"], first["auth_password"]) == (method, user, expected)
    assert first["auth_username"] != second["auth_username"], "tgtd holds one secret a user"
    assert first["auth_password"] != second["auth_password"]
    assert secret not in (first["auth_password"], second["auth_password"])
    assert len(secrets_of(san, volume)) == 2


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
        driver.update_provider_info([volume], [])
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


class Losing(FakeStorage):
    """A SAN whose answer to an export is lost after it was carried out."""

    cut = True

    def export_zvol(self, *args: Any, **kwargs: Any) -> Change[Export]:  # noqa: ANN401 - passed on
        """Export and lose the answer."""
        done = super().export_zvol(*args, **kwargs)
        if not self.cut:
            return done
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


@pytest.mark.parametrize("again", ["another row", "the same row", "an old call"])
def test_a_lost_answer_does_not_cut_who_was_attached_before(make_driver: MakeDriver, again: str) -> None:
    """Only what this attachment opened is taken back, and that only where nobody else can have it."""
    losing = Losing((PARENT,))
    losing.cut = False
    driver = make_driver(storage=losing)
    volume = new_volume()
    driver.create_volume(volume)
    if again == "an old call":
        driver.initialize_connection(volume, dict(ONE))
        volume.volume_attachment = new_volume(1, None).volume_attachment
    else:
        attach(driver, volume, ONE)
    before = losing.list_attachments(PARENT)
    losing.cut = True
    asks: dict[str, Callable[[], object]] = {
        "another row": lambda: attach(driver, volume, ONE),
        "the same row": lambda: connect(driver, volume, volume.volume_attachment[0], ONE | {"mode": "rw"}),
        "an old call": lambda: driver.initialize_connection(volume, dict(ONE)),
    }
    with pytest.raises(exception.VolumeBackendAPIException, match="cut"):
        asks[again]()
    assert losing.list_attachments(PARENT) == before


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
    set_up, verbs = counting.asked[:2], counting.asked[2:]
    assert set_up == ["get_figures", "get_guid"]
    assert verbs == ["create_zvol", "export_zvol", "withdraw_zvol", "delete_zvol"]


@pytest.mark.parametrize(("lines", "discard"), [("", True), ("target_helper = tgtadm", False)])
def test_discards_are_promised_where_they_free_space(
    make_driver: MakeDriver,
    lines: str,
    discard: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Instances may discard on LIO; on tgt a discard would be an error."""
    driver = make_driver(lines)
    volume = new_volume()
    driver.create_volume(volume)
    assert attach(driver, volume, ONE)["discard"] is discard
