"""Tells how long ZFS itself took: the time that processes spent in /dev/zfs, as the SAN's kernel saw it.

Two probes, at the entry and at the return of zfsdev_ioctl(), through which every request to create, change or
read a dataset goes. Runs as root in the SAN. Source: Documentation/trace/kprobetrace.rst in the Linux tree.
"""

from __future__ import annotations

import re
from pathlib import Path

TRACING = Path("/sys/kernel/tracing")
PROBES = "p:zolder/enter zfsdev_ioctl\nr:zolder/leave zfsdev_ioctl\n"

#         zolder-san-812     [001] .....  1234.567890: enter: (zfsdev_ioctl+0x0/0x70 [zfs])
_EVENT = re.compile(r"-(\d+)\s+\[\d+\].*?\s(\d+\.\d+): (enter|leave):")


def start() -> None:
    """Begin to count."""
    enable = TRACING / "events/zolder/enable"
    if not enable.exists():
        (TRACING / "kprobe_events").write_text(PROBES, encoding="ascii")
        (TRACING / "trace_clock").write_text("mono", encoding="ascii")
        # The event daemon spends its life in there, waiting.
        (TRACING / "events/zolder/filter").write_text('comm != "zed"', encoding="ascii")
    enable.write_text("1", encoding="ascii")
    (TRACING / "trace").write_text("", encoding="ascii")


def stop() -> float:
    """Return the seconds since the start in which at least one process was in ZFS."""
    text = (TRACING / "trace").read_text(encoding="ascii", errors="replace")
    (TRACING / "events/zolder/enable").write_text("0", encoding="ascii")
    return seconds_inside(text)


def seconds_inside(trace: str) -> float:
    """Return the seconds in which at least one process was between its entry and its return."""
    inside: set[str] = set()
    seconds = since = 0.0
    for process, when, event in _EVENT.findall(trace):
        now = float(when)
        if inside:
            seconds += now - since
        since = now
        if event == "enter":
            inside.add(process)
        else:
            inside.discard(process)
    return seconds


if __name__ == "__main__":
    from answering import answer_all  # type: ignore[import-not-found]  # beside this script in the guest

    answer_all(start, stop)
