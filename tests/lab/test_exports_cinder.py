"""Every kind of export through Cinder's REST API and os-brick: three back ends at once on one SAN.

Each test's id names the exporter that it ran on. Multipath is multipathd's for iSCSI and the kernel's own for
NVMe; the paths go over the lab's two private links.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from cinderclient import exceptions

from lab.conversation import Conversation
from lab.demo import INITIATOR, INITIATOR_COMMAND
from lab.waiting import wait_until
from tests.contract.ground import PARENT
from tests.support.connectors import connector_of, initiator_of, standing
from tests.support.exported import ADDRESS, SECOND_ADDRESS, portal_of, wait_for_blocks
from zolder.names import NVMET, ExporterName

if TYPE_CHECKING:
    from lab import Lab
    from lab.cinder import Cinder
    from lab.volumes import Volumes
    from zolder.client.remote import RemoteStorage

pytestmark = pytest.mark.timeout(400)

GIB = 2**30
LINKS = {"192.168.77.": "eth1", "192.168.78.": "eth2"}


@pytest.fixture(scope="module")
def brick(lab: Lab, cinder: Cinder) -> Iterator[Conversation]:  # noqa: ARG001 - after the reset that Cinder begins with
    """os-brick in the compute machine."""
    with closing(Conversation(lab.compute, [INITIATOR], INITIATOR_COMMAND)) as program:
        yield program


@dataclass
class Attached:
    """A volume that the compute machine has, through os-brick."""

    volumes: Volumes
    brick: Conversation
    volume: str
    attachment: str
    connection: dict[str, Any]
    device: str
    multipath: bool

    def detach(self) -> None:
        """Let go of it, first the machine and then Cinder."""
        self.brick.ask("disconnect", connection=self.connection, device=self.device, multipath=self.multipath)
        self.volumes.detach(self.attachment)
        self.volumes.wait(self.volume, "available")


def attach(volumes: Volumes, brick: Conversation, volume: str, *, multipath: bool = False) -> Attached:
    """Attach a volume as Nova does."""
    connector = brick.ask("properties", multipath=multipath)
    attachment, connection = volumes.attach(volume, connector)
    device = brick.ask("connect", connection=connection, multipath=multipath)
    volumes.complete(attachment)
    return Attached(volumes, brick, volume, attachment, connection, device, multipath)


def test_a_volumes_life_with_os_brick(
    volumes: Volumes, brick: Conversation, exporter: ExporterName, note: Callable[[str], None]
) -> None:
    """Attached, written, grown in use, trimmed, detached, attached again, read: each checksum is equal."""
    volume = volumes.create(1, backend=exporter)
    attached = attach(volumes, brick, volume)
    brick.ask("make_file_system", device=attached.device)
    sums = brick.ask("write_files", device=attached.device, name="first", count=4, size_bytes=2**20)
    volumes.extend(volume, 2)
    assert brick.ask("grow", connection=attached.connection) == 2 * GIB
    assert brick.ask("grow_file_system", device=attached.device) > GIB
    sums |= brick.ask("write_files", device=attached.device, name="second", count=4, size_bytes=2**20)
    attached.detach()
    attached = attach(volumes, brick, volume)
    assert brick.ask("read_files", device=attached.device) == sums
    if attached.connection["discard"]:
        given_back = brick.ask("trim", device=attached.device)
        note(f"fstrim over os-brick gave back {given_back} bytes")
        assert given_back > 8 * 2**20
    attached.detach()
    volumes.delete(volume)


def test_every_portal_is_told(volumes: Volumes, exporter: ExporterName) -> None:
    """The connection names both addresses, and what os-brick needs of this protocol."""
    volume = volumes.create(1, backend=exporter)
    attachment, connection = volumes.attach(volume, connector_of())
    portals = [str(portal_of(exporter, address)) for address in (ADDRESS, SECOND_ADDRESS)]
    if exporter == NVMET:
        assert [f"{address}:{port}" for address, port, _ in connection["portals"]] == portals
        assert connection["driver_volume_type"] == "nvmeof"
        assert connection["vol_uuid"] == volume
        assert "auth_method" not in connection
    else:
        assert connection["target_portals"] == portals
        assert connection["target_portal"] == portals[0]
        assert connection["driver_volume_type"] == "iscsi"
        assert connection["auth_method"] == "CHAP"
    volumes.detach(attachment)
    volumes.delete(volume)


@contextmanager
def cut(lab: Lab, device: str) -> Iterator[None]:
    """Let nothing through one of compute's links, in silence, as a pulled cable does."""
    lab.compute.succeed(
        "set -e; nft add table inet cut;"
        " nft add chain inet cut input '{ type filter hook input priority -300; }';"
        " nft add chain inet cut output '{ type filter hook output priority -300; }';"
        f" nft add rule inet cut input iifname {device} drop;"
        f" nft add rule inet cut output oifname {device} drop"
    )
    try:
        yield
    finally:
        lab.compute.succeed("nft delete table inet cut")


