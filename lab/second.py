"""A second SAN that takes over from the first, as the administrator of two heads on one shelf of disks would.

    with second_san(lab) as second:      # lab.san has been switched off
        second.succeed("zpool import -f data")
        take_links(second)

It boots from the same image, with a root disk, a name, a machine id and a ZFS hostid of its own, on the disks
of the first: that must be dead, and stays so until this one has ended. It answers at the first's port with
the first's SSH host key, as an address that moves does. The private links are dead until `take_links`: what
runs at its start is seen by nobody. After it, the lab is to be reset.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.bytecode import Bytecode
from lab.command import capture
from lab.errors import LabError
from lab.initrd import ROOT_SERIAL
from lab.install import install_code
from lab.lab import Lab
from lab.machine import BOOT_SECONDS, Machine, Place
from lab.runfile import RunFile
from lab.spec import LINKS, SAN, SECOND_SAN, Hardware


@contextmanager
def second_san(lab: Lab) -> Iterator[Machine]:
    """Boot the second SAN, with the working tree's code; it ends with the context.

    :raises LabError: the first runs.
    """
    if lab.san.is_running():
        raise LabError("san runs, and its disks are its own; power_off_hard() comes before a second one")
    state = RunFile(lab.folder).read()
    keys = lab.cache.find("keys", "1")
    if state is None or keys is None:
        raise LabError(f"the lab {lab.name!r} is not up")
    image = Path(state.image)
    folder = lab.folder / SECOND_SAN.name
    make_disks(folder, lab.folder / SAN.name, image)
    place = Place(folder, lab.folder, keys, lab.folder / "known_hosts")
    machine = Machine(SECOND_SAN, place, Hardware(image, state.accelerator), lab.san.ssh_port)
    try:
        machine.start(paused=True)
        with machine.qmp() as connection:
            for link in LINKS:
                connection.execute("set_link", name=link, up=False)
            connection.execute("cont")
        machine.wait_until_ready(BOOT_SECONDS, booting=True)
        install_code(machine, Bytecode(lab.cache, image.name))
        yield machine
    finally:
        machine.power_off_hard()
        shutil.rmtree(folder)


def make_disks(folder: Path, first: Path, image: Path) -> None:
    """Make a root disk, and give way to the first's other disks."""
    folder.mkdir()
    root = folder / f"{ROOT_SERIAL}.qcow2"
    capture(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(image / "root.img"), "-F", "raw", str(root)]
    )
    for disk in SECOND_SAN.disks:
        (folder / f"{disk.name}.qcow2").symlink_to(first / f"{disk.name}.qcow2")


def take_links(machine: Machine) -> None:
    """Bring the private links up, and tell the neighbours whose the addresses are now."""
    with machine.qmp() as connection:
        for link in LINKS:
            connection.execute("set_link", name=link, up=True)
        # The guest sends gratuitous ARP: QEMU, qapi/net.json; VIRTIO_NET_F_GUEST_ANNOUNCE.
        connection.execute("announce-self", initial=50, max=550, rounds=5, step=100)
