"""The agents that serve an identity now, and ending them.

An agent that is told to end finishes what it has begun, so it is told and never killed. sshd's process for
the connection is told, too: over a connection that stays its client would ask for the next channel.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from zolder.names import Identity
from zolder.san.setup.host import Host, SetupError
from zolder.san.setup.steps import Step

_LOOK_SECONDS: Final = 0.05
_SESSIONS: Final = ("sshd", "sshd-session")


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the agent's user."""

    pid: int
    parent: int
    name: str
    argv: tuple[str, ...]

    @property
    def identity(self) -> str | None:
        """The identity that it serves; None for what is no agent."""
        match self.argv[-3:]:
            case ("serve", "--identity", identity):
                return identity
        return None


def processes(host: Host) -> dict[int, Process]:
    """Return all processes that run as the agent's user."""
    user = host.find_account()
    found = {}
    for folder in host.path("proc").iterdir() if user else ():
        # A process may end while it is looked at.
        with suppress(OSError, ValueError, KeyError):
            if not folder.name.isdecimal():
                continue
            status = dict(
                line.split(":", 1) for line in (folder / "status").read_text(errors="replace").splitlines()
            )
            if user and int(status["Uid"].split()[0]) == user.uid:
                argv = (folder / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
                pid = int(folder.name)
                found[pid] = Process(pid, int(status["PPid"]), status["Name"].strip(), tuple(argv))
    return found


def count_channels(host: Host) -> dict[str, int]:
    """Return how many channels each identity has open; those with none are left out."""
    counts: dict[str, int] = {}
    for process in processes(host).values():
        if process.identity:
            counts[process.identity] = counts.get(process.identity, 0) + 1
    return counts


class EndChannels(Step):
    """No channel of an identity is open, nor a connection over which it could open one without its key."""

    def __init__(self, host: Host, identity: Identity, because: Sequence[Step]) -> None:
        """End connections in which nothing runs, whose identity nobody knows, where ``because`` changed."""
        self._host = host
        self._identity = identity
        self._because = because

    def needed(self) -> str | None:
        """Return who would be told to end."""
        agents, sessions = self._find()
        if not agents and not sessions:
            return None
        told = " ".join(str(pid) for pid in sorted({*agents, *sessions}))
        return f"kill -TERM {told}  # {len(agents)} channels of {self._identity}, {len(sessions)} connections"

    def apply(self) -> None:
        """Tell them, and whoever comes in the meantime, and wait until they have ended.

        :raises SetupError: some are still finishing what they began.
        """
        end = time.monotonic() + self._host.patience_seconds
        told: set[int] = set()
        while True:
            agents, sessions = self._find()
            if not agents:
                # An idle connection was told once at least, and has nothing to finish.
                _tell({*sessions} - told)
                return
            _tell({*agents, *sessions} - told)
            told |= {*agents, *sessions}
            if time.monotonic() > end:
                message = (
                    f"{len(agents)} channels of {self._identity} are still finishing what they began; it has "
                    "no way in any more. Run this command again when they have ended"
                )
                raise SetupError(message)
            time.sleep(_LOOK_SECONDS)

    def _find(self) -> tuple[list[int], list[int]]:
        """Return the identity's agents, and the processes of sshd to end with them."""
        everyone = processes(self._host)
        agents = [process for process in everyone.values() if process.identity is not None]
        ours = [process for process in agents if process.identity == self._identity]
        sessions = {session for process in ours for session in _session_of(process, everyone)}
        if any(step.changing for step in self._because):
            used = {session for process in agents for session in _session_of(process, everyone)}
            sessions |= {pid for pid, process in everyone.items() if process.name in _SESSIONS} - used
        return sorted(process.pid for process in ours), sorted(sessions)


def _session_of(process: Process, everyone: dict[int, Process]) -> list[int]:
    """Return sshd's process above an agent; a shell may stand between the two."""
    above = everyone.get(process.parent)
    while above and above.name not in _SESSIONS:
        above = everyone.get(above.parent)
    return [above.pid] if above else []


def _tell(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
