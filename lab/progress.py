"""Shows what a long run is doing: the steps at work, how long they have taken and how long they should.

On a terminal one line is redrawn, with a bar; elsewhere each step's start and end is a line of its own, with
a sign of life now and then. How long a step took is remembered for the next time. Steps may overlap, from
several threads.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from lab.cache import read_json, write_json

BAR_WIDTH = 24
REDRAW_SECONDS = 0.5
SIGN_OF_LIFE_SECONDS = 30.0


@dataclass
class Step:
    """A step at work."""

    name: str
    started: float
    expected: float


class Progress:
    """A display for one run; use it as a context manager."""

    def __init__(
        self, title: str, expected: dict[str, float], memory: Path, output: TextIO = sys.stderr
    ) -> None:
        """Prepare; nothing is shown before the first step.

        :param expected: seconds for each step, and under `title` for the whole, where nothing is remembered.
        :param memory: the file of remembered times.
        """
        self._title = title
        self._memory = memory
        self._output = output
        self._on_terminal = output.isatty()
        remembered = read_json(memory) if memory.exists() else {}
        numbers = {name: float(value) for name, value in remembered.items() if isinstance(value, int | float)}
        self._expected = expected | numbers
        self._took: dict[str, float] = {}
        self._active: list[Step] = []
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._started = time.monotonic()
        self._last_line = self._started
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Self:
        """Start the display."""
        self._started = time.monotonic()
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, and remember the times of a run that went well."""
        self._done.set()
        self._ticker.join()
        with self._lock:
            self._erase()
        if error is None and self._took:
            self._took[self._title] = time.monotonic() - self._started
            remembered = read_json(self._memory) if self._memory.exists() else {}
            write_json(self._memory, remembered | {name: round(took, 1) for name, took in self._took.items()})

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show a step while the body runs."""
        step = Step(name, time.monotonic(), self._expected.get(name, 0.0))
        with self._lock:
            self._active.append(step)
            if not self._on_terminal:
                usual = f" (usually {clock(step.expected)})" if step.expected >= 1 else ""
                self._write_line(f"{name}{usual} ...")
        try:
            yield
        except BaseException:
            self._end(step, "failed after")
            raise
        self._took[name] = time.monotonic() - step.started
        self._end(step, "done in")

    def note(self, text: str) -> None:
        """Show a line of text."""
        with self._lock:
            self._erase()
            self._write_line(text)

    def _end(self, step: Step, how: str) -> None:
        took = time.monotonic() - step.started
        with self._lock:
            self._active.remove(step)
            self._erase()
            self._write_line(f"{step.name}: {how} {took:.1f} s")

    def _write_line(self, text: str) -> None:
        print(f"[{clock(time.monotonic() - self._started):>5}] {text}", file=self._output, flush=True)
        self._last_line = time.monotonic()

    def _tick(self) -> None:
        while not self._done.wait(REDRAW_SECONDS):
            with self._lock:
                if self._on_terminal:
                    self._redraw()
                elif self._active and time.monotonic() - self._last_line > SIGN_OF_LIFE_SECONDS:
                    self._write_line(f"still at: {self._doing()}")

    def _doing(self) -> str:
        now = time.monotonic()
        return ", ".join(
            f"{step.name} {clock(now - step.started)}"
            + (f" of ~{clock(step.expected)}" if step.expected else "")
            for step in self._active
        )

    def _redraw(self) -> None:
        elapsed = time.monotonic() - self._started
        whole = max(self._expected.get(self._title, 0.0), 1.0)
        # Never full before the end: an estimate that was too short shows as a bar that waits.
        filled = min(int(elapsed / whole * BAR_WIDTH), BAR_WIDTH - 1)
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        line = f"{self._title} [{bar}] {clock(elapsed)} of ~{clock(whole)}  {self._doing()}"
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{line[:width]}", end="", file=self._output, flush=True)

    def _erase(self) -> None:
        if self._on_terminal:
            print("\r\x1b[K", end="", file=self._output, flush=True)


def clock(seconds: float) -> str:
    """Return minutes and seconds: 1:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
