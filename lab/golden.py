"""The golden state: both guests booted, zpools made, all at rest, saved with their memory.

It is made once for each root image, set of devices, QEMU and accelerator. A lab copies its disks and loads
the saved state out of the copies; the golden files themselves are never opened for writing again.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lab.accelerator import choose_accelerator
from lab.build import Image
from lab.cache import Cache, content_key, recipe_digest
from lab.keys import known_hosts
from lab.machine import BOOT_SECONDS, Machine, Place
from lab.packages import qemu_version
from lab.policy import parents
from lab.ports import free_ports
from lab.progress import Progress
from lab.qemu import make_disks
from lab.snapshot import save
from lab.spec import SAN, SPECS, Hardware, device_key
from lab.together import run_together
from zolder.san.delegation import allow_commands

NEEDS_BYTES = 3 * 2**30


@dataclass(frozen=True)
class Golden:
    """A saved state in the cache, and what it was made with."""

    folder: Path
    hardware: Hardware


def golden_key(image: Image, accelerator: str, qemu: str) -> str:
    """Return the key of the state that these would give."""
    return content_key(
        image.key,
        accelerator,
        qemu,
        device_key(),
        delegation(),
        recipe_digest(Path(__file__), Path(__file__).parent / "qemu.py"),
    )


def find_golden(cache: Cache, image: Image) -> Golden | None:
    """Return the golden state for an image, if it has been made."""
    qemu = qemu_version()
    accelerator = choose_accelerator(cache, image.folder, qemu)
    folder = cache.find("golden", golden_key(image, accelerator, qemu))
    return Golden(folder, Hardware(image.folder, accelerator)) if folder else None


def ensure_golden(cache: Cache, image: Image, progress: Progress) -> Golden:
    """Return the golden state for an image, made if it is missing."""
    qemu = qemu_version()
    accelerator = choose_accelerator(cache, image.folder, qemu)

    def make(folder: Path) -> None:
        with progress.step("first boot and zpools"):
            make_golden(folder, image, accelerator)

    key = golden_key(image, accelerator, qemu)
    folder = cache.ensure("golden", key, make, needs_bytes=NEEDS_BYTES)
    return Golden(folder, Hardware(image.folder, accelerator))


def make_golden(folder: Path, image: Image, accelerator: str) -> None:
    """Boot both guests from fresh disks, make the zpools, and save both."""
    hardware = Hardware(image.folder, accelerator)
    ports = free_ports([spec.name for spec in SPECS])
    hosts = folder / "known_hosts"
    hosts.write_text(known_hosts(image.keys, ports))
    machines = []
    for spec in SPECS:
        place = Place(folder / spec.name, folder, image.keys, hosts)
        place.folder.mkdir()
        make_disks(spec, place.folder, image.folder)
        machines.append(Machine(spec, place, hardware, ports[spec.name]))

    def stop() -> None:
        for machine in machines:
            machine.power_off_hard()

    try:
        run_together([partial(prepare, machine) for machine in machines], stop=stop)
        save(machines)
    finally:
        stop()
    for path in folder.rglob("*"):
        if path.is_socket() or (path.is_file() and path.suffix != ".qcow2"):
            path.unlink()


def delegation() -> str:
    """Return the commands, a line each, that give the agent's user what `zolder-san install` gives it."""
    return "".join(f"{shlex.join(argv)}\n" for parent in parents() for argv in allow_commands(parent))


def prepare(machine: Machine) -> None:
    """Bring one guest to the state that is worth saving."""
    machine.start()
    machine.wait_until_ready(BOOT_SECONDS, booting=True)
    if machine.name == SAN.name:
        machine.succeed("/usr/local/lib/zolder-lab/make-zpools", timeout_seconds=300)
        machine.succeed(f"set -e\n{delegation()}", timeout_seconds=300)
    # What the first commands of every test would otherwise read from disk, one after the other.
    machine.succeed(f"/usr/local/lib/zolder-lab/settle {machine.name}", timeout_seconds=300)
    machine.remote.close()
