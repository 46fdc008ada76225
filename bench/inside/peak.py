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
    most = 0
    while not Path(end).exists():
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                command = (status.parent / "cmdline").read_bytes().split(b"\0")
                lines = status.read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError:
                continue  # it has ended
            if b"serve" in command and any(b"zolder" in word for word in command):
                peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
                most = max([most, *peaks])
        time.sleep(0.2)
    print(most)


if __name__ == "__main__":
    main(*sys.argv[1:])
