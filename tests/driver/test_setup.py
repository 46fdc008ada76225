"""Set-up: whatever is wrong with a SAN ends it with one sentence that says what to do."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cinder import exception

from tests.driver.conftest import PARENT, Configure
from tests.support import agent
from tests.support.sshd import running_sshd
from zolder.cinder.driver import ZolderDriver
from zolder.cinder.settings import read_settings
from zolder.cinder.storage import San, open_san
from zolder.client.deadline import Deadline
from zolder.client.diagnosis import ConnectDenied
from zolder.client.local import LocalAgent
from zolder.client.pool import Pool
from zolder.errors import (
    BackendError,
    ConnectFailed,
    Error,
    NotFound,
    NotPermitted,
    PoolSuspended,
    PoolUnavailable,
)
from zolder.fake import FakeStorage
from zolder.names import DatasetName

UNFIT = "san_zfs_volume_base = data/volumes will not do:"


class Unfit(FakeStorage):
    """A SAN whose figures cannot be had."""

    error: Error

    def get_figures(self, parent: DatasetName) -> None:  # type: ignore[override]  # it only raises  # noqa: ARG002
        """Raise the error."""
        raise self.error


@pytest.mark.parametrize(
    ("error", "expected", "text"),
    [
        (
            NotFound("this SAN has no dataset data/volumes: make it with 'zfs create -p data/volumes'"),
            exception.InvalidConfigurationValue,
            f"{UNFIT} this SAN has no dataset data/volumes: make it with 'zfs create -p data/volumes'.",
        ),
        (
            NotPermitted("parent data/volumes is not among those of identity lab in this SAN's policy"),
            exception.InvalidConfigurationValue,
            f"{UNFIT} parent data/volumes is not among those of identity lab in this SAN's policy.",
        ),
        (
            PoolUnavailable("zpool data is not imported on this SAN: see 'zpool import'"),
            exception.VolumeBackendAPIException,
            "zpool data is not imported on this SAN: see 'zpool import'",
        ),
        (
            PoolSuspended("zpool data has suspended its I/O: repair its devices, then 'zpool clear data'"),
            exception.VolumeBackendAPIException,
            "zpool data has suspended its I/O: repair its devices, then 'zpool clear data'",
        ),
        (
            BackendError("there is no working OpenZFS on this SAN"),
            exception.VolumeBackendAPIException,
            "there is no working OpenZFS on this SAN",
        ),
    ],
)
def test_an_unfit_san(
    make_driver: Callable[..., ZolderDriver], error: Error, expected: type[Exception], text: str
) -> None:
    """A missing or foreign parent is the configuration's, an absent zpool the SAN's matter."""
    unfit = Unfit((PARENT,))
    unfit.error = error
    with pytest.raises(expected) as raised:
        make_driver(storage=unfit)
    assert str(raised.value) == text


def driver_before(configure: Configure, lines: str) -> ZolderDriver:
    """Return a driver that reaches its SAN in the ordinary way and has not been set up."""
    return ZolderDriver(configuration=configure(lines), host="control@zolder")


def refusal(driver: ZolderDriver) -> str:
    """Return the sentence with which set-up ends."""
    with pytest.raises(exception.VolumeBackendAPIException) as raised:
        driver.do_setup(None)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_what_ssh_refuses(configure: Configure, tmp_path: Path) -> None:
    """An unknown host key and a wrong user, through a real sshd."""
    with running_sshd(tmp_path, command=("true",), working_folder=tmp_path) as target:
        lines = (
            f"san_ip = 127.0.0.1\nsan_ssh_port = {target.port}\nsan_login = {target.login}\n"
            f"san_private_key = {target.private_key}\n"
        )
        sentence = refusal(driver_before(configure, lines))
        assert "The host key of" in sentence
        assert "ssh_known_hosts: read it with ssh-keyscan" in sentence
        known = f"{lines}[DEFAULT]\nssh_hosts_key_file = {target.known_hosts[0]}"
        wrong_user = known.replace(f"san_login = {target.login}", "san_login = nobody-here")
        assert "refused the login" in refusal(driver_before(configure, wrong_user))
        assert "check that zolder-san runs there" in refusal(driver_before(configure, known))


def test_a_key_that_is_not_there(configure: Configure, tmp_path: Path) -> None:
    """The path is named."""
    lines = f"san_ip = 127.0.0.1\nsan_private_key = {tmp_path}/missing"
    assert f"{tmp_path}/missing cannot be read" in refusal(driver_before(configure, lines))


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("none", "lacks the feature 'lio', which this zolder .* needs: upgrade zolder-san on the SAN"),
        ("other_protocol", "upgrade zolder on this control node"),
        ("refuses_all", "There is no policy"),
    ],
)
def test_an_agent_of_another_version(configure: Configure, fault: str, sentence: str) -> None:
    """Both versions are named, and which to upgrade."""
    driver = driver_before(configure, "san_ip = 127.0.0.1")
    way = LocalAgent((sys.executable, "-S", "-E", agent.__file__, fault))
    driver._connect = lambda settings: open_san(dataclasses.replace(settings, way=way))
    with pytest.raises(exception.VolumeBackendAPIException, match=sentence):
        driver.do_setup(None)


@pytest.mark.parametrize(
    ("lines", "features", "missing"),
    [
        ("", ["lio"], "attachments"),
        (
            "target_helper = tgtadm",
            ["lio", "attachments", "properties", "revert", "groups", "adoption"],
            "tgt",
        ),
        (
            "target_protocol = nvmet_tcp",
            ["lio", "tgt", "attachments", "properties", "revert", "groups", "adoption"],
            "nvmet",
        ),
        ("", ["lio", "attachments"], "properties"),
        ("", ["lio", "attachments", "properties"], "revert"),
        ("", ["lio", "attachments", "properties", "revert", "groups", "adoption"], "moves"),
        ("", ["lio", "attachments", "properties", "revert", "groups", "adoption", "moves"], "contents"),
        (
            "target_protocol = nvmet_tcp",
            ["nvmet", "attachments", "properties", "revert", "groups", "adoption", "contents", "moves"],
            None,
        ),
        (
            "zolder_image_transfer = attach",
            ["lio", "attachments", "properties", "revert", "groups", "adoption", "moves"],
            None,
        ),
    ],
)
def test_an_agent_that_cannot_export_like_that(
    configure: Configure, tmp_path: Path, lines: str, features: list[str], missing: str | None
) -> None:
    """What cinder.conf chooses is asked for, and what the driver needs of any agent."""
    script = tmp_path / "agent.py"
    source = Path(agent.__file__).read_text()
    script.write_text(source.replace('"features": []', f'"features": {json.dumps(features)}'))
    driver = driver_before(configure, f"san_ip = 127.0.0.1\n{lines}")
    way = LocalAgent((sys.executable, "-S", "-E", str(script), "none"))
    driver._connect = lambda settings: open_san(dataclasses.replace(settings, way=way))
    if missing is None:
        driver.do_setup(None)
    else:
        with pytest.raises(exception.VolumeBackendAPIException, match=f"lacks the feature '{missing}'"):
            driver.do_setup(None)


def test_set_up_again_after_a_failure(configure: Configure) -> None:
    """Cinder tries again (reinit_driver_count), on the same driver."""
    storage = FakeStorage((PARENT,))
    attempts = iter((PoolUnavailable("not yet"), None, None))
    pools = [Pool(LocalAgent(("true",))) for _ in range(2)]
    opened: list[Pool] = []

    def connect(_: object) -> San:
        if error := next(attempts):
            raise error
        opened.append(pools[len(opened)])
        return San(storage, storage, (opened[-1],))

    driver = ZolderDriver(configuration=configure("san_ip = 192.0.2.1"), connect=connect)
    with pytest.raises(exception.VolumeBackendAPIException):
        driver.do_setup(None)
    driver.do_setup(None)
    driver.do_setup(None)
    driver.check_for_setup_error()
    assert [is_closed(pool) for pool in pools] == [True, False]


def test_a_san_that_is_left_has_no_channel(configure: Configure, tmp_path: Path) -> None:
    """Closing it ends the agents at the other ends, and refuses what comes after."""
    script = tmp_path / "agent.py"
    known = ["lio", "attachments", "properties", "revert", "groups", "adoption", "contents", "moves"]
    features = json.dumps(known)
    source = Path(agent.__file__).read_text()
    script.write_text(source.replace('"features": []', f'"features": {features}'))
    way = LocalAgent((sys.executable, "-S", "-E", str(script), "none"))
    san = open_san(dataclasses.replace(read_settings(configure("san_ip = 192.0.2.1")), way=way))
    assert [is_closed(pool) for pool in san.pools] == [False, False]
    san.close()
    assert [is_closed(pool) for pool in san.pools] == [True, True]


def is_closed(pool: Pool) -> bool:
    """Say whether a pool gives out no channel any more."""
    try:
        pool.greet(Deadline.after(10))
    except ConnectDenied as err:
        return "is closed" in err.message
    except ConnectFailed:
        return False
    return False
