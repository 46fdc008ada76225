"""How much memory contents take on either side: as much for a large image as for a small one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.ground import MIB
from tests.support.memory import random_bytes
from tests.support.waiting import wait_until

SMALL_MIB, LARGE_MIB = 8, 128
# What the allocator may keep; a side that held the image would need 120 MiB more for the larger.
MORE_BYTES = 12 * MIB


def carry(folder: Path, way: str, size_mib: int) -> dict[str, int]:
    """Carry so much data, and return the peaks of both sides' resident memory in bytes."""
    full, empty, report = (folder / f"{way}-{size_mib}-{name}" for name in ("full", "empty", "report"))
    with full.open("wb") as file:
        for number in range(size_mib):
            file.write(random_bytes(MIB, number))
    with empty.open("wb") as file:
        file.truncate(size_mib * MIB)
    image, device = (full, empty) if way == "write" else (empty, full)
    command = [sys.executable, "-m", "tests.support.image_carrier", way, str(image), str(device), str(report)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    wait_until(lambda: report.exists() and report.read_text() != "", 20, "the agent's end")
    assert full.read_bytes() == empty.read_bytes()
    return {"driver": int(done.stdout), "agent": int(report.read_text())}


@pytest.mark.parametrize("way", ["write", "read"])
def test_memory_does_not_grow_with_the_image(tmp_path: Path, way: str) -> None:
    """Sixteen times the data take no more memory, of the driver's side or of the agent."""
    small, large = (carry(tmp_path, way, size_mib) for size_mib in (SMALL_MIB, LARGE_MIB))
    for side, peak in large.items():
        assert peak - small[side] < MORE_BYTES, f"the {side}: {small[side]} bytes, then {peak}"
