"""What Cinder has on record is opened again when cinder-volume starts, and nothing there can stop it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cinder import exception, objects

from tests.driver.conftest import PARENT, Taken, connector_of, lose_exports, new_volume, secrets_of
from tests.driver.manager import attach
from tests.support.waiting import wait_until
from zolder.cinder.driver import ZolderDriver
from zolder.cinder.reconciliation import Sent
from zolder.errors import DeadlineExceeded, PoolUnavailable
from zolder.fake import FakeStorage
from zolder.model import Access, Change, Chap, Refusal, Route
from zolder.names import DatasetName, InitiatorName

ONE = connector_of("one")
TWO = connector_of("two")
MakeDriver = Callable[..., ZolderDriver]


class Noting(FakeStorage):
    """A SAN that notes how many attachments each request is about."""

    def __init__(self) -> None:
        """Start empty."""
        super().__init__((PARENT,))
        self.batches: list[int] = []

    def ensure_exports(
        self, parent: DatasetName, wanted: tuple[Access, ...], *, route: Route
    ) -> Change[tuple[Refusal, ...]]:
        self.batches.append(len(wanted))
        return super().ensure_exports(parent, wanted, route=route)


def volumes_on(driver: ZolderDriver, count: int, *connectors: dict[str, str]) -> list[objects.Volume]:
    """Return volumes that the SAN has, each attached to ``connectors``."""
    volumes = [new_volume() for _ in range(count)]
    for volume in volumes:
        volume.update(driver.create_volume(volume))
        for connector in connectors:
            attach(driver, volume, connector)
    return volumes


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the log warns of."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_san_that_forgot_all_has_it_again(make_driver: MakeDriver, san: FakeStorage) -> None:
    """Every attachment under its own id, every secret as it was told."""
    driver = make_driver("use_chap_auth = true")
    [volume] = volumes_on(driver, 1, ONE, ONE, TWO)
    volume.volume_attachment.objects.append(objects.VolumeAttachment(connector=None, connection_info=None))
    attachments, secrets = san.list_attachments(PARENT), dict(secrets_of(san, volume))
    lose_exports(san)
    assert driver.update_provider_info([volume], []) == (None, None)
    assert san.list_attachments(PARENT) == attachments
    assert secrets_of(san, volume) == secrets


def test_each_gets_what_it_was_told(make_driver: MakeDriver, san: FakeStorage) -> None:
    """CHAP that was turned on later, or a secret made anew, is not yet that of those who are attached."""
    [volume] = volumes_on(make_driver("use_chap_auth = false"), 1, ONE)
    driver = make_driver("use_chap_auth = true")
    told = attach(driver, volume, TWO)
    volume.provider_auth = "CHAP another secret"
    lose_exports(san)
    driver.update_provider_info([volume], [])
    assert secrets_of(san, volume) == {
        InitiatorName(ONE["initiator"]): None,
        InitiatorName(TWO["initiator"]): Chap(told["auth_username"], told["auth_password"]),
    }


@pytest.mark.parametrize(
    ("count", "batches"), [(0, []), (100, [200]), (101, [200, 2]), (250, [200, 200, 100])]
)
def test_a_batch_is_a_request(make_driver: MakeDriver, count: int, batches: list[int]) -> None:
    """At most 200 attachments each; what ensure_export is asked about after costs nothing more."""
    noting = Noting()
    driver = make_driver(storage=noting)
    volumes = volumes_on(driver, count, ONE, TWO) + volumes_on(driver, 1)
    driver.update_provider_info(volumes, [])
    for volume in volumes:
        driver.ensure_export(None, volume)
    assert noting.batches == batches


def test_nothing_is_withdrawn(driver: ZolderDriver, san: FakeStorage) -> None:
    """What Cinder does not know of, and what a batch leaves out, stays open."""
    volumes = volumes_on(driver, 2, ONE)
    driver.initialize_connection(volumes[0], dict(TWO))
    before = san.list_attachments(PARENT)
    driver.update_provider_info(volumes[:1], [])
    driver.update_provider_info([], [])
    assert san.list_attachments(PARENT) == before
    assert len(before) == 3


def test_a_san_that_is_away_does_not_stop_the_start(
    driver: ZolderDriver, san: FakeStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """One line says how many, which was the first, and why."""
    volumes = volumes_on(driver, 3, ONE, TWO)
    san.imported = False
    assert driver.update_provider_info(volumes, []) == (None, None)
    [line] = warnings(caplog)
    assert line == (
        "6 attachments of back end zolder could not be made sure of; the first,"
        f" {volumes[0].name}: zpool data is not imported on this SAN"
    )


def test_a_cause_is_a_line(driver: ZolderDriver, san: FakeStorage, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is wrong with some rows or volumes, the others are opened."""
    volumes = volumes_on(driver, 7, ONE)
    [row] = volumes[6].volume_attachment
    row.connection_info = {"driver_volume_type": "iscsi", "auth_method": "CHAP"}
    for volume in volumes[:2]:
        driver.delete_volume(volume)
    [row] = volumes[2].volume_attachment
    row.connector = {"host": "one"}
    [row] = volumes[3].volume_attachment
    row.connector = ONE | {"zolder_attachment": "x"}
    [row] = volumes[4].volume_attachment
    row.connection_info, volumes[4].provider_auth = None, "sesame open"
    lose_exports(san)
    driver.update_provider_info(volumes, [])
    assert [export.zvol for export in san.list_exports(PARENT)] == [volumes[5].name]
    lines = sorted(warnings(caplog))
    assert [line[:14] for line in lines] == ["2 attachments "] * 3
    assert any(volumes[4].id in line for line in lines)
    assert "sesame" not in caplog.text
    assert any(f"{volumes[0].name}: {PARENT}/{volumes[0].name} does not exist" in line for line in lines)
    assert any(volumes[2].id in line for line in lines)


