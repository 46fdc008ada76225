"""The lab's cloud and Tempest, as far as they can be looked at without machines."""

from __future__ import annotations

import base64
import configparser
import json
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import requests

from lab.cloud import backup, cinder, keystone, suite
from lab.cloud.cloud import adopting_policy, services_stay_off
from lab.cloud.ground import PORTS, SECRETS, Ground
from lab.cloud.outcomes import Outcomes, meaning_of, read_outcomes
from lab.cloud.service import Services, answers
from lab.cloud.venvs import REQUIREMENTS, Environment
from lab.errors import LabError
from lab.policy import CONFIGURATION
from lab.ports import free_ports
from lab.tempest import ALL, selects_backups

SAN = {
    "known_hosts": "/lab/known_hosts",
    "san_ssh_port": "2201",
    "agent_key": "/lab/agent",
    "san_address": "192.168.77.1",
    "san_second_address": "192.168.78.1",
}


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    """A place for a cloud of which nothing runs."""
    environments = {name: Environment(tmp_path / "venv" / name) for name in REQUIREMENTS}
    ground = Ground(
        tmp_path / "cloud",
        environments,
        ports={name: 40000 + number for number, name in enumerate(PORTS)},
        secrets={name: f"secret-of-{name}" for name in SECRETS},
    )
    ground.prepare()
    return ground


def line(name: str, status: str, reason: str = "") -> str:
    """Return a test's line, as lab.cloud.read_results writes it."""
    return json.dumps({"id": name, "status": status, "reason": reason})


def read(path: Path) -> configparser.ConfigParser:
    """Read a configuration file that a service would read."""
    found = configparser.ConfigParser(interpolation=None)
    found.read(path)
    return found


# Counting


def test_each_test_counts_once() -> None:
    """What passed, failed and was skipped is counted apart."""
    lines = [line("a", "success"), line("b", "fail", "Traceback"), line("c", "skip", "no compute")]
    found = read_outcomes(lines)
    assert found == Outcomes(("a",), (("b", "Traceback"),), (("c", "no compute"),))
    assert found.lines()[-1] == "1 passed, 1 failed, 1 skipped"
    assert not found.is_good


def test_a_test_without_an_end_has_failed() -> None:
    """A worker that died in the middle of a test does not make it disappear."""
    found = read_outcomes([line("a", "success"), line("b", "inprogress"), line("c", "unknown")])
    assert [name for name, _ in found.failed] == ["b", "c"]


def test_an_announcement_is_no_outcome() -> None:
    """That there is a test says nothing of how it went."""
    assert read_outcomes([line("a", "exists")]) == Outcomes((), (), ())


def test_nothing_run_is_not_good() -> None:
    """A pattern that selects no test, or skipped tests alone, are no success."""
    assert not Outcomes((), (), ()).is_good
    assert not Outcomes((), (), (("a", "no compute"),)).is_good


def test_skipped_tests_are_counted_by_reason() -> None:
    """The account names each reason with its number, the most frequent first."""
    skipped = [("a", "Cinder backup feature disabled"), ("b", "compute is off"), ("c", "compute is off")]
    found = Outcomes(("d",), (), tuple(skipped))
    assert list(found.reasons().values()) == [2, 1]
    assert found.lines()[0] == "not run: 2 that need Nova, which the cloud does not have"


def test_an_unknown_reason_stands_as_it_is() -> None:
    """What nobody foresaw is shown, not hidden."""
    assert meaning_of("the moon is full") == "say: the moon is full"


# Configuration


def test_cinder_gets_two_back_ends_on_two_zpools(ground: Ground) -> None:
    """Each section is Zolder's driver, below a parent of its own zpool."""
    with Services(ground.logs) as services:
        path = cinder.CinderServices(ground, services, native=False).configure(
            SAN, keystone.Tenant("project", "user")
        )
    found = read(path)
    names = found["DEFAULT"]["enabled_backends"].split(",")
    assert [found[name]["san_zfs_volume_base"] for name in names] == ["data/volumes", "fast/volumes"]
    assert {found[name]["volume_driver"] for name in names} == {"zolder.cinder.driver.ZolderDriver"}
    assert found["keystone_authtoken"]["auth_url"] == "http://127.0.0.1:40004/v3"
    assert found["database"]["connection"].endswith("@127.0.0.1:40000/cinder")


def test_the_guest_sees_this_machine_at_its_gateway(ground: Ground) -> None:
    """cinder-backup in the guest asks nobody at its own loopback."""
    text = backup.configuration(ground)
    assert "127.0.0.1" not in text
    assert text.count("@10.0.2.2:") == 2
    assert "auth_url = http://10.0.2.2:40004/v3" in text


def test_the_san_lets_both_back_ends_adopt() -> None:
    """The policy of the cloud's SAN is the lab's, and says which parents may be adopted from."""
    lab, cloud = tomllib.loads(CONFIGURATION), tomllib.loads(adopting_policy())
    assert cloud["identity"]["lab"].pop("adopt_from") == ["data/volumes", "fast/volumes"]
    assert cloud == lab


