"""Runs in the SAN: prints the most memory that one agent has had resident, until a file is there.

A process's own peak is in proc(5), as VmHWM. An agent ends with its channel, so all are looked at again and
again.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path


def main(end: str) -> None:
    """Look, and print bytes."""
    most, agents = 0, set[Path]()
    others = set[Path]()
    while not Path(end).exists():
        for process in set(Path("/proc").glob("[0-9]*")) - others:
            try:
                if process not in agents:
                    command = (process / "cmdline").read_bytes()
                    (agents if b"zolder" in command and b"serve" in command else others).add(process)
                if process in agents:
                    most = max(most, peak_of((process / "status").read_text(encoding="utf-8")))
            except OSError:
                continue  # it has ended
        time.sleep(1)  # the kernel keeps the highest; only what ended since is missed
    print(most)


def peak_of(status: str) -> int:
    """Return what a process's status says of its peak, in bytes."""
    return max(
        (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), default=0
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
