"""The machine itself: its clock and its memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from zolder.san.check.finding import Check, Finding, NotChecked
from zolder.san.check.machine import Machine

CLOCK: Final = Check("clock")
MEMORY: Final = Check("memory")
_GIB: Final = 2**30


def check_clock(machine: Machine) -> Iterator[Finding]:
    """Look at whether the clock is kept right: requests carry deadlines, and the audit times."""
    if machine.find_status("/run/systemd/timesync/synchronized") is not None:
        yield CLOCK.ok("clock", "is synchronised by systemd-timesyncd")
        return
    finished = machine.ask("timedatectl", "show", "--property=NTPSynchronized", "--value")
    said = finished.stdout.strip() if finished is not None and finished.exit_status == 0 else ""
    remedy = "timedatectl status\nsudo apt install chrony"
    if said == "yes":
        yield CLOCK.ok("clock", "is synchronised")
    elif said == "no":
        yield CLOCK.warning("clock", "is not synchronised: the audit's times cannot be compared", remedy)
    else:
        yield CLOCK.note("clock", "nobody here says whether it is synchronised", remedy)


def check_memory(machine: Machine) -> Iterator[Finding]:
    """Look at what ZFS's cache may take of the memory."""
    total = _numbers(machine.text("/proc/meminfo"), "MemTotal:") * 1024
    largest = _numbers(machine.text("/proc/spl/kstat/zfs/arcstats"), "c_max")
    figures = f"ZFS's cache (ARC) may take {largest / _GIB:.1f} of {total / _GIB:.1f} GiB"
    if total - largest < _GIB:
        message = f"{figures}: less than 1 GiB is left for everything else until it shrinks"
        remedy = f"echo {max(total // 2, total - 4 * _GIB)} | sudo tee /sys/module/zfs/parameters/zfs_arc_max"
        yield MEMORY.note("ARC", message, remedy)
    else:
        yield MEMORY.ok("ARC", figures)


def _numbers(text: str, name: str) -> int:
    for line in text.splitlines():
        words = line.split()
        if words[:1] == [name]:
            # meminfo: name, number, kB; kstat: name, type, number.
            return int(words[1] if name.endswith(":") else words[-1])
    message = f"{name.strip(':')} is not in {text[:40]!a}..."
    raise NotChecked(message)