def count_paths(lab: Lab, exporter: ExporterName, device: str) -> int:
    """Return how many paths to a disk work, by the word of multipathd or of the kernel."""
    name = device.removeprefix("/dev/")
    if exporter == NVMET:
        # The namespace's head: nvme0n1; the controllers of its subsystem are its paths.
        states = lab.compute.run(f"cat /sys/block/{name}/device/nvme*/state").stdout.split()
        return states.count("live")
    return lab.compute.run(["multipathd", "show", "paths", "raw", "format", "%m %t"]).stdout.count(
        f"{lab.compute.succeed(f'cat /sys/block/{name}/dm/name').strip()} active"
    )


def test_one_of_two_paths_is_cut_during_a_write(
    lab: Lab,
    volumes: Volumes,
    brick: Conversation,
    writer: Conversation,
    exporter: ExporterName,
    note: Callable[[str], None],
) -> None:
    """Either path may go while it is written to: no error, it goes on over the other, every byte is right."""
    volume = volumes.create(1, backend=exporter)
    attached = attach(volumes, brick, volume, multipath=True)
    device = attached.device
    assert device.startswith("/dev/nvme" if exporter == NVMET else "/dev/dm-")

    def wait_for_paths(count: int) -> None:
        lab.compute.wait_until(
            lambda: count_paths(lab, exporter, device) == count, 90, f"{count} paths to {device}"
        )

    wait_for_paths(2)
    writer.ask("start", device=device)
    wait_for_blocks(lab, writer, 16)
    for link in LINKS.values():
        with cut(lab, link):
            wait_for_paths(1)
            wait_for_blocks(lab, writer, 16)
        wait_for_paths(2)
        wait_for_blocks(lab, writer, 16)
    after = writer.ask("stop")
    assert not after["error"]
    assert writer.ask("count_wrong") == 0
    note(f"{after['written']} blocks over two cuts; the slowest took {after['longest_seconds']} s")
    attached.detach()
    volumes.delete(volume)


def test_it_grows_under_multipath(
    volumes: Volumes, brick: Conversation, writer: Conversation, exporter: ExporterName
) -> None:
    """All paths see the new size, and so does the disk above them, while it is written to."""
    volume = volumes.create(1, backend=exporter)
    attached = attach(volumes, brick, volume, multipath=True)
    writer.ask("start", device=attached.device)
    volumes.extend(volume, 2)
    assert brick.ask("grow", connection=attached.connection, multipath=True) == 2 * GIB
    assert not writer.ask("stop")["error"]
    assert writer.ask("size_of", device=attached.device) == 2 * GIB
    assert writer.ask("count_wrong") == 0
    attached.detach()
    volumes.delete(volume)


def test_a_live_migration_in_cinder(
    volumes: Volumes, brick: Conversation, agent: RemoteStorage, exporter: ExporterName
) -> None:
    """The second machine attaches before the first detaches; the first's going leaves the second's export."""
    volume = volumes.create(1, backend=exporter, multiattach=True)
    attached = attach(volumes, brick, volume)
    target, _ = volumes.attach(volume, connector_of(second=True))
    volumes.complete(target)
    both = sorted([initiator_of(exporter), initiator_of(exporter, second=True)])
    assert standing(agent, volume) == both
    brick.ask("disconnect", connection=attached.connection, device=attached.device)
    volumes.detach(attached.attachment)
    assert standing(agent, volume) == [initiator_of(exporter, second=True)]
    volumes.detach(target)
    assert standing(agent, volume) == []
    volumes.delete(volume)


