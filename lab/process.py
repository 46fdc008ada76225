"""Processes of this machine that outlive the command that started them.

One is ended by its id only while its start time still matches, so never somebody else's.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.waiting import wait_until


@dataclass(frozen=True)
class Process:
    """A process that cannot be mistaken for a later one with the same id."""

    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """Return the process that has this id now.

        :raises LabError: when there is none.
        """
        start_time = read_start_time(pid)
        if start_time is None:
            raise LabError(f"process {pid} ended at once")
        return cls(pid, start_time)

    def is_alive(self) -> bool:
        """Say whether it still runs."""
        return read_start_time(self.pid) == self.start_time

    def kill(self) -> None:
        """End it at once, as a pulled plug does, and wait until it has gone."""
        if self.is_alive():
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def wait(self, timeout_seconds: float = 30.0) -> None:
        """Wait until it has gone.

        :raises TimedOut: when it does not go.
        """
        wait_until(
            lambda: not self.is_alive(), timeout_seconds, f"process {self.pid} to end", interval_seconds=0.01
        )


def find_by_pid_file(pid_file: Path, word: str) -> Process | None:
    """Return the process of a pid file, if one with this word in its command line has that id."""
    try:
        pid = int(pid_file.read_text())
        command_line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (
        FileNotFoundError,
        ProcessLookupError,
        ValueError,
    ):  # never started, ended, or cut short while starting
        return None
    return Process.of(pid) if word.encode() in command_line else None


def read_start_time(pid: int) -> int | None:
    """Return when a live process started, in clock ticks after boot, proc(5); None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    # Fields 3 and 22, counted from 1 before the name in brackets was cut off.
    state, start_time = fields[0], int(fields[19])
    return None if state in "ZX" else start_time
