"""The kernel and the tiny initial RAM disk that boot a guest without boot loader or firmware menus.

The kernel is unpacked, because unpacking it under emulation takes seconds at each boot. The RAM disk has
busybox and one module: it finds the root disk by its serial number and hands over to systemd. With
`zolder.probe` on the command line it says so and powers off, which is how `lab.accelerator` finds out whether
KVM works.
"""

from __future__ import annotations

import lzma
import stat
import struct
import subprocess
from pathlib import Path

from lab.errors import LabError

PROBE_WORD = "zolder.probe"
PROBE_ANSWER = "ZOLDER-PROBE-OK"
ROOT_SERIAL = "root"

INIT = f"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /new
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
case " $(/bin/busybox cat /proc/cmdline) " in
*" {PROBE_WORD} "*)
    echo {PROBE_ANSWER} > /dev/console
    /bin/busybox poweroff -f
    ;;
esac
/bin/busybox insmod /virtio_blk.ko
for disk in /sys/block/vd*; do
    if [ "$(/bin/busybox cat "$disk/serial")" = {ROOT_SERIAL} ]; then
        /bin/busybox mount -t ext4 "/dev/${{disk##*/}}" /new
    fi
done
/bin/busybox umount /proc
/bin/busybox umount /sys
/bin/busybox mount -o move /dev /new/dev
exec /bin/busybox switch_root /new /sbin/init
"""

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
XZ_MAGIC = b"\xfd7zXZ\x00"


def extract_kernel(bzimage: Path, vmlinux: Path) -> None:
    """Unpack the ELF kernel out of a bzImage (Linux, Documentation/arch/x86/boot.rst).

    :raises LabError: when it is packed in an unknown way.
    """
    data = bzimage.read_bytes()
    setup_sectors = data[0x1F1] or 4
    payload_offset, payload_length = struct.unpack_from("<II", data, 0x248)
    start = (setup_sectors + 1) * 512 + payload_offset
    # The last four bytes are the unpacked size, not part of the stream.
    packed = data[start : start + payload_length - 4]
    if packed.startswith(ZSTD_MAGIC):
        unpacked = subprocess.run(["zstd", "-dc"], input=packed, capture_output=True, check=True).stdout
    elif packed.startswith(XZ_MAGIC):
        unpacked = lzma.decompress(packed)
    else:
        raise LabError(f"the kernel {bzimage.name} is packed in a way that the lab does not know")
    if not unpacked.startswith(b"\x7fELF"):
        raise LabError(f"what {bzimage.name} holds is no ELF kernel")
    vmlinux.write_bytes(unpacked)


def make_initrd(tree: Path, kernel: str, initrd: Path) -> None:
    """Write the initial RAM disk, with busybox and the disk driver of a guest's tree."""
    module = (tree / f"usr/lib/modules/{kernel}/kernel/drivers/block/virtio_blk.ko").read_bytes()
    executable = stat.S_IFREG | 0o755
    entries = [
        cpio_entry("bin", stat.S_IFDIR | 0o755, b""),
        # The kernel opens /dev/console for init before init mounts anything.
        cpio_entry("dev", stat.S_IFDIR | 0o755, b""),
        cpio_entry("dev/console", stat.S_IFCHR | 0o600, b"", device=(5, 1)),
        cpio_entry("bin/busybox", executable, (tree / "usr/bin/busybox").read_bytes()),
        cpio_entry("init", executable, INIT.encode()),
        cpio_entry("virtio_blk.ko", stat.S_IFREG | 0o644, module),
        cpio_entry("TRAILER!!!", 0, b""),
    ]
    initrd.write_bytes(b"".join(entries))


def cpio_entry(name: str, mode: int, data: bytes, *, device: tuple[int, int] = (0, 0)) -> bytes:
    """Return one member of a "newc" archive, cpio(5)."""
    path = name.encode() + b"\0"
    inode, owner, group, links, changed, checksum = 0, 0, 0, 1, 0, 0
    fields = (inode, mode, owner, group, links, changed, len(data), 0, 0, *device, len(path), checksum)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return pad(header + path) + pad(data)


def pad(data: bytes) -> bytes:
    """Fill up to a multiple of four."""
    return data + b"\0" * (-len(data) % 4)
