"""A moment by which an operation has ended, on the clock that nobody sets.

Every wait in this room takes a ``Deadline`` and none has a time-out of its own, so the sum of the steps can
never be longer than what the caller allowed. Immutable, hence safe between threads.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Deadline:
    """``at`` counts as time.monotonic() does."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Self:
        """Return the deadline that many seconds from now."""
        return cls(time.monotonic() + seconds)

    def sooner(self, seconds: float) -> Deadline:
        """Return this deadline, or the one ``seconds`` from now where that comes first."""
        return Deadline(min(self.at, time.monotonic() + seconds))

    @property
    def remaining_seconds(self) -> float:
        """The time that is left, 0 once it has passed."""
        return max(0.0, self.at - time.monotonic())
