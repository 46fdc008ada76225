from __future__ import annotations

import pytest

from lab.holdings import compare
from lab.inside.watch import seconds_inside

# As Linux 6.12 writes it: tracefs, two probes, clock "mono".
HEAD = """# tracer: nop
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
"""


def event(process: int, seconds: float, probe: str) -> str:
    """Return one line of the kernel's trace."""
    where = "zfsdev_ioctl+0x0/0x70 [zfs]" if probe == "enter" else "__x64_sys_ioctl+0x91/0xd0 <- zfsdev_ioctl"
    return f"          python3-{process}     [001] .....   {seconds:.6f}: {probe}: ({where})\n"


@pytest.mark.parametrize(
    ("events", "seconds"),
    [
        ([], 0.0),
        ([(7, 10.0, "enter"), (7, 10.25, "leave")], 0.25),
        ([(7, 10.0, "enter"), (7, 10.25, "leave"), (7, 11.0, "enter"), (7, 11.5, "leave")], 0.75),
        # Two at once count once; what began before the trace did counts from there.
        ([(7, 10.0, "enter"), (8, 10.5, "enter"), (7, 11.0, "leave"), (8, 12.0, "leave")], 2.0),
        ([(7, 10.0, "leave"), (8, 11.0, "enter"), (8, 11.5, "leave")], 0.5),
    ],
)
def test_seconds_inside(events: list[tuple[int, float, str]], seconds: float) -> None:
    """The time in ZFS is that in which at least one process was in it."""
    trace = HEAD + "".join(event(*one) for one in events)
    assert seconds_inside(trace) == pytest.approx(seconds)


def test_compare() -> None:
    """What came and what went is shown with a sign; what stayed is not."""
    assert compare(["a", "b"], ["b", "c"]) == ["+ c", "- a"]
    assert compare(["a"], ["a"]) == []
