"""Tells what is done through the lab's Cinder as it happens: one line a step, with ZFS's share of its time.

A step's time runs from its first request to its last answer; what is asked only for the telling is not in it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from lab.conversation import Conversation
from lab.machine import Machine

PARENT = "data/volumes"
# The widths of a line's parts.
TITLE, SAID, HOLDINGS = 33, 37, 32
WATCH = Path(__file__).parent / "inside/watch.py"


class Step:
    """A step being told."""

    def __init__(self) -> None:
        """Begin with nothing to tell."""
        self._said: list[str] = []

    def say(self, text: str) -> None:
        """Add to what the step's line tells."""
        self._said.append(text)

    def __str__(self) -> str:
        """Return what has been said."""
        return "; ".join(self._said)


class Story:
    """The steps of one run on one SAN."""

    def __init__(self, san: Machine, output: TextIO = sys.stdout) -> None:
        """Begin to watch the SAN; `close` ends that."""
        self._san = san
        self._output = output
        self._watch = Conversation(san, [WATCH], "python3 -S watch.py")
        self.steps = 0

    def begin(self) -> None:
        """Tell what the lines will say."""
        self._output.write(
            f"\n    {'step':<{TITLE}}{'Cinder and the initiator':<{SAID}}{'ZFS then holds':<{HOLDINGS}}"
            "   took    in ZFS\n"
        )

    def close(self) -> None:
        """Watch no more."""
        self._watch.close()

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Tell what happens in the block as one line; a step that fails is told as failed."""
        self.steps += 1
        step = Step()
        self._output.write(f"{self.steps:2}  {title:<{TITLE}}")
        self._output.flush()
        self._watch.ask("start")
        started = time.monotonic()
        try:
            yield step
        except BaseException:
            self._output.write("FAILED\n")
            raise
        seconds = time.monotonic() - started
        in_zfs = self._watch.ask("stop")
        figures = f"{seconds:5.1f} s {in_zfs:5.2f} s {in_zfs / seconds:4.0%}"
        self._output.write(f"{step!s:<{SAID}}{self.holdings():<{HOLDINGS}}{figures}\n")

    def holdings(self) -> str:
        """Return in a few words what ZFS holds below the parent."""
        command = f"zfs list -H -p -t volume,snapshot -o name,used -d 2 -r {PARENT}"
        rows = [line.split("\t") for line in self._san.succeed(command).splitlines()]
        zvols = [int(used) for name, used in rows if "@" not in name]
        snapshots = len(rows) - len(zvols)
        return (
            f"{_counted(len(zvols), 'zvol')}, {_counted(snapshots, 'snapshot')}, {sum(zvols) / 2**20:.1f} MiB"
        )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
