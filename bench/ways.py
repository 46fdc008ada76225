"""The ways to do the same thing to the same zpool, each a `Way` that says how long one step took.

A step's time is measured where its caller stands: in the guest for what runs there, on this machine for what
goes over ssh. Processes are counted by the SAN's kernel.
"""

from __future__ import annotations

import json
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from lab import Lab, LabError
from lab.install import PLACE

PARENT: Final = "data/volumes"
SIZE_GIB: Final = 1
# What runs in the SAN, and where it is put.
SCRIPTS: Final = ("runner.py", "commands.py")
SCRIPT_FOLDER: Final = "/run/zolder-bench"


@dataclass(frozen=True)
class Step:
    """What one step cost."""

    ms: float
    requests: int
    processes: int


class Way(ABC):
    """One way to do each verb; a zvol is named by a word that no other way uses."""

    name: str

    @abstractmethod
    def do(self, verb: str, zvol: str) -> Step:
        """Do one of VERBS to a zvol and return what it cost."""


class Runner:
    """A process in the SAN that does steps on command, so that no ssh is in their time."""

    def __init__(self, lab: Lab) -> None:
        """Start it; it ends with its standard input."""
        lab.san.succeed(["mkdir", "-p", SCRIPT_FOLDER])
        for name in SCRIPTS:
            lab.san.write_file(f"{SCRIPT_FOLDER}/{name}", Path(__file__).with_name(name).read_bytes())
        command = f"PYTHONPATH={PLACE} python3 -S {SCRIPT_FOLDER}/runner.py"
        self._process = subprocess.Popen(
            [*lab.san.remote.ssh_command(), "--", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let it end."""
        self._process.communicate(timeout=30)

    def ask(self, **request: object) -> Any:  # noqa: ANN401 - JSON
        """Have one thing done and return its answer."""
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError  # both were asked for above
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise LabError(f"bench's runner in the SAN ended while asked for {request}")
        return json.loads(line)

    def processes(self) -> int:
        """Return how many processes the SAN's kernel has started since it booted."""
        return int(self.ask(verb="processes")["processes"])

    def watch(self, action: Callable[[], int]) -> Step:
        """Measure what is done from this machine.

        :param action: does it, and returns how many requests that took.
        """
        before = self.processes()
        started = time.perf_counter()
        requests = action()
        ms = (time.perf_counter() - started) * 1000
        return Step(ms, requests, self.processes() - before)


class LocalWay(Way):
    """What the runner itself does in the SAN: ``library`` or ``command``."""

    def __init__(self, name: str, runner: Runner) -> None:
        """Do it through the runner."""
        self.name = name
        self._runner = runner

    def do(self, verb: str, zvol: str) -> Step:
        """See `Way`."""
        return Step(**self._runner.ask(way=self.name, verb=verb, dataset=f"{PARENT}/{zvol}"))