def test_two_that_detach_at_once(volumes: Volumes, agent: RemoteStorage, exporter: ExporterName) -> None:
    """The last two attachments end in the same moment, in Cinder too, and nothing stays open or on record."""
    volume = volumes.create(1, backend=exporter, multiattach=True)
    for second in (True, False):
        attachments = []
        for connector in (connector_of(), connector_of(second=second)):
            attachment, _ = volumes.attach(volume, connector)
            volumes.complete(attachment)
            attachments.append(attachment)
        ends = [threading.Thread(target=volumes.detach, args=(attachment,)) for attachment in attachments]
        for end in ends:
            end.start()
        for end in ends:
            end.join()
        volumes.wait(volume, "available")
        assert standing(agent, volume) == []
    assert not [access for access in agent.list_attachments(PARENT) if access.zvol == f"volume-{volume}"]
    volumes.delete(volume)


def test_a_forced_detachment_closes_it_to_all(
    lab: Lab, volumes: Volumes, brick: Conversation, agent: RemoteStorage, exporter: ExporterName
) -> None:
    """Without a connector, as for a machine that is gone: nobody reaches it, and Cinder can delete it."""
    volume = volumes.create(1, backend=exporter)
    attached = attach(volumes, brick, volume)
    volumes.force_detach(volume)
    volumes.wait(volume, "available")
    assert standing(agent, volume) == []
    assert not [access for access in agent.list_attachments(PARENT) if access.zvol == f"volume-{volume}"]
    # The machine is not gone here, and lets go by hand: os-brick would wait for its last writes.
    lab.compute.run(f"iscsiadm -m node -T iqn.2010-10.org.openstack:volume-{volume} -u")
    lab.compute.run(f"nvme disconnect -d {attached.device}")
    volumes.delete(volume)


def test_a_second_attachment_that_fails_cuts_nobody(
    lab: Lab,
    volumes: Volumes,
    brick: Conversation,
    writer: Conversation,
    agent: RemoteStorage,
    exporter: ExporterName,
) -> None:
    """Root's half of the SAN is away for the second one: it fails for it alone, and the first writes on."""
    volume = volumes.create(1, backend=exporter, multiattach=True)
    attached = attach(volumes, brick, volume)
    writer.ask("start", device=attached.device)
    lab.san.succeed("systemctl stop zolder-helper.socket zolder-helper.service")
    try:
        with pytest.raises(exceptions.ClientException):
            volumes.attach(volume, connector_of(second=True))
    finally:
        lab.san.succeed("systemctl start zolder-helper.socket")
    wait_for_blocks(lab, writer, 8)
    assert not writer.ask("stop")["error"]
    assert writer.ask("count_wrong") == 0
    assert standing(agent, volume) == [initiator_of(exporter)]
    for attachment in volumes.attachments(volume):
        if attachment != attached.attachment:
            volumes.detach(attachment)
    assert standing(agent, volume) == [initiator_of(exporter)]
    attached.detach()
    assert standing(agent, volume) == []
    volumes.delete(volume)


# All exports of a kind taken away, as somebody with root and no knowledge of us would.
LOSE = {
    "lio": "targetcli clearconfig confirm=True",
    "tgt": "systemctl restart tgt",
    "nvmet": "cd /sys/kernel/config/nvmet && for s in subsystems/*volume-*; do"
    " rm -f ports/*/subsystems/${s##*/} $s/allowed_hosts/*; rmdir $s/namespaces/* $s; done",
}


def test_cinders_start_repairs_and_withdraws_nothing(
    lab: Lab, cinder: Cinder, agent: RemoteStorage, exporter: ExporterName
) -> None:
    """What the SAN lost it has again after cinder-volume's start; what Cinder does not know of stays."""
    volumes = cinder.volumes()
    volume, other = volumes.create(1, backend=exporter), volumes.create(1, backend=exporter)
    attachment, _ = volumes.attach(volume, connector_of())
    volumes.complete(attachment)
    unknown, _ = volumes.attach(other, connector_of())
    cinder.down()
    lab.san.succeed(f"zfs inherit zolder:export {PARENT}/volume-{volume}")
    lab.san.succeed(LOSE[exporter])
    assert standing(agent, volume) == []
    cinder.up()
    wait_until(
        lambda: standing(agent, volume) == [initiator_of(exporter)], 60, "the export to be there again"
    )
    # Not in use in Cinder's words: it is not among those that Cinder goes through.
    recorded = [access.zvol for access in agent.list_attachments(PARENT)]
    assert f"volume-{other}" in recorded
    volumes = cinder.volumes()
    for one in (attachment, unknown):
        volumes.detach(one)
    for one in (volume, other):
        assert standing(agent, one) == []
        volumes.delete(one)
