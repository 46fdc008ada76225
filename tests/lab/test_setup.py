"""Set-up against the real SAN: whatever is wrong ends it with one sentence that says what to do."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cinder import exception
from oslo_config import cfg

from tests.support.backend import read_section
from zolder.cinder.driver import ZolderDriver
from zolder.client.remote import RemoteStorage

if TYPE_CHECKING:
    from lab import Lab
    from lab.machine import Machine

SetUp = Callable[..., ZolderDriver]
AGENT = "/usr/local/bin/zolder-san"
WIRE = "/usr/local/lib/zolder/zolder/wire.py"
# Of nobody's but this test's machines.


@pytest.fixture(scope="module", autouse=True)
def pristine(lab: Lab) -> None:
    """A SAN that nobody has used."""
    lab.reset()


@pytest.fixture
def set_up(lab: Lab, tmp_path: Path) -> Iterator[SetUp]:
    """A function that sets a driver up as cinder-volume does, with options changed or left out by None."""
    environment = lab.environment()
    drivers = []

    def run(known_hosts: str = environment["known_hosts"], **changed: str | None) -> ZolderDriver:
        options = {
            "san_ip": "127.0.0.1",
            "san_ssh_port": environment["san_ssh_port"],
            "san_login": "zolder",
            "san_private_key": environment["agent_key"],
            "san_zfs_volume_base": "data/volumes",
            "target_ip_address": environment["san_address"],
            **changed,
        }
        lines = [f"{name} = {value}" for name, value in options.items() if value is not None]
        section = "\n".join([*lines, "[DEFAULT]", f"ssh_hosts_key_file = {known_hosts}"])
        driver = ZolderDriver(configuration=read_section(tmp_path, section), host="control@zolder")
        driver.do_setup(None)
        drivers.append(driver)  # one that was not set up has closed its channels
        driver.check_for_setup_error()
        return driver

    yield run
    for driver in drivers:
        for storage in (driver._san.storage, driver._san.soon):
            assert isinstance(storage, RemoteStorage)
            storage._pool.close()
    cfg.CONF.reset()


@contextmanager
def changed(san: Machine, do: str, undo: str) -> Iterator[None]:
    """Have something wrong on the SAN for the block."""
    try:
        san.succeed(f"set -e\n{do}")
        yield
    finally:
        san.succeed(f"set -e\n{undo}")


def refusal(set_up: SetUp, **options: str | None) -> str:
    """Return the sentence with which set-up ends."""
    with pytest.raises((exception.VolumeBackendAPIException, exception.InvalidConfigurationValue)) as raised:
        set_up(**options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_all_is_well(set_up: SetUp) -> None:
    """The driver is set up, and its figures are the zpool's."""
    [pool] = set_up().get_volume_stats(refresh=True)["pools"]
    assert 0 < pool["free_capacity_gb"] <= pool["total_capacity_gb"]


def test_a_host_key_that_is_not_known(set_up: SetUp, tmp_path: Path) -> None:
    """Nothing is trusted on first use, and the file stays empty."""
    known_hosts = tmp_path / "known_hosts"
    known_hosts.touch()
    assert f"is not in {known_hosts}: read it with ssh-keyscan" in refusal(
        set_up, known_hosts=str(known_hosts)
    )
    assert not known_hosts.read_text()


def test_a_host_key_that_changed(lab: Lab, set_up: SetUp, tmp_path: Path) -> None:
    """Another machine behind the address is refused."""
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    known_hosts = tmp_path / "known_hosts"
    public = (tmp_path / "other.pub").read_text()
    known_hosts.write_text(f"[127.0.0.1]:{lab.san.ssh_port} {public}")
    assert "compare its fingerprint" in refusal(set_up, known_hosts=str(known_hosts))


def test_a_user_that_the_san_does_not_have(set_up: SetUp) -> None:
    """The sentence names user and key."""
    assert "nobody-here@127.0.0.1" in (sentence := refusal(set_up, san_login="nobody-here"))
    assert "refused the login: check the user's name" in sentence


def test_a_parent_of_another_identity(lab: Lab, set_up: SetUp) -> None:
    """What another key may use is not there for this one."""
    sentence = refusal(set_up, san_private_key=lab.environment()["other_key"])
    assert "data/volumes is not among those of identity other in this SAN's policy" in sentence


def test_a_parent_that_is_missing(lab: Lab, set_up: SetUp) -> None:
    """The command that makes it is in the sentence."""
    with changed(lab.san, "zfs destroy fast/volumes", "zfs create -o volmode=dev fast/volumes"):
        sentence = refusal(set_up, san_zfs_volume_base="fast/volumes")
    assert "this SAN has no dataset fast/volumes: make it with 'zfs create -p fast/volumes'" in sentence


def test_a_zpool_that_is_exported(lab: Lab, set_up: SetUp) -> None:
    """It is the SAN's matter: the back end comes up by itself once the zpool is back."""
    with changed(lab.san, "zpool export fast", "zpool import fast"):
        sentence = refusal(set_up, san_zfs_volume_base="fast/volumes")
        assert "zpool fast is not imported on this SAN: see 'zpool import'" in sentence
    set_up(san_zfs_volume_base="fast/volumes")


def test_no_agent(lab: Lab, set_up: SetUp) -> None:
    """A SAN where it was never installed."""
    with changed(lab.san, f"mv {AGENT} {AGENT}.away", f"mv {AGENT}.away {AGENT}"):
        assert "zolder-san is not installed for the login zolder@127.0.0.1" in refusal(set_up)


@pytest.mark.parametrize(
    ("figures", "older"), [("999.0", "zolder on this control node"), ("0.0", "zolder-san on the SAN")]
)
def test_an_agent_of_another_version(lab: Lab, set_up: SetUp, figures: str, older: str) -> None:
    """Which of the two to upgrade is said."""
    package = WIRE.rpartition("/")[0]
    do = (
        f"cp -a {package} {package}.right; sed -i 's/^PROTOCOLS.*/PROTOCOLS = (99,)/' {WIRE};"
        f"sed -i 's/^__version__.*/__version__ = \"{figures}\"/' {package}/__init__.py"
    )
    with changed(lab.san, do, f"rm -r {package}; mv {package}.right {package}"):
        sentence = refusal(set_up)
    assert f"zolder-san {figures} at zolder@127.0.0.1" in sentence
    assert sentence.endswith(f"share no protocol: upgrade {older}.")


def test_a_san_without_zfs(lab: Lab, set_up: SetUp) -> None:
    """Neither its library nor its module is taken for granted."""
    there = "/lib/x86_64-linux-gnu/libzfs_core.so.3"
    with changed(lab.san, f"mv {there} {there}.away", f"mv {there}.away {there}"):
        assert "install zfsutils-linux (2.1 or newer) on it" in refusal(set_up)
    # A channel that was closed a moment ago may still be on its way out, and has ZFS open.
    lab.san.wait_until("! pgrep -f '[s]erve --identity'", 60, "all agents to end")
    blocked = "/etc/modprobe.d/blocked.conf"
    do = (
        f"zpool export -a; echo 'install zfs /bin/false' > {blocked}; systemctl stop zfs-zed; modprobe -r zfs"
    )
    with changed(lab.san, do, f"rm -f {blocked}; modprobe zfs; zpool import -a"):
        assert "load it with 'modprobe zfs' and see dmesg" in refusal(set_up)
