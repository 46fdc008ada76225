"""Cinder itself, over REST, against the real SAN: what it believes and what the SAN holds agree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from lab.cinder import Cinder
from lab.errors import LabError
from lab.waiting import wait_until

if TYPE_CHECKING:
    from lab import Lab
    from lab.volumes import Volumes

TARGETS = "/sys/kernel/config/target/iscsi"
PREFIX = "iqn.2010-10.org.openstack:volume-"


def connector_of(name: str) -> dict[str, Any]:
    """Return what os-brick would say of a machine."""
    return {
        "initiator": f"iqn.2004-10.org.zolder:{name}",
        "host": name,
        "ip": "192.168.77.2",
        "multipath": False,
    }


@pytest.fixture(scope="module")
def cinder(lab: Lab) -> Iterator[Cinder]:
    """Cinder with an empty database on a pristine SAN."""
    lab.reset()
    running = Cinder(lab)
    running.up(fresh=True)
    yield running
    if not lab.keep:
        running.down()


@pytest.fixture
def volumes(cinder: Cinder) -> Volumes:
    """A client of its API."""
    return cinder.volumes()


def initiators(lab: Lab, volume: str) -> list[str]:
    """Return the last words of the names of those whom LIO lets log in to a volume's target."""
    found = lab.san.run(f"ls {TARGETS}/{PREFIX}{volume}/tpgt_1/acls").stdout.split()
    return sorted(name.rpartition(":")[2] for name in found)


def backend_state(volumes: Volumes) -> str:
    """Return how the scheduler sees the back end."""
    [pool] = volumes.pools()
    return str(pool["backend_state"])


def test_a_volume_is_a_zvol(lab: Lab, volumes: Volumes) -> None:
    """Made over REST it is there with Cinder's size and id; deleted it is gone."""
    volume = volumes.create(1)
    name = f"data/volumes/volume-{volume}"
    assert lab.san.succeed(f"zfs get -Hpo value volsize,zolder:volume {name}").split() == [str(2**30), volume]
    volumes.delete(volume)
    assert lab.san.run(f"zfs list {name}").exit_status != 0


def test_attachments_open_and_close(lab: Lab, volumes: Volumes) -> None:
    """Two machines, one of them twice: each is let in once, and nobody is cut by another's going."""
    volume = volumes.create(1, multiattach=True)
    attachments = []
    for name in ("one", "one", "two"):
        attachment, connection = volumes.attach(volume, connector_of(name))
        volumes.complete(attachment)
        attachments.append(attachment)
    first, again, second = attachments
    assert connection["target_iqn"] == f"{PREFIX}{volume}"
    assert connection["auth_method"] == "CHAP"
    assert initiators(lab, volume) == ["one", "two"]
    volumes.detach(first)
    assert initiators(lab, volume) == ["one", "two"]
    volumes.detach(again)
    assert initiators(lab, volume) == ["two"]
    volumes.detach(second)
    assert PREFIX + volume not in lab.san.succeed(f"ls {TARGETS}")
    volumes.delete(volume)


def test_a_zpool_that_is_away(lab: Lab, volumes: Volumes) -> None:
    """Deleting then fails and forgets nothing; the back end is down and comes back by itself."""
    volume = volumes.create(1)
    lab.san.succeed("zpool export data")
    with pytest.raises(LabError, match="error_deleting"):
        volumes.delete(volume)
    wait_until(lambda: backend_state(volumes) == "down", 60, "the back end to be reported as down")
    lab.san.succeed("zpool import data")
    wait_until(lambda: backend_state(volumes) == "up", 60, "the back end to be reported as up again")
    assert volumes.names() == [volume]
    assert lab.san.succeed(f"zfs list -Ho name data/volumes/volume-{volume}").strip()
    volumes.reset_state(volume)
    volumes.delete(volume)


# Nobody new gets in, the agents' connections end, and this test's own stays.
SHUT = """set -e
nft add table inet away
nft add chain inet away input '{ type filter hook input priority 0; }'
nft add rule inet away input tcp dport 22 ct state new drop
pkill -u zolder
"""


def test_a_san_that_is_away(lab: Lab, cinder: Cinder, volumes: Volumes) -> None:
    """The log says in one sentence what is wrong, the back end is down, and it comes back by itself."""
    lab.san.succeed(SHUT)
    try:
        wait_until(lambda: backend_state(volumes) == "down", 90, "the back end to be reported as down")
    finally:
        lab.san.succeed("nft delete table inet away")
    wait_until(lambda: backend_state(volumes) == "up", 90, "the back end to be reported as up again")
    assert "zolder@127.0.0.1 port" in cinder.log.read_text()
    volumes.delete(volumes.create(1))


def test_who_is_attached_comes_back_with_cinder(lab: Lab, cinder: Cinder, volumes: Volumes) -> None:
    """A SAN that lost its targets has them again after cinder-volume's start, for the same initiators."""
    volume = volumes.create(1)
    attachment, before = volumes.attach(volume, connector_of("one"))
    volumes.complete(attachment)
    cinder.down()
    lab.san.succeed("targetcli clearconfig confirm=True")
    assert initiators(lab, volume) == []
    cinder.up()
    assert initiators(lab, volume) == ["one"]
    volumes = cinder.volumes()
    secret = lab.san.succeed(f"cat {TARGETS}/{PREFIX}{volume}/tpgt_1/acls/*/auth/password").strip()
    assert secret == before["auth_password"]
    volumes.detach(attachment)
    volumes.delete(volume)