def test_keystone_s_keys_are_keys(tmp_path: Path) -> None:
    """A repository has a staged and a primary key, each of 32 bytes, different and ours alone."""
    keystone.write_keys(tmp_path / "keys")
    keys = [(tmp_path / "keys" / name).read_bytes() for name in ("0", "1")]
    assert [len(base64.urlsafe_b64decode(key)) for key in keys] == [32, 32]
    assert keys[0] != keys[1]
    assert stat.S_IMODE((tmp_path / "keys/1").stat().st_mode) == 0o600


def test_configuration_is_for_our_eyes(ground: Ground) -> None:
    """A file with a secret in it is readable by its owner alone, and so is the folder."""
    path = ground.write("some.conf", "password = {admin_secret}\n")
    assert path.read_text() == "password = secret-of-admin\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_secrets_are_each_cloud_s_own(tmp_path: Path) -> None:
    """Two clouds share no secret, and none is shown with the ground."""
    one, two = Ground(tmp_path, {}), Ground(tmp_path, {})
    assert not set(one.secrets.values()) & set(two.secrets.values())
    assert not any(secret in repr(one) for secret in one.secrets.values())


def test_tempest_s_templates_are_whole(ground: Ground) -> None:
    """Each field of Tempest's configuration has a value."""
    fields = ("identity", "region", "image", "backends", "microversion", "backup")
    found = read(ground.write("tempest.conf", suite.CONFIGURATION, **dict.fromkeys(fields, "x")))
    assert found["auth"]["admin_password"] == "secret-of-admin"
    assert found["volume"]["backend_names"] == "x"


def test_backups_are_brought_up_for_their_tests_alone() -> None:
    """All tests need cinder-backup, and so do the administrator's alone; a pattern of others does not."""
    assert selects_backups(ALL)
    assert selects_backups(r"^tempest\.api\.volume\.admin")
    assert not selects_backups("tempest.api.volume.test_volumes_(get|clone)")


def test_tempest_s_workers_are_its_own_python_s(ground: Ground) -> None:
    """Tempest starts its workers as `python` of the PATH."""
    first = suite.variables(ground)["PATH"].partition(":")[0]
    assert first == str(ground.environments["tempest"].folder / "bin")


# Programs


@pytest.fixture
def services(ground: Ground) -> Services:
    """Nothing that runs; it takes root, as in CI."""
    return Services(ground.logs)


def test_a_service_takes_its_children_along(services: Services, tmp_path: Path) -> None:
    """What a service started has ended when the service has, even in a session of its own."""
    ready = tmp_path / "ready"
    # Each has the path of `ready` in its command line, by which it is found.
    child = "import sys, time; open(sys.argv[1], 'w').close(); time.sleep(600)"
    parent = (
        "import subprocess, sys\n"
        f"words = [sys.executable, '-c', {child!r}, sys.argv[1]]\n"
        "subprocess.run(words, start_new_session=True)\n"
    )
    with services:
        service = services.start("parent", [sys.executable, "-c", parent, str(ready)])
        service.wait_until_ready(ready.exists)
        assert len(named(ready)) >= 2
    assert named(ready) == []


def named(path: Path) -> list[str]:
    """Return the processes with a path in their command line."""
    found = subprocess.run(["pgrep", "-f", "--", str(path)], capture_output=True, text=True, check=False)
    return found.stdout.split()


def test_a_service_that_ends_says_why(services: Services) -> None:
    """The error of one that does not come up has the end of its log."""
    with services, pytest.raises(LabError, match="no such port") as caught:
        services.start("web", [sys.executable, "-c", "raise SystemExit('no such port')"]).wait_until_ready(
            lambda: False
        )
    assert "web ended with exit status 1" in str(caught.value)


def test_the_network_is_empty(services: Services) -> None:
    """What answers for Neutron has no networks, and lets go of whatever is deleted."""
    port = free_ports(["network"])["network"]
    root = str(Path(__file__).parents[2])
    with services:
        words = [sys.executable, "-m", "lab.cloud.network", str(port)]
        services.start("network", words, env={"PYTHONPATH": root}).wait_until_ready(lambda: answers(port))
        url = f"http://127.0.0.1:{port}/v2.0"
        found = requests.get(f"{url}/security-groups?tenant_id=1", timeout=10).json()
        assert found == {"security_groups": []}
        assert requests.delete(f"{url}/networks/1", timeout=10).ok


def test_installed_services_stay_off(tmp_path: Path) -> None:
    """While packages are installed Debian is told to start nothing, and afterwards nobody is."""
    guard = tmp_path / "policy-rc.d"
    with services_stay_off(guard):
        assert subprocess.run([str(guard), "rabbitmq-server", "start"], check=False).returncode == 101
    assert not guard.exists()


def test_an_administrator_s_policy_is_left(tmp_path: Path) -> None:
    """One that stands already is neither changed nor removed."""
    guard = tmp_path / "policy-rc.d"
    guard.write_text("mine")
    with services_stay_off(guard):
        pass
    assert guard.read_text() == "mine"
