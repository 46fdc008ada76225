"""The two guests as QEMU sees them, and the life of one QEMU process.

A saved state can be loaded only into the same devices in the same order, so everything that makes a device is
decided here and part of the golden state's key (`device_key`); ports and paths on this machine may differ.
A process is ended by its id only while its start time matches, so never somebody else's.
"""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from lab.cache import content_key
from lab.command import capture
from lab.errors import LabError
from lab.initrd import ROOT_SERIAL
from lab.waiting import wait_until

GIB = 2**30
UNIX_PATH_LIMIT = 107


@dataclass(frozen=True)
class Disk:
    """A small sparse disk; its name is its serial number and QEMU's node name."""

    name: str
    size_bytes: int


@dataclass(frozen=True)
class Spec:
    """A machine's hardware and what its kernel is told."""

    name: str
    number: int
    processors: int
    memory_mib: int
    masked: tuple[str, ...]
    words: tuple[str, ...] = ()
    disks: tuple[Disk, ...] = field(default=())

    def kernel_command_line(self) -> str:
        """Return the kernel command line."""
        words = [
            "console=ttyS0", "loglevel=4", "net.ifnames=0", "panic=-1",
            # Under emulation the processor's counter is measured wrongly on a busy machine (seen: time in the
            # guest ran 2.4 times too fast); the HPET follows this machine's clock.
            "clocksource=hpet", "tsc=nowatchdog",
            # Under emulation each of these costs, and a lab has no neighbours to be protected from.
            "mitigations=off", "no5lvl", "init_on_alloc=0", "audit=0",
            f"systemd.hostname={self.name}", f"zolder.role={self.name}",
            "systemd.show_status=error", "systemd.ssh_auto=no",
            f"systemd.machine_id=7a6f6c6465724c61b80000000000000{self.number}",
            *self.words, *(f"systemd.mask={unit}" for unit in self.masked),
        ]  # fmt: skip
        return " ".join(words)


# The image is one; what a role does not need is masked on its kernel's command line.
SAN = Spec(
    "san", 1, processors=2, memory_mib=1536,
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
    "compute", 2, processors=1, memory_mib=1024,
    masked=(
        "tgt.service", "rtslib-fb-targetctl.service", "zfs-zed.service", "zfs-load-module.service",
        "zfs-import-cache.service", "zfs-import-scan.service", "zfs-mount.service", "zfs-share.service",
        "zfs-volume-wait.service",
    ),
    words=("zfs=off",),
)  # fmt: skip
SPECS = (SAN, COMPUTE)


@dataclass(frozen=True)
class Hardware:
    """What both machines run on: the boot files and the accelerator."""

    image: Path
    accelerator: str
    no_reboot: bool = False

    def arguments(self) -> list[str]:
        """Return QEMU's arguments for it."""
        accelerator = "tcg,thread=multi" if self.accelerator == "tcg" else self.accelerator
        return [
            "-nodefaults", "-no-user-config", "-display", "none",
            "-machine", "q35,sata=off,smbus=off", "-accel", accelerator,
            "-cpu", "max", "-rtc", "base=utc",
            "-kernel", str(self.image / "vmlinux"), "-initrd", str(self.image / "initrd"),
        ]  # fmt: skip


def device_arguments(spec: Spec, folder: Path, links: Path, ssh_port: int) -> list[str]:
    """Return the arguments that make a machine's devices.

    :param folder: where its disks and sockets are.
    :param links: where the private links' sockets are.
    :param ssh_port: the port on this machine's loopback that leads to its sshd.
    """
    words = ["-smp", str(spec.processors), "-m", f"{spec.memory_mib}M"]
    words += [
        "-chardev",
        f"file,id=console,path={folder / 'console.log'},append=on",
        "-serial",
        "chardev:console",
    ]
    words += ["-netdev", f"user,id=user,ipv6=off,hostfwd=tcp:127.0.0.1:{ssh_port}-:22"]
    for name in ("linka", "linkb"):
        # The SAN listens; the other comes back by itself when the SAN was switched off meanwhile.
        role = "server=on" if spec.number == 1 else "server=off,reconnect-ms=100"
        words += ["-netdev", f"stream,id={name},{role},addr.type=unix,addr.path={links / f'{name}.sock'}"]
    for place, name in enumerate(("user", "linka", "linkb")):
        mtu = "" if name == "user" else ",host_mtu=9000"
        mac = f"52:54:00:5a:{place:02}:{spec.number:02}"
        words += ["-device", f"virtio-net-pci,netdev={name},mac={mac},romfile={mtu}"]
    for name in (ROOT_SERIAL, *(disk.name for disk in spec.disks)):
        file = f"discard=unmap,file.driver=file,file.filename={folder / name}.qcow2"
        words += [
            "-blockdev", f"qcow2,node-name={name},{file}",
            "-device", f"virtio-blk-pci,drive={name},serial={name},num-queues=1",
        ]  # fmt: skip
    # Free pages are given back, so that a saved state holds only what is in use.
    words += ["-device", "virtio-balloon-pci,free-page-reporting=on"]
    return words


