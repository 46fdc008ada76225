"""Whether KVM works here, found out by booting the guests' kernel in it.

A /dev/kvm that opens proves nothing: in nested clouds it may be unable to run a stock kernel. The verdict is
kept for this processor, kernel and QEMU.
"""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from lab.cache import Cache, content_key, read_json, write_json
from lab.initrd import PROBE_ANSWER, PROBE_WORD
from lab.spec import Hardware

PROBE_SECONDS = 20.0


def choose_accelerator(cache: Cache, image: Path, qemu: str) -> str:
    """Return "kvm" where it has been seen to boot a guest, else "tcg"."""
    wish = os.environ.get("ZOLDER_LAB_ACCELERATOR")
    if wish:
        return wish
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    memory = cache.root / "kvm.json"
    known = read_json(memory) if memory.exists() else {}
    here = content_key(platform.release(), platform.node(), processor_model(), qemu)
    if here not in known:
        write_json(memory, known | {here: kvm_boots(image)})
        known = read_json(memory)
    return "kvm" if known[here] else "tcg"


def kvm_boots(image: Path) -> bool:
    """Boot the kernel and its RAM disk under KVM, and say whether it reached user space."""
    argv = [
        "qemu-system-x86_64", *Hardware(image, "kvm").arguments(), "-m", "512M", "-smp", "2", "-no-reboot",
        "-append", f"console=ttyS0 panic=-1 {PROBE_WORD}", "-serial", "stdio",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=PROBE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return False
    return PROBE_ANSWER.encode() in done.stdout


def processor_model() -> str:
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
