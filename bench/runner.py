"""Runs in the SAN: does one step when asked, and says how long it took there.

Started by bench.ways.Runner, with zolder on its path and answering.py and commands.py beside it.
"""

from __future__ import annotations

import errno
import subprocess
import sys
import time
import zlib
from pathlib import Path

from answering import answer_all  # type: ignore[import-not-found]  # lab/inside/answering.py
from commands import zfs_commands  # type: ignore[import-not-found]  # bench/commands.py

from zolder.model import Chap
from zolder.names import DatasetName, InitiatorName, Portal, TargetPrefix, VolumeId, ZvolName
from zolder.san.device import open_zvol
from zolder.san.exporter import Subject
from zolder.san.lio import Lio
from zolder.san.lzc import ZfsError, library

SIZE_BYTES = 2**30
PREFIX = TargetPrefix("iqn.2010-10.org.openstack.bench:")
PORTALS = (Portal("192.168.77.1:3260"),)
# The driver's exports have a secret, so these have one too.
CHAP = Chap("bench", "0123456789abcdef")
# As long as the driver's.
MARK = {"zolder:bench": "00000000-0000-4000-8000-000000000000"}
INITIATOR = InitiatorName("iqn.2004-10.org.zolder:compute")


def do(way: str, step: str, dataset: str) -> dict[str, float]:
    """Do one step in one way, and return what it cost; no request goes over a wire here."""
    before = count_processes()
    started = time.perf_counter()
    if way == "command":
        by_command(step, dataset)
    else:
        by_library(step, dataset, MARK if way == "library" else {})
    ms = (time.perf_counter() - started) * 1000
    return {"ms": ms, "requests": 0, "processes": count_processes() - before}


def count_processes() -> int:
    """Return how many processes this kernel has started: proc(5), /proc/stat."""
    lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("processes "))


def settle() -> None:
    """Wait until udev has nothing to do."""
    subprocess.run(["udevadm", "settle"], check=True)


def by_command(verb: str, dataset: str) -> None:
    """Do a verb by command lines; the device of a new zvol may be late for tgtadm."""
    for command in zfs_commands(verb, dataset):
        end = time.monotonic() + 10
        while subprocess.run(command, capture_output=True, check=False).returncode:
            if time.monotonic() > end:
                sys.exit(f"this failed for ten seconds: {' '.join(command)}")


def by_library(verb: str, dataset: str, mark: dict[str, str]) -> None:
    """Do a verb in this process: libzfs_core, and configfs for the target.

    With a mark it is the limit: the least that makes a zvol whose owner can be proven.
    """
    zfs = library()
    match verb:
        case "create":
            zfs.create_zvol(dataset, SIZE_BYTES, mark)
        case "snapshot":
            zfs.snapshot([f"{dataset}@s"], mark)
        case "clone":
            zfs.clone(f"{dataset}-clone", f"{dataset}@s", mark)
        case "delete clone":
            destroy(f"{dataset}-clone")
        case "delete snapshot":
            zfs.destroy_snapshot(f"{dataset}@s")
        case "delete":
            destroy(dataset)
        case "create + export":
            zfs.create_zvol(dataset, SIZE_BYTES, mark)
            export(dataset)
        case "withdraw + delete":
            Lio().remove_export(subject(dataset))
            destroy(dataset)
        case _:
            raise ValueError(verb)


def export(dataset: str) -> None:
    """Export a zvol to one initiator."""
    with open_zvol(dataset, timeout_seconds=20) as device:
        Lio().ensure_export(
            subject(dataset),
            device=device.path,
            volume_id=volume_id(dataset),
            portals=PORTALS,
            initiator=INITIATOR,
            chap=CHAP,
            read_only=False,
        )


def destroy(dataset: str) -> None:
    """Destroy a zvol as soon as nobody has it open: udev looks into each new one for a moment."""
    end = time.monotonic() + 10
    while True:
        try:
            library().destroy(dataset)
        except ZfsError as err:
            if err.errno != errno.EBUSY or time.monotonic() > end:
                raise
            time.sleep(0.005)
        else:
            return


def subject(dataset: str) -> Subject:
    """Return what names a zvol's target."""
    parent, _, leaf = dataset.rpartition("/")
    return Subject(DatasetName(parent), ZvolName(leaf), PREFIX)


def volume_id(dataset: str) -> VolumeId:
    """Return an id for a zvol, from which its serial derives."""
    return VolumeId(f"00000000-0000-4000-8000-{zlib.crc32(dataset.encode()):012x}")


if __name__ == "__main__":
    answer_all(do, count_processes, settle)
