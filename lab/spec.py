"""The two guests: their hardware, and what their kernels are told.

A saved state can be loaded only into the same devices in the same order, so everything that makes a device is
decided here and part of the golden state's key (`device_key`); ports and paths on this machine may differ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lab.cache import content_key
from lab.initrd import ROOT_SERIAL

GIB = 2**30
LINKS = ("linka", "linkb")


@dataclass(frozen=True)
class Disk:
    """A small sparse disk with one partition; its name is its serial number and QEMU's node name."""

    name: str
    size_bytes: int


@dataclass(frozen=True)
class Spec:
    """A machine's hardware and role."""

    name: str
    number: int
    processors: int
    memory_mib: int
    # The image is one for both; units that a role has no use for are masked on its kernel's command line.
    masked: tuple[str, ...]
    words: tuple[str, ...] = ()
    disks: tuple[Disk, ...] = ()

    def kernel_command_line(self) -> str:
        """Return the kernel command line."""
        words = [
            "console=ttyS0", "loglevel=4", "net.ifnames=0", "panic=-1",
            *CLOCK_WORDS, *THRIFT_WORDS,
            "systemd.show_status=error", "systemd.ssh_auto=no",
            f"systemd.hostname={self.name}", f"zolder.role={self.name}",
            f"systemd.machine_id=7a6f6c6465724c61b80000000000000{self.number}",
            *self.words, *(f"systemd.mask={unit}" for unit in self.masked),
        ]  # fmt: skip
        return " ".join(words)


# Emulation hands on this machine's time-stamp counter, and that lies twice: on a busy machine the guest
# measures its speed wrongly (seen: time ran 2.4 times too fast), and loading a saved state makes it leap. The
# PM timer follows this machine's clock. So does the HPET, but it wakes QEMU 250 times a second for nothing.
# The kernel's test whether timer interrupts arrive fails on a busy machine ("8254 timer not connected").
CLOCK_WORDS = ("clocksource=acpi_pm", "tsc=unstable", "nowatchdog", "no_timer_check")
# Under emulation each of these costs, and a lab has no neighbours to be protected from.
THRIFT_WORDS = ("mitigations=off", "no5lvl", "init_on_alloc=0", "audit=0")

SAN = Spec(
    "san", 1, processors=2, memory_mib=2048,
    masked=(
        "multipathd.service", "multipathd.socket", "iscsid.socket", "iscsid.service", "open-iscsi.service",
    ),
    disks=(
        *(Disk(f"data{number:02}", GIB) for number in range(18)),
        *(Disk(f"log{number:02}", GIB // 4) for number in range(2)),
        *(Disk(f"cache{number:02}", GIB // 4) for number in range(2)),
        *(Disk(f"fast{number:02}", GIB) for number in range(2)),
    ),
)  # fmt: skip
COMPUTE = Spec(
    "compute", 2, processors=1, memory_mib=768,
    masked=(
        "tgt.service", "rtslib-fb-targetctl.service", "zfs-zed.service", "zfs-load-module.service",
        "zfs-import-cache.service", "zfs-import-scan.service", "zfs-mount.service", "zfs-share.service",
        "zfs-volume-wait.service",
    ),
    words=("zfs=off",),
)  # fmt: skip
SPECS = (SAN, COMPUTE)
# Takes over from the first in one test (lab.second), with a ZFS of its own; never part of a saved state.
SECOND_SAN = replace(SAN, name="san2", number=3, words=("zolder.role=san", "spl.spl_hostid=0x5a6f6c32"))


@dataclass(frozen=True)
class Hardware:
    """What both machines run on: the boot files and the accelerator."""

    image: Path
    accelerator: str

    def arguments(self) -> list[str]:
        """Return QEMU's arguments for it."""
        accelerator = "tcg,thread=multi" if self.accelerator == "tcg" else self.accelerator
        return [
            "-nodefaults", "-no-user-config", "-display", "none",
            "-machine", "q35,sata=off,smbus=off,hpet=off", "-accel", accelerator, "-cpu", "max",
            "-rtc", "base=utc",
            "-kernel", str(self.image / "vmlinux"), "-initrd", str(self.image / "initrd"),
        ]  # fmt: skip


def device_arguments(spec: Spec, folder: Path, links: Path, ssh_port: int) -> list[str]:
    """Return the arguments that make a machine's devices.

    :param folder: where its disks are, and its console's log.
    :param links: where the private links' sockets are.
    :param ssh_port: the port on this machine's loopback that leads to its sshd.
    """
    console = folder / "console.log"
    words = [
        "-smp", str(spec.processors), "-m", f"{spec.memory_mib}M",
        "-chardev", f"file,id=console,path={console},append=on", "-serial", "chardev:console",
        "-netdev", f"user,id=user,ipv6=off,hostfwd=tcp:127.0.0.1:{ssh_port}-:22",
    ]  # fmt: skip
    for name in LINKS:
        # A SAN listens; the other comes back by itself when the SAN was switched off meanwhile.
        role = "server=off,reconnect-ms=100" if spec == COMPUTE else "server=on"
        words += ["-netdev", f"stream,id={name},{role},addr.type=unix,addr.path={links / name}.sock"]
    for place, name in enumerate(("user", *LINKS)):
        mtu = "" if name == "user" else ",host_mtu=9000"
        mac = f"52:54:00:5a:{place:02}:{spec.number:02}"
        words += ["-device", f"virtio-net-pci,netdev={name},mac={mac},romfile={mtu}"]
    for name in node_names(spec):
        file = f"file.driver=file,file.filename={folder / name}.qcow2"
        words += [
            "-blockdev", f"driver=qcow2,node-name={name},discard=unmap,{file}",
            "-device", f"virtio-blk-pci,drive={name},serial={name},num-queues=1",
        ]  # fmt: skip
    # Free pages are given back, so that a saved state holds only what is in use.
    words += ["-device", "virtio-balloon-pci,free-page-reporting=on"]
    return words


def node_names(spec: Spec) -> list[str]:
    """Return QEMU's names of a machine's disks, the root disk first."""
    return [ROOT_SERIAL, *(disk.name for disk in spec.disks)]


def device_key() -> str:
    """Return a key of all that a saved state depends on, but for QEMU's version and the accelerator."""
    nowhere = Path("/")
    hardware = Hardware(nowhere, "").arguments()
    shapes = [(device_arguments(spec, nowhere, nowhere, 0), spec.kernel_command_line()) for spec in SPECS]
    return content_key(shapes, hardware, [str(spec) for spec in SPECS])
