"""Starts QEMU for a guest, and makes its disks."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from lab.command import build_environment, capture
from lab.errors import LabError
from lab.initrd import ROOT_SERIAL
from lab.process import Process, find_by_pid_file
from lab.spec import LINKS, Hardware, Spec, device_arguments

UNIX_PATH_LIMIT = 107
# A partition that fills the disk. Were ZFS given the bare disks, it would partition them itself and wait for
# udev at each: a minute for the SAN's disks under emulation.
PARTITIONS = "label: gpt\nstart=1MiB, type=6A898CC3-1DD2-11B2-99A6-080020736631\n"


def make_disks(spec: Spec, folder: Path, image: Path) -> None:
    """Make a machine's empty disks, and its root disk over the root image."""
    root = folder / f"{ROOT_SERIAL}.qcow2"
    capture(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(image / "root.img"), "-F", "raw", str(root)]
    )
    for size_bytes in {disk.size_bytes for disk in spec.disks}:
        template, raw = folder / "template", folder / "template.raw"
        with raw.open("wb") as file:
            file.truncate(size_bytes)
        capture(["sfdisk", "--quiet", str(raw)], text=PARTITIONS, env=build_environment())
        capture(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(template)])
        for disk in spec.disks:
            if disk.size_bytes == size_bytes:
                shutil.copyfile(template, folder / f"{disk.name}.qcow2")
        template.unlink()
        raw.unlink()


def start_qemu(
    spec: Spec, hardware: Hardware, folder: Path, links: Path, ssh_port: int, *, paused: bool
) -> None:
    """Start a machine; it goes on when we end.

    :param folder: where its disks are; logs and sockets are put there, too.
    :param links: where the private links' sockets are.
    :param ssh_port: the port on this machine's loopback that leads to its sshd.
    :param paused: to be told over its control socket what to do.
    :raises LabError: when QEMU does not start, with its reason.
    """
    control, log = folder / "qmp.sock", folder / "qemu.log"
    log.unlink(missing_ok=True)
    for path in (control, *(links / f"{name}.sock" for name in LINKS)):
        if len(str(path)) > UNIX_PATH_LIMIT:
            raise LabError(f"{path} is too long for a socket; set XDG_CACHE_HOME to a shorter path")
    control.unlink(missing_ok=True)
    argv = [
        "qemu-system-x86_64", "-name", f"zolder-{spec.name}", *hardware.arguments(),
        "-append", spec.kernel_command_line(), *device_arguments(spec, folder, links, ssh_port),
        "-qmp", f"unix:{control},server=on,wait=off",
        "-D", str(log), "-pidfile", str(folder / "qemu.pid"), "-daemonize",
        *(["-S"] if paused else []),
    ]  # fmt: skip
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        # With -D, some of its complaints go there.
        said = f"{done.stderr}\n{log.read_text() if log.exists() else ''}".strip()
        raise LabError(f"QEMU did not start {spec.name}: {said}")


def find_qemu(folder: Path) -> Process | None:
    """Return the QEMU whose machine's folder this is, even one whose starter was killed before it told."""
    return find_by_pid_file(folder / "qemu.pid", f"{folder}/qmp.sock")
