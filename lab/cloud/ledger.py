"""What became of the operations of a crowd, each with when it was at work. Pure, but for its lock."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class End(StrEnum):
    """How an operation ended."""

    DONE = "done"
    # Cinder said no, or put what it was about into an error: nothing is at work any more.
    FAILED = "failed"
    # It is at work for ever: nobody has it in hand.
    STUCK = "stuck"


@dataclass(frozen=True)
class Entry:
    """One operation: what it was about, and between which moments, in seconds of one clock."""

    kind: str
    subject: str
    began: float
    ended: float
    end: End
    why: str = ""

    def was_at_work(self, moments: Iterable[float]) -> bool:
        """Say whether it had begun by one of some moments, and not ended."""
        return any(self.began <= moment <= self.ended for moment in moments)

    def line(self) -> str:
        """Return it for a person."""
        return f"{self.kind} of {self.subject} {self.end}: {self.why}"


@dataclass
class Ledger:
    """The operations of all clients. Threads share it."""

    wanted: int
    _entries: list[Entry] = field(default_factory=list)
    _begun: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> bool:
        """Take one of the wanted operations on; say whether there was one left."""
        with self._lock:
            if self._begun == self.wanted:
                return False
            self._begun += 1
            return True

    def stop(self) -> None:
        """Have nobody begin another one."""
        with self._lock:
            self._begun = self.wanted

    def add(self, entry: Entry) -> None:
        """Write one down that has ended."""
        with self._lock:
            self._entries.append(entry)

    @property
    def entries(self) -> list[Entry]:
        """Those that have ended."""
        with self._lock:
            return list(self._entries)

    def not_done(self) -> list[Entry]:
        """Return those that did not come to their end."""
        return [entry for entry in self.entries if entry.end is not End.DONE]

    def lines(self) -> list[str]:
        """Return the account: of each kind how many came to which end, and how long one took."""
        return count_lines(self.entries)


def count_lines(entries: Iterable[Entry]) -> list[str]:
    """Return a line for each kind of operation, and one for all."""
    by_kind: dict[str, list[Entry]] = {}
    for entry in entries:
        by_kind.setdefault(entry.kind, []).append(entry)
    lines = []
    for kind, those in sorted(by_kind.items()):
        ends = Counter(entry.end for entry in those)
        took = sorted(entry.ended - entry.began for entry in those)
        counts = ", ".join(f"{ends[end]} {end}" for end in End if ends[end])
        lines.append(f"  {kind:15} {counts}; median {took[len(took) // 2]:.1f} s, longest {took[-1]:.1f} s")
    return lines


def unexpected(entries: Iterable[Entry], killed_at: Collection[float]) -> list[Entry]:
    """Return what did not come to its end and was not at work at a moment when a service was killed."""
    return [entry for entry in entries if entry.end is not End.DONE and not entry.was_at_work(killed_at)]
