"""`python -m bench.images`: an image of 1 GiB with 100 MiB of data, into a volume and back, on the lab's SAN.

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
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from lab import Lab
from tests.contract.ground import MIB, PARENT
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


def main() -> None:
    """Measure, print the table and write it down."""
    argparse.ArgumentParser(prog="python -m bench.images", description=__doc__).parse_args()
    lab = Lab(os.environ.get("ZOLDER_LAB") or "bench")
    try:
        lab.up()
        lab.reset()
        with tempfile.TemporaryDirectory(prefix="zolder-bench-") as folder:
            results = measure(lab, Path(folder))
    finally:
        if not lab.keep:
            lab.down()
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))


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
