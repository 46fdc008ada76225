"""The lab's SAN as a client reaches it, and the names that its policy allows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.contract.ground import PARENT
from zolder.client.pool import Pool
from zolder.client.remote import RemoteStorage
from zolder.client.ssh import SshTarget

if TYPE_CHECKING:
    from lab import Lab


def ssh_target(lab: Lab) -> SshTarget:
    """Return how the lab's SAN is reached with the driver's key."""
    environment = lab.environment()
    return SshTarget(
        address="127.0.0.1",
        port=int(environment["san_ssh_port"]),
        login="zolder",
        private_key=environment["agent_key"],
        known_hosts=(environment["known_hosts"],),
    )


@contextmanager
def connected(lab: Lab, *, channels: int = 4, deadline_seconds: float = 60) -> Iterator[RemoteStorage]:
    """Yield the SAN's storage over real ssh, its first parent set up."""
    pool = Pool(ssh_target(lab), max_channels=channels)
    try:
        storage = RemoteStorage(pool, deadline_seconds=deadline_seconds)
        storage.get_figures(PARENT)
        yield storage
    finally:
        pool.close()


def suspend_second_zpool(lab: Lab) -> None:
    """Pull the disks of the zpool `fast`, which then waits for them; only a reset of the lab mends it."""
    lab.san.succeed("zpool set failmode=wait fast")
    for disk in lab.san.succeed("zpool list -vHPL fast | grep -o '/dev/vd[a-z]*' | sort -u").split():
        device = lab.san.succeed(f"basename $(readlink -f /sys/block/{disk.removeprefix('/dev/')}/device)")
        lab.san.succeed(f"echo {device.strip()} > /sys/bus/virtio/drivers/virtio_blk/unbind")
    lab.san.succeed("setsid zfs set zolder:x=1 fast > /dev/null 2>&1 < /dev/null &")
    lab.san.wait_until("grep -q SUSPENDED /proc/spl/kstat/zfs/fast/state", 60, "the suspended zpool")
