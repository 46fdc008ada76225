"""Looks at the command lines of all processes, again and again, for words that must not be there.

Runs as root in a guest and imports the standard library alone. The words come by standard input, so they are
in no command line of ours. What a process showed for less than a round of looking may be missed: the answer
says how many rounds there were.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any


class Watch:
    """Looks until it is told to stop."""

    def __init__(self, words: list[str]) -> None:
        """Begin."""
        self.rounds = 0
        self.seen: set[str] = set()
        self.found: set[str] = set()
        self._words = [word.encode() for word in words]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes()
                except OSError:  # it ended meanwhile
                    continue
                text = line.replace(b"\0", b" ").decode(errors="replace").strip()
                self.seen.add(text)
                if any(word in line for word in self._words):
                    self.found.add(text)
            self.rounds += 1


_watches: list[Watch] = []


def watch(words: list[str]) -> None:
    """Begin to look for words."""
    _watches[:] = [Watch(words)]


def rounds() -> int:
    """Return how many times all processes were looked at."""
    return _watches[0].rounds


def stop() -> dict[str, Any]:
    """End it, and return the command lines with such a word, and how many others there were."""
    (looking,) = _watches
    looking.stop()
    return {"found": sorted(looking.found), "rounds": looking.rounds, "seen": len(looking.seen)}


if __name__ == "__main__":
    from answering import answer_all  # type: ignore[import-not-found]  # beside this script in the guest

    answer_all(watch, rounds, stop)
