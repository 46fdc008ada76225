"""Every kind of export, one body over three exporters: what the initiator's disk is like.

Each test's id names the exporter that it ran on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.contract.ground import MIB, PARENT
from tests.support.exported import (
    SIZE,
    Volume,
    count_commits,
    make_volume,
    used_bytes,
    wait_for_blocks,
)
from tests.support.reach import Reach
from zolder.names import NVMET, TGT, unit_serial

if TYPE_CHECKING:
    from lab import Lab
    from lab.conversation import Conversation
    from zolder.client.remote import RemoteStorage

# open-iscsi's own patience with a lost session; these tests' logins have one second.
PATIENCE = "for s in /sys/class/iscsi_session/session*; do [ ! -e $s ] || echo 120 > $s/recovery_tmo; done"


def takes_discards(lab: Lab, volume: Volume) -> bool:
    """Say whether discards are offered: tgtd discards by writing zeroes, which not every zvol takes."""
    if volume.exporter != TGT:
        return True
    node = lab.san.succeed(f"readlink -f /dev/zvol/{volume.dataset}").strip().rpartition("/")[2]
    return int(lab.san.succeed(f"cat /sys/block/{node}/queue/write_zeroes_max_bytes")) > 0


def test_what_a_file_system_trims_is_free_in_the_zpool(
    lab: Lab, storage: RemoteStorage, volume: Volume, compute: Reach, note: Callable[[str], None]
) -> None:
    """Files are deleted, fstrim runs in the initiator, and the zvol is small; or discards are refused."""
    storage.grow_zvol(PARENT, volume.name, volsize_bytes=4 * SIZE)
    disk = volume.use(compute, volume.open(compute))
    if not takes_discards(lab, volume):
        assert "not supported" in lab.compute.run(f"blkdiscard {disk}").stderr
        return
    lab.compute.succeed(
        f"mkfs.ext4 -q -E lazy_itable_init=0 {disk} && mount {disk} /mnt"
        " && dd if=/dev/urandom of=/mnt/much bs=1M count=96 conv=fsync status=none"
    )
    try:
        full = used_bytes(lab, volume.dataset)
        assert full > 96 * MIB
        lab.compute.succeed("rm /mnt/much && sync -f /mnt")
        kept = used_bytes(lab, volume.dataset)
        said = lab.compute.succeed("fstrim -v /mnt")
        trimmed = used_bytes(lab, volume.dataset)
    finally:
        lab.compute.run("umount /mnt")
    note(f"used {full} with 96 MiB of files, {kept} without, {trimmed} after fstrim ({said.strip()})")
    # The files' removal alone gives nothing back, so it was the discard.
    assert kept > 96 * MIB
    assert trimmed < full - 90 * MIB


def test_a_flush_reaches_the_intent_log(lab: Lab, volume: Volume, compute: Reach) -> None:
    """The disk says that it has a write cache, a write alone commits nothing, and a flush does."""
    disk = volume.use(compute, volume.open(compute))
    name = disk.removeprefix("/dev/")
    assert lab.compute.succeed(f"cat /sys/block/{name}/queue/write_cache").strip() == "write back"
    lab.compute.succeed(f"dd if=/dev/urandom of={disk} bs=64k count=4 oflag=direct status=none")
    before = count_commits(lab, volume.dataset)
    lab.compute.succeed(f"dd if=/dev/urandom of={disk} bs=64k count=4 oflag=direct status=none")
    written = count_commits(lab, volume.dataset)
    lab.compute.succeed(f"sync {disk}")
    flushed = count_commits(lab, volume.dataset)
    assert written == before
    assert flushed > written


def test_long_writes_pass(lab: Lab, volume: Volume, compute: Reach) -> None:
    """What is written 32 MiB at a time arrives: ZFS asks for that much, and nvmet takes less at once."""
    disk = volume.use(compute, volume.open(compute))
    lab.compute.wait_until("udevadm settle", 30, "udev's rules")
    lab.compute.succeed(
        f"head -c 32M /dev/urandom >/run/long && dd if=/run/long of={disk} bs=32M iflag=fullblock"
        " oflag=direct conv=fsync status=none",
        timeout_seconds=120,
    )
    lab.compute.succeed(f"blockdev --flushbufs {disk} && cmp -n {32 * MIB} /run/long {disk}; rm /run/long")


def test_block_sizes_are_the_zvols(lab: Lab, volume: Volume, compute: Reach) -> None:
    """512 bytes to address, and the zvol's volblocksize as what is best written at once."""
    volblocksize = int(lab.san.succeed(["zfs", "get", "-Hpo", "value", "volblocksize", volume.dataset]))
    disk = volume.use(compute, volume.open(compute)).removeprefix("/dev/")
    sizes = {
        name: int(lab.compute.succeed(f"cat /sys/block/{disk}/queue/{name}"))
        for name in ("logical_block_size", "physical_block_size", "minimum_io_size")
    }
    assert sizes == {
        "logical_block_size": 512,
        "physical_block_size": volblocksize,
        "minimum_io_size": volblocksize,
    }
    discards = int(lab.compute.succeed(f"cat /sys/block/{disk}/queue/discard_max_bytes"))
    assert (discards > 0) == takes_discards(lab, volume)
    assert int(lab.compute.succeed(f"cat /sys/block/{disk}/size")) * 512 == SIZE


