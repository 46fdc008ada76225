"""`zolder-san install`, `authorize`, `revoke`, `list` and `check` on a real SAN, from a bare machine on."""

from __future__ import annotations

import dataclasses
import json
import shlex
import tomllib
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from lab.policy import CONFIGURATION
from tests.contract.ground import INITIATOR, MIB, PARENT, PREFIX, ROUTE
from tests.support.san import connected, ssh_target
from tests.support.waiting import wait_until
from zolder.client.pool import Pool
from zolder.client.remote import RemoteStorage
from zolder.client.ssh import SshTarget
from zolder.errors import BackendError, ConnectFailed, NotPermitted
from zolder.names import VolumeId, ZvolName

if TYPE_CHECKING:
    from lab import Lab

VOLUME: Final = ZvolName("volume-installed")
AUTHORIZE: Final = "zolder-san authorize lab --key - --parent data/volumes --portal 192.168.77.1"
PASSWORD: Final = "three-in-the-morning"
# What a machine has on which Zolder was never installed, but for the code itself.
BARE: Final = """
systemctl stop zolder-helper.socket zolder-helper.service
systemctl stop zolder-portals.service zolder-restore.service
systemctl disable zolder-helper.socket zolder-portals.service zolder-restore.service
rm -rf /etc/systemd/system/zolder-* /etc/zolder /var/lib/zolder /var/lib/zolder-helper /run/zolder
rm -f /etc/ssh/sshd_config.d/*zolder.conf /etc/tmpfiles.d/zolder.conf /etc/modules-load.d/zolder.conf
rm -f /etc/udev/rules.d/*-zolder.rules
systemctl daemon-reload
for parent in data/volumes data/more data/other fast/volumes; do zfs unallow -u zolder $parent; done
userdel zolder
"""


@pytest.fixture(scope="module", autouse=True)
def pristine(lab: Lab) -> None:
    """A SAN that nobody has used."""
    lab.reset()


def with_key(lab: Lab, command: str) -> str:
    """Return a command with the lab's public key on its standard input."""
    key = Path(lab.environment()["agent_key"]).with_suffix(".pub").read_text().strip()
    return f"printf '%s\\n' {shlex.quote(key)} | {command}"


def create(storage: RemoteStorage) -> None:
    """Create the volume of these tests."""
    volume_id = VolumeId(str(uuid.uuid5(uuid.NAMESPACE_OID, VOLUME)))
    storage.create_zvol(PARENT, VOLUME, volume_id=volume_id, volsize_bytes=MIB, sparse=True)


def findings(lab: Lab) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what the check finds that is worse than a note, by check and subject."""
    report = json.loads(lab.san.run("zolder-san check --json").stdout)
    return {
        (finding["check"], finding["subject"]): finding
        for finding in report["findings"]
        if finding["level"] in {"warning", "failure", "unknown"}
    }


def test_the_lab_is_as_installed(lab: Lab) -> None:
    """What the lab's image holds is what the commands make: they find nothing to change."""
    assert lab.san.succeed("zolder-san install --dry-run").strip() == "Nothing to change."
    portals = tomllib.loads(CONFIGURATION)["identity"]["lab"]["portals"]
    parents = "--parent data/more --parent fast/volumes"
    all_of_it = " ".join([AUTHORIZE, parents, *(f"--portal {portal}" for portal in portals)])
    both = with_key(lab, f"{all_of_it} --dry-run")
    assert lab.san.succeed(both).strip() == "Nothing to change."
    found = findings(lab)
    assert [name for name, finding in found.items() if finding["level"] != "warning"] == []


