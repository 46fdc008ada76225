"""`python -m bench.images`: an image of 1 GiB with 100 MiB of data, into a volume and back, on the lab's SAN.

With ``--memory``: the most memory that either side has resident for 64 MiB and for 1 GiB of data, both ways.

Through the driver, as Cinder's manager calls it, with Cinder's own helpers: seconds from the call to its
return, MiB that went over the SAN's network either way meanwhile, and MiB that the volume has allocated. The
second volume is what the image-volume cache makes: a clone. The table goes to bench/images.json, too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from lab import Lab
from tests.contract.ground import MIB, PARENT
from tests.support.file_agent import peak_bytes
from tests.support.imageservice import IMAGE, ImageService
from tests.support.labdriver import ADMIN, lab_driver, new_volume
from tests.support.memory import MemorySource, random_bytes
from tests.support.san import connected
from zolder.api import Storage
from zolder.names import VolumeId, ZvolName

RESULTS: Final = Path(__file__).parent / "images.json"
GIB: Final = 1024 * MIB
# In ten pieces, as a file system would leave them.
PIECES: Final = 10
PIECE_BYTES: Final = 10 * MIB
# How much data an image has whose cost in memory is measured.
MEMORY_MIB: Final = (64, 1024)
WATCH: Final = Path(__file__).parent / "inside/peak.py"
LONGEST_SECONDS: Final = 1800


def main() -> None:
    """Measure, print the table and write it down."""
    parser = argparse.ArgumentParser(prog="python -m bench.images", description=__doc__)
    parser.add_argument("--memory", action="store_true", help="measure memory, and nothing else")
    only_memory = parser.parse_args().memory
    lab = Lab(os.environ.get("ZOLDER_LAB") or "bench")
    try:
        lab.up()
        lab.reset()
        with tempfile.TemporaryDirectory(prefix="zolder-bench-") as folder:
            results = (measure_memory if only_memory else measure)(lab, Path(folder))
    finally:
        if not lab.keep:
            lab.down()
    if only_memory:
        print(memory_table(results))
    else:
        print(table(results))
    known = json.loads(RESULTS.read_text()) if only_memory else {}
    RESULTS.write_text(json.dumps(known | results, indent=2) + "\n")


def measure(lab: Lab, folder: Path) -> dict[str, Any]:
    """Do each step once."""
    image = make_image(folder)
    uploaded = ImageService(folder / "uploaded", "raw")
    first, second = new_volume(), new_volume()
    results: dict[str, Any] = {}
    with lab_driver(lab, folder) as driver:
        steps: dict[str, tuple[Any, Callable[[], object]]] = {
            "image to a new volume": (
                first,
                lambda: driver.copy_image_to_volume(ADMIN, first, image, IMAGE),
            ),
            "second volume, a clone": (second, lambda: driver.create_cloned_volume(second, first)),
            "image over a volume with data": (
                first,
                lambda: driver.copy_image_to_volume(ADMIN, first, image, IMAGE, disable_sparse=True),
            ),
            "volume to an image": (
                first,
                lambda: driver.copy_volume_to_image(ADMIN, first, uploaded, uploaded.meta),
            ),
        }
        driver.create_volume(first)
        for name, (volume, act) in steps.items():
            before, began = moved_bytes(lab), time.monotonic()
            act()
            seconds = time.monotonic() - began
            moved = moved_bytes(lab) - before
            lab.san.succeed("zpool sync data")
            allocated = lab.san.succeed(f"zfs get -Hpo value used {PARENT}/{volume.name}")
            results[name] = {
                "seconds": round(seconds, 2),
                "moved_mib": round(moved / MIB, 1),
                "allocated_mib": round(int(allocated) / MIB, 1),
            }
        for volume in (second, first):
            driver.delete_volume(volume)
    with connected(lab) as storage:
        results["nothing to a new volume of 1 TiB"] = write_nothing(lab, storage)
    return results


def write_nothing(lab: Lab, storage: Storage) -> dict[str, Any]:
    """Measure what remains where there is nothing to carry: the request, and clearing what is empty."""
    zvol = ZvolName("bench-empty")
    storage.create_zvol(
        PARENT, zvol, volume_id=VolumeId(str(uuid.uuid4())), volsize_bytes=1024 * GIB, sparse=True
    )
    before, began = moved_bytes(lab), time.monotonic()
    storage.write_zvol(PARENT, zvol, MemorySource({}))
    seconds = time.monotonic() - began
    moved = moved_bytes(lab) - before
    storage.delete_zvol(PARENT, zvol)
    return {"seconds": round(seconds, 2), "moved_mib": round(moved / MIB, 1), "allocated_mib": 0.0}


def measure_memory(lab: Lab, folder: Path) -> dict[str, Any]:
    """Carry little and much, both ways, and look at how much memory that took at most."""
    lab.san.write_file(f"/run/{WATCH.name}", WATCH.read_bytes())
    peaks: dict[str, Any] = {}
    with lab_driver(lab, folder) as driver:
        for size_mib in MEMORY_MIB:
            image = make_raw_image(folder, size_mib)
            uploaded = ImageService(folder / "uploaded", "raw")
            volume = new_volume()
            driver.create_volume(volume)
            for way, act in {
                "image to a volume": partial(driver.copy_image_to_volume, ADMIN, volume, image, IMAGE),
                "volume to an image": partial(
                    driver.copy_volume_to_image, ADMIN, volume, uploaded, uploaded.meta
                ),
            }.items():
                peaks[f"{way}, {size_mib} MiB of data"] = peaks_of(lab, act)
            driver.delete_volume(volume)
    return {"memory": peaks}


def peaks_of(lab: Lab, act: Callable[[], object]) -> dict[str, float]:
    """Do something, and return the most that this process and any one agent had resident, in MiB."""
    end = "/run/zolder-bench.end"
    lab.san.succeed(f"rm -f {end}")
    said: list[str] = []
    watched = f"python3 -S /run/{WATCH.name} {end}"
    watching = threading.Thread(
        target=lambda: said.append(lab.san.succeed(watched, timeout_seconds=LONGEST_SECONDS))
    )
    watching.start()
    # proc(5): 5 takes the peak back to what is resident now.
    Path("/proc/self/clear_refs").write_text("5")
    try:
        act()
    finally:
        lab.san.succeed(f"touch {end}")
        watching.join()
    return {"driver_mib": round(peak_bytes() / MIB, 1), "agent_mib": round(int(said[0]) / MIB, 1)}


def make_raw_image(folder: Path, size_mib: int) -> ImageService:
    """Return an image full of data that the zpool compresses, so that it fits into the lab's."""
    path = folder / "image.raw"
    with path.open("wb") as file:
        for number in range(size_mib):
            file.write((b"%015d\n" % number) * (MIB // 16))
    return ImageService(path, "raw")


def make_image(folder: Path) -> ImageService:
    """Return an image as qcow2."""
    raw, path = folder / "image.raw", folder / "image.qcow2"
    with raw.open("wb") as file:
        for number in range(PIECES):
            file.seek(number * GIB // PIECES // MIB * MIB)
            file.write(random_bytes(PIECE_BYTES, number))
        file.truncate(GIB)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(path)], check=True)
    raw.unlink()
    return ImageService(path, "qcow2")


def moved_bytes(lab: Lab) -> int:
    """Return what went over the SAN's network cards either way."""
    counted = lab.san.succeed("cat /sys/class/net/e*/statistics/[rt]x_bytes")
    return sum(int(number) for number in counted.split())


def memory_table(results: dict[str, Any]) -> str:
    """Return the table of memory as docs/images.md has it."""
    lines = ["| step | driver, MiB | agent, MiB |", "|---|---|---|"]
    lines += [
        f"| {name} | {row['driver_mib']} | {row['agent_mib']} |" for name, row in results["memory"].items()
    ]
    return "\n".join(lines)


def table(results: dict[str, Any]) -> str:
    """Return the table as docs/images.md has it."""
    lines = ["| step | seconds | MiB over the network | MiB allocated |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {row['seconds']} | {row['moved_mib']} | {row['allocated_mib']} |"
        for name, row in results.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