def test_another_protocols_attachments_are_left_alone(
    make_driver: MakeDriver, san: FakeStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """They were told of another target; the SAN keeps that one open on its own."""
    [volume] = volumes_on(make_driver(), 1, ONE)
    before = san.list_attachments(PARENT)
    make_driver("target_protocol = nvmet_tcp").update_provider_info([volume], [])
    assert san.list_attachments(PARENT) == before
    [line] = warnings(caplog)
    assert "attached over another protocol" in line


def test_what_nobody_foresaw_does_not_stop_the_start(
    driver: ZolderDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception would end VolumeManager.init_host; it is in the log with where it came from."""

    def broken() -> Iterator[objects.Volume]:
        yield from volumes_on(driver, 1, ONE)
        message = "the database went away"
        raise RuntimeError(message)

    assert driver.update_provider_info(broken(), []) == (None, None)
    assert "RuntimeError: the database went away" in caplog.text


def test_a_batch_that_fails_leaves_the_next(
    make_driver: MakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """A deadline is one request's, and what comes behind has its own."""

    class Slow(Noting):
        def ensure_exports(
            self, parent: DatasetName, wanted: tuple[Access, ...], *, route: Route
        ) -> Change[tuple[Refusal, ...]]:
            done = super().ensure_exports(parent, wanted, route=route)
            if len(self.batches) == 1:
                message = "55 seconds were not enough"
                raise DeadlineExceeded(message)
            return done

    slow = Slow()
    driver = make_driver(storage=slow)
    driver.update_provider_info(volumes_on(driver, 101, ONE, TWO), [])
    assert slow.batches == [200, 2]
    [line] = warnings(caplog)
    assert line.startswith("200 attachments ")


class Meanwhile(FakeStorage):
    """A SAN on which something else is done just before it is asked to make sure of exports."""

    def __init__(self) -> None:
        """Do nothing else yet."""
        super().__init__((PARENT,))
        self.first: Callable[[], object] = lambda: None

    def ensure_exports(
        self, parent: DatasetName, wanted: tuple[Access, ...], *, route: Route
    ) -> Change[tuple[Refusal, ...]]:
        self.first()
        return super().ensure_exports(parent, wanted, route=route)


@pytest.mark.parametrize("forced", [False, True])
def test_who_is_detached_meanwhile_stays_out(make_driver: MakeDriver, *, forced: bool) -> None:
    """Between reading the record and sending it: the request opens it once more, and it is closed again."""
    meanwhile = Meanwhile()
    driver = make_driver(storage=meanwhile)
    [volume] = volumes_on(driver, 1, ONE, TWO)
    connector = None if forced else volume.volume_attachment[0].connector
    meanwhile.first = lambda: driver.terminate_connection(volume, connector, force=forced)
    driver.update_provider_info([volume], [])
    left = [access.initiator for access in meanwhile.list_attachments(PARENT)]
    assert left == ([] if forced else [TWO["initiator"]])


def test_who_was_detached_stays_out_while_the_row_is_there(make_driver: MakeDriver) -> None:
    """Cinder's API deletes the row only after the manager has terminated; the SAN is not even asked."""
    noting = Noting()
    driver = make_driver(storage=noting)
    [volume] = volumes_on(driver, 1, ONE)
    driver.terminate_connection(volume, volume.volume_attachment[0].connector)
    driver.update_provider_info([volume], [])
    assert noting.list_exports(PARENT) == ()
    assert noting.batches == []


@pytest.mark.parametrize("forced", [False, True])
def test_who_could_not_be_detached_is_attached_still(make_driver: MakeDriver, *, forced: bool) -> None:
    """A detachment that the SAN refused was none: what it lost is opened again, and its secret sent."""
    taken = Taken((PARENT,))
    driver = make_driver("use_chap_auth = true", storage=taken)
    [volume] = volumes_on(driver, 1, ONE)
    before = taken.list_attachments(PARENT)
    connector = None if forced else volume.volume_attachment[0].connector
    taken.imported = False
    with pytest.raises(exception.VolumeBackendAPIException, match="not imported"):
        driver.terminate_connection(volume, connector, force=forced)
    taken.imported = True
    lose_exports(taken)
    driver.update_provider_info([volume], [])
    assert taken.list_attachments(PARENT) == before
    assert driver._reconciliation.send_secrets(lambda: [volume], PARENT) == Sent(1, complete=True)
    driver.terminate_connection(volume, connector, force=forced)
    taken.imported = False
    with pytest.raises(exception.VolumeBackendAPIException):
        driver.terminate_connection(volume, connector, force=forced)
    taken.imported = True
    driver.update_provider_info([volume], [])
    assert taken.list_attachments(PARENT) == (), "the first of the two has ended it"


def test_what_cannot_be_closed_again_is_said(
    make_driver: MakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """The operator reads to whom the volume may be open."""

    class Gone(Meanwhile):
        gone = False

        def withdraw_zvol(self, *args: Any, **kwargs: Any) -> Change[tuple[InitiatorName, ...]]:  # noqa: ANN401 - passed on
            if self.gone:
                message = "the zpool went away"
                raise PoolUnavailable(message)
            self.gone = True
            return super().withdraw_zvol(*args, **kwargs)

    gone = Gone()
    driver = make_driver(storage=gone)
    [volume] = volumes_on(driver, 1, ONE)
    gone.first = lambda: driver.terminate_connection(volume, volume.volume_attachment[0].connector)
    driver.update_provider_info([volume], [])
    [line] = warnings(caplog)
    assert f"{volume.name} may stay open to {ONE['initiator']}" in line


def test_secrets_are_sent_and_what_nobody_has_is_said(
    make_driver: MakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that Cinder does not know cannot be sent: one line says so, not one a minute."""
    taken = Taken((PARENT,))
    driver = make_driver("use_chap_auth = true", storage=taken)
    known, unknown = volumes_on(driver, 2, ONE)
    plain = volumes_on(make_driver("use_chap_auth = false", storage=taken), 1, ONE)
    driver._volumes = lambda: [known, *plain]  # type: ignore[method-assign]  # in place of a database
    taken.take_over()
    for lines in (1, 2, 3, 3, 3):
        assert driver.get_volume_stats(refresh=True)["backend_state"] == "up"
        wait_until(lambda: not driver._missing_secrets[PARENT]._sending, 10, "the round ended")
        assert len(warnings(caplog)) == lines
    assert None not in secrets_of(taken, known).values()
    assert None in secrets_of(taken, unknown).values()
    *sent, hopeless = warnings(caplog)
    said = f"exports below {PARENT} lacked their CHAP secrets: back end zolder sent those of 1 attachments"
    assert sent == [f"{missing} {said}" for missing in (2, 1)]
    assert hopeless.startswith(
        f"1 exports below {PARENT} wait for CHAP secrets that no attachment of back end zolder has"
    )


def test_a_back_end_speaks_of_its_own_secrets(
    make_driver: MakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """One of NVMe has none, and one that had none to send did not send any: they are another's, perhaps."""
    taken = Taken((PARENT,))
    theirs = make_driver("use_chap_auth = true\nvolume_backend_name = theirs", storage=taken)
    [volume] = volumes_on(theirs, 1, ONE)
    nvme = make_driver("target_protocol = nvmet_tcp\nvolume_backend_name = nvme", storage=taken)
    plain = make_driver("volume_backend_name = plain", storage=taken)
    nvme._volumes = plain._volumes = list  # type: ignore[method-assign]  # in place of a database
    theirs._volumes = lambda: [volume]  # type: ignore[method-assign]  # ditto
    taken.take_over()
    for driver in (nvme, plain) * 3:
        driver.get_volume_stats(refresh=True)
        wait_until(lambda one=driver: not one._missing_secrets[PARENT]._sending, 10, "the round ended")  # type: ignore[misc]  # bound now
    [hopeless] = warnings(caplog)
    assert "that no attachment of back end plain has" in hopeless
    theirs.get_volume_stats(refresh=True)
    wait_until(lambda: None not in secrets_of(taken, volume).values(), 10, "the secrets were sent")


def test_the_figures_do_not_wait_for_the_secrets(make_driver: MakeDriver) -> None:
    """Sending can take minutes on a SAN that has just taken a zpool over."""

    class Stuck(Taken):
        going_on = threading.Event()

        def ensure_exports(
            self, parent: DatasetName, wanted: tuple[Access, ...], *, route: Route
        ) -> Change[tuple[Refusal, ...]]:
            assert self.going_on.wait(30)
            return super().ensure_exports(parent, wanted, route=route)

    stuck = Stuck((PARENT,))
    driver = make_driver("use_chap_auth = true", storage=stuck)
    [volume] = volumes_on(driver, 1, ONE)
    driver._volumes = lambda: [volume]  # type: ignore[method-assign]  # in place of a database
    stuck.take_over()
    for _ in range(2):
        assert driver.get_volume_stats(refresh=True)["backend_state"] == "up"
    assert None in secrets_of(stuck, volume).values()
    stuck.going_on.set()
    wait_until(lambda: None not in secrets_of(stuck, volume).values(), 10, "the secrets were sent")


def test_a_refused_round_is_not_complete(make_driver: MakeDriver, san: FakeStorage) -> None:
    """What the SAN refused, or did not answer, may be taken the next minute."""
    driver = make_driver("use_chap_auth = true")
    kept, gone = volumes_on(driver, 2, ONE)
    send = driver._reconciliation.send_secrets
    assert send(lambda: [kept, gone], PARENT) == Sent(2, complete=True)
    driver.delete_volume(gone)
    assert send(lambda: [kept, gone], PARENT) == Sent(1, complete=False)
    san.imported = False
    assert send(lambda: [kept], PARENT) == Sent(0, complete=False)


def test_an_internal_detachment_ends_no_other(make_driver: MakeDriver) -> None:
    """Only what was ended is kept out: an attachment without an id says nothing of those that have one."""
    meanwhile = Meanwhile()
    driver = make_driver(storage=meanwhile)
    [volume] = volumes_on(driver, 1, ONE)
    before = meanwhile.list_attachments(PARENT)
    driver.initialize_connection(volume, dict(ONE))
    driver.terminate_connection(volume, dict(ONE))
    driver.update_provider_info([volume], [])
    meanwhile.first = lambda: driver.terminate_connection(volume, dict(ONE))
    driver.update_provider_info([volume], [])
    assert meanwhile.list_attachments(PARENT) == before