def test_from_a_bare_machine(lab: Lab) -> None:
    """Installed, an identity is let in and does its work; revoked, it is out at once, its volumes stay."""
    lab.san.succeed(f"set -e\n{BARE}", timeout_seconds=120)
    planned = lab.san.succeed("zolder-san install --dry-run", timeout_seconds=120)
    assert "useradd" in planned
    assert lab.san.run("id zolder").exit_status != 0, "a dry run changes nothing"
    done = lab.san.succeed("zolder-san install", timeout_seconds=120)
    assert "systemctl enable --now zolder-helper.socket" in done
    assert lab.san.succeed("zolder-san install", timeout_seconds=120).strip() == "Nothing to change."
    lab.san.succeed(with_key(lab, AUTHORIZE), timeout_seconds=120)
    assert lab.san.succeed(with_key(lab, AUTHORIZE), timeout_seconds=120).strip() == "Nothing to change."
    pool = Pool(ssh_target(lab))
    storage = RemoteStorage(pool, deadline_seconds=60)
    try:
        storage.get_figures(PARENT)
        create(storage)
        storage.export_zvol(PARENT, VOLUME, INITIATOR, route=ROUTE, attachment=None, chap=None)
        listed = json.loads(lab.san.succeed("zolder-san list --json"))
        assert [(one["identity"], one["open_channels"]) for one in listed] == [("lab", 1)]
        said = lab.san.succeed("zolder-san revoke lab", timeout_seconds=120)
        assert "stay" in said
        with pytest.raises(ConnectFailed, match="refused the login"):
            storage.get_zvol(PARENT, VOLUME)
    finally:
        pool.close()
    assert "user zolder" not in lab.san.succeed("zfs allow data/volumes")
    assert "[identity.lab]" not in lab.san.succeed("cat /etc/zolder/san.toml")
    assert lab.san.succeed(f"ls /sys/kernel/config/target/iscsi/{PREFIX}{VOLUME}/tpgt_1/acls").split() == [
        INITIATOR
    ]
    lab.san.succeed(with_key(lab, AUTHORIZE), timeout_seconds=120)
    with connected(lab) as again:
        assert [export.zvol for export in again.list_exports(PARENT)] == [VOLUME]
        again.delete_zvol(PARENT, VOLUME)


def test_a_login_by_password(lab: Lab) -> None:
    """It reaches the agent as its own identity and nothing else; the key's user takes no password."""
    lab.san.succeed(
        "zolder-san authorize ops --password --role read-only --parent data/other", timeout_seconds=120
    )
    lab.san.succeed(f"printf 'zolder-ops:{PASSWORD}\\n' | chpasswd")
    by_password = dataclasses.replace(
        ssh_target(lab), login="zolder-ops", private_key=None, password=PASSWORD
    )
    pool = Pool(by_password)
    try:
        storage = RemoteStorage(pool, deadline_seconds=60)
        assert storage.greet().identity == "ops"
        with pytest.raises(NotPermitted):
            create(storage)
    finally:
        pool.close()
    wrong = dataclasses.replace(by_password, password="wrong-one")
    assert "and that the password is that user's" in refusal(wrong)
    assert "wrong-one" not in refusal(wrong)
    lab.san.succeed("zolder-san revoke ops", timeout_seconds=120)
    assert "refused the login" in refusal(by_password)


def refusal(target: SshTarget) -> str:
    """Return the sentence with which a login fails."""
    pool = Pool(target)
    try:
        with pytest.raises(ConnectFailed) as raised:
            RemoteStorage(pool, deadline_seconds=60).greet()
        return raised.value.message
    finally:
        pool.close()


BREAKAGES: Final = {
    ("policy", "/etc/zolder/san.toml"): ("chmod 666 /etc/zolder/san.toml", "chmod 644 /etc/zolder/san.toml"),
    ("helper", "zolder-helper.socket"): (
        "systemctl stop zolder-helper.socket",
        "systemctl start zolder-helper.socket",
    ),
    ("parent", "data/volumes"): (
        "zfs unallow -d -u zolder destroy data/volumes; zfs set snapdev=visible data/volumes",
        "zfs allow -d -u zolder destroy data/volumes; zfs set snapdev=hidden data/volumes",
    ),
    ("udev", "rules"): (
        "mv /etc/udev/rules.d/90-zolder.rules /run/90",
        "mv /run/90 /etc/udev/rules.d/90-zolder.rules",
    ),
}


def test_check_finds_what_is_broken(lab: Lab) -> None:
    """Each of several faults is found where it is, with a remedy, and is gone when it is mended."""
    before = findings(lab)
    for do, _ in BREAKAGES.values():
        lab.san.succeed(do)
    found = findings(lab)
    new = found.keys() - before.keys()
    assert {check for check, _ in BREAKAGES} <= {check for check, _ in new}, sorted(new)
    assert all(found[place]["remedy"] for place in new)
    for _, undo in BREAKAGES.values():
        lab.san.succeed(undo)
    assert findings(lab).keys() == before.keys()


def test_the_agent_says_what_is_missing(lab: Lab) -> None:
    """A SAN whose delegation was taken away says to a client what root must run there."""
    lab.san.succeed("zfs unallow -u zolder data/volumes")
    try:
        with connected(lab, channels=1) as storage, pytest.raises(BackendError, match="'zolder-san install'"):
            create(storage)
    finally:
        lab.san.succeed("zolder-san install", timeout_seconds=120)
    with connected(lab, channels=1) as storage:
        create(storage)
        wait_until(lambda: storage.get_zvol(PARENT, VOLUME).name == VOLUME, 5, "it is there")