def device_key() -> str:
    """Return a key of all that a saved state depends on, but for QEMU's version and the accelerator."""
    nowhere = Path("/")
    shapes = [(device_arguments(spec, nowhere, nowhere, 0), spec.kernel_command_line()) for spec in SPECS]
    hardware = Hardware(nowhere, "").arguments()
    return content_key(shapes, hardware, [str(spec) for spec in SPECS])


def make_disks(spec: Spec, folder: Path, image: Path) -> None:
    """Make a machine's empty disks, and its root disk over the root image."""
    root = folder / f"{ROOT_SERIAL}.qcow2"
    capture(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(image / "root.img"), "-F", "raw", str(root)]
    )
    for disk in spec.disks:
        capture(
            [
                "qemu-img",
                "create",
                "-q",
                "-f",
                "qcow2",
                str(folder / f"{disk.name}.qcow2"),
                str(disk.size_bytes),
            ]
        )


def start_qemu(
    spec: Spec, hardware: Hardware, folder: Path, links: Path, ssh_port: int, *, paused: bool
) -> Process:
    """Start a machine; it goes on when we end.

    :param paused: to be told what to do over its control socket.
    :raises LabError: when QEMU does not start, with its reason.
    """
    control = folder / "qmp.sock"
    if len(str(control)) > UNIX_PATH_LIMIT or len(str(links / "linka.sock")) > UNIX_PATH_LIMIT:
        raise LabError(f"{folder} is too long a path for sockets; set XDG_CACHE_HOME to a shorter one")
    control.unlink(missing_ok=True)
    pid_file = folder / "qemu.pid"
    argv = [
        "qemu-system-x86_64", "-name", f"zolder-{spec.name}", *hardware.arguments(),
        "-append", spec.kernel_command_line(), *device_arguments(spec, folder, links, ssh_port),
        "-qmp", f"unix:{control},server=on,wait=off",
        "-D", str(folder / "qemu.log"), "-pidfile", str(pid_file), "-daemonize",
    ]  # fmt: skip
    if paused:
        argv.append("-S")
    if hardware.no_reboot:
        argv.append("-no-reboot")
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"QEMU did not start {spec.name}: {done.stderr.strip()}")
    return Process.of(int(pid_file.read_text()))


@dataclass(frozen=True)
class Process:
    """A process that cannot be mistaken for a later one with the same id."""

    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """Return the process that has this id now.

        :raises LabError: when there is none.
        """
        start_time = read_start_time(pid)
        if start_time is None:
            raise LabError(f"process {pid} ended at once")
        return cls(pid, start_time)

    def is_alive(self) -> bool:
        """Say whether it still runs."""
        return read_start_time(self.pid) == self.start_time

    def kill(self) -> None:
        """End it at once, as a pulled plug does, and wait until it has gone."""
        if self.is_alive():
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def wait(self, timeout_seconds: float = 30.0) -> None:
        """Wait until it has gone."""
        wait_until(
            lambda: not self.is_alive(), timeout_seconds, f"process {self.pid} to end", interval_seconds=0.01
        )


def find_stray(folder: Path) -> Process | None:
    """Return the QEMU that a machine's folder belongs to, by its pid file and its own command line."""
    try:
        pid = int((folder / "qemu.pid").read_text())
        command_line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (
        FileNotFoundError,
        ProcessLookupError,
        ValueError,
    ):  # never started, ended, or cut short while starting
        return None
    return Process.of(pid) if f"{folder}/qmp.sock".encode() in command_line else None


def read_start_time(pid: int) -> int | None:
    """Return when a live process started, in clock ticks after boot, proc(5); None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    # Fields 3 and 22, counted from 1 before the name in brackets was cut off.
    state, start_time = fields[0], int(fields[19])
    return None if state in "ZX" else start_time
