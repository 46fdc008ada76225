"""Watches what a SAN holds: what has changed since the last look, once whatever is under way has ended."""

from __future__ import annotations

import time

from tests.attack.dump import (
    COMMANDS,
    DIGESTS,
    MEANWHILE,
    READS,
    RECORDED,
    STRICT,
    Facts,
    changes,
    facts_of,
    is_restless,
)
from tests.attack.runner import Guest

# An agent whose line was cut finishes what it has begun; under emulation its end takes a second or two.
REST_SECONDS = 20.0
PAUSE_SECONDS = 0.3
# So often what the zpools' histories record is read as well, whether they grew or not.
WHOLE_EVERY = 40


class Observer:
    """The facts of the last look, and a way to look again."""

    def __init__(self, guest: Guest) -> None:
        """Prepare; `rest` takes the first look."""
        self._guest = guest
        self.facts: Facts = {}
        self._looks = 0

    def rest(self, agents: int, *, whole: bool = False) -> list[str]:
        """Look until nothing changes any more by itself; return what has changed since the last time.

        :param agents: how many agents there may be.
        :param whole: read everything, however much it costs.
        """
        self._looks += 1
        whole = whole or self._looks % WHOLE_EVERY == 1
        end = time.monotonic() + REST_SECONDS
        wanted = {**self.facts, "agents": str(agents)}
        while True:
            now = self._look(whole=whole)
            found = changes(wanted, now)
            if not whole and any(change[2:].startswith("history") for change in found):
                whole = True
                continue
            if not found or time.monotonic() > end or not all(map(is_restless, found)):
                self.facts = now
                return found
            time.sleep(PAUSE_SECONDS)

    def meanwhile(self) -> list[str]:
        """Return the files and sockets that are other than at the last look; processes are not looked at."""
        gathered = self._guest.ask("gather", commands=MEANWHILE, reads=READS, digests=[], strict=[])
        now = facts_of(gathered)
        kinds = ("file ", "socket ")
        before = {name: fact for name, fact in self.facts.items() if name.startswith(kinds)}
        return changes(before, {name: fact for name, fact in now.items() if name.startswith(kinds)})

    def _look(self, *, whole: bool) -> Facts:
        left_out = () if whole else RECORDED
        commands = {name: argv for name, argv in COMMANDS.items() if not name.startswith(left_out)}
        strict = [name for name in STRICT if name in commands]
        gathered = self._guest.ask("gather", commands=commands, reads=READS, digests=DIGESTS, strict=strict)
        kept = {name: fact for name, fact in self.facts.items() if name.startswith(left_out)}
        return kept | facts_of(gathered)