def test_it_grows_while_it_is_written_to(
    lab: Lab,
    storage: RemoteStorage,
    volume: Volume,
    compute: Reach,
    writer: Conversation,
    note: Callable[[str], None],
) -> None:
    """The initiator sees each new size, its writer meets no error, and every byte is right."""
    opened = volume.open(compute)
    disk = volume.use(compute, opened)
    lab.compute.succeed(PATIENCE)
    writer.ask("start", device=disk)
    wait_for_blocks(lab, writer, 8)
    for factor in (2, 3, 4):
        storage.grow_zvol(PARENT, volume.name, volsize_bytes=factor * SIZE)
        wait_for_blocks(lab, writer, 8)
        compute.rescan(opened)

        def is_seen(size: int = factor * SIZE) -> bool:
            return bool(writer.ask("size_of", device=disk) == size)

        lab.compute.wait_until(is_seen, 60, f"{factor * SIZE} bytes to be seen")
        # The new end can be written to.
        lab.compute.succeed(
            f"dd if=/dev/urandom of={disk} bs=1M count=1 seek={factor * SIZE // MIB - 1} oflag=direct"
            " conv=notrunc,fsync status=none"
        )
        wait_for_blocks(lab, writer, 8)
    after = writer.ask("stop")
    assert not after["error"]
    assert writer.ask("count_wrong") == 0
    note(f"{after['written']} blocks written over three growths, the slowest in {after['longest_seconds']} s")
    assert opened.target == volume.open(compute).target


def test_it_is_the_same_disk_each_time(volume: Volume, compute: Reach) -> None:
    """Serial, WWN, NGUID and UUID follow from the volume's id and are equal when its target is made anew."""
    seen = []
    for _ in range(2):
        opened = volume.open(compute)
        volume.use(compute, opened)
        seen.append(compute.identity(opened))
        compute.log_out(opened)
        assert volume.close(compute) == ()
    assert seen[0] == seen[1]
    serial = unit_serial(volume.volume_id)
    if volume.exporter == NVMET:
        assert seen[0]["uuid"] == volume.volume_id
        assert seen[0]["nguid"].replace("-", "") == serial
        assert serial.startswith(seen[0]["serial"])
    else:
        assert seen[0]["serial"] == serial


def test_no_two_disks_are_the_same(storage: RemoteStorage, volume: Volume, compute: Reach) -> None:
    """Two volumes in one machine at once differ in every name that tells disks apart."""
    other = make_volume(storage, volume.exporter)
    try:
        seen = []
        for made in (volume, other):
            opened = made.open(compute)
            made.use(compute, opened)
            seen.append(compute.identity(opened))
        assert all(seen[0][name] != seen[1][name] for name in seen[0])
    finally:
        other.remove()
