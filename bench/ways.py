"""The ways to do the same thing to the same zpool, each a `Way` that says how long one step took.

A step's time is measured where its caller stands: in the guest for what runs there, on this machine for what
goes over ssh. Processes are counted by the SAN's kernel.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab import Lab
from lab.conversation import Conversation
from lab.install import PLACE

PARENT: Final = "data/volumes"
SIZE_GIB: Final = 1
# What runs in the SAN.
SCRIPTS: Final = [Path(__file__).with_name("runner.py"), Path(__file__).with_name("commands.py")]


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
        """Start it; `close` ends it."""
        self._conversation = Conversation(lab.san, SCRIPTS, f"env PYTHONPATH={PLACE} python3 -S runner.py")

    def close(self) -> None:
        """Let it end."""
        self._conversation.close()

    def do(self, way: str, verb: str, dataset: str) -> Step:
        """Have it do a step by itself."""
        return Step(**self._conversation.ask("do", way=way, step=verb, dataset=dataset))

    def processes(self) -> int:
        """Return how many processes the SAN's kernel has started since it booted."""
        return int(self._conversation.ask("count_processes"))

    def settle(self) -> None:
        """Wait until udev is through with what the step before made or removed: it is not the next one's."""
        self._conversation.ask("settle")

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
    """What the runner itself does in the SAN: ``bare``, ``library`` or ``command``."""

    def __init__(self, name: str, runner: Runner) -> None:
        """Do it through the runner."""
        self.name = name
        self._runner = runner

    def do(self, verb: str, zvol: str) -> Step:
        """See `Way`."""
        return self._runner.do(self.name, verb, f"{PARENT}/{zvol}")
