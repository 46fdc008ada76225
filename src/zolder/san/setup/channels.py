"""The agents that serve an identity now, and ending them.

An agent that is told to end finishes what it has begun, so it is told and never killed. sshd's process for
the connection is told, too: over a connection that stays its client would ask for the next channel. What does
not end in time keeps nothing else from being taken away, and is reported.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zolder.names import Identity
from zolder.san.keylines import served_identity
from zolder.san.setup.host import Host, SetupError
from zolder.san.setup.steps import Step

_LOOK_SECONDS: Final = 0.05
_SESSIONS: Final = ("sshd", "sshd-session")


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """A process of the agent's user."""

    pid: int
    parent: int
    name: str
    argv: tuple[str, ...]

    @property
    def identity(self) -> str | None:
        """The identity that it serves; None for what is no agent."""
        return served_identity(self.argv[-3:]) or served_identity(self.argv[-2:])


def processes(host: Host) -> dict[int, Process]:
    """Return all processes that run as the agent's user."""
    user = host.find_account()
    found = {}
    for folder in host.path("proc").iterdir() if user else ():
        # A process may end while it is looked at.
        with suppress(OSError, ValueError, KeyError):
            process = _read(folder, user.uid) if user and folder.name.isdecimal() else None
            if process:
                found[process.pid] = process
    return found


def _read(folder: Path, uid: int) -> Process | None:
    status = dict(line.split(":", 1) for line in (folder / "status").read_text(errors="replace").splitlines())
    if int(status["Uid"].split()[0]) != uid:
        return None
    argv = (folder / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    return Process(int(folder.name), int(status["PPid"]), status["Name"].strip(), tuple(argv))


def count_channels(host: Host) -> dict[str, int]:
    """Return how many channels each identity has open; those with none are left out."""
    counts: dict[str, int] = {}
    for process in processes(host).values():
        if process.identity:
            counts[process.identity] = counts.get(process.identity, 0) + 1
    return counts


class EndChannels(Step):
    """No channel of an identity is open, nor a connection over which it could open one without its key."""

    blocking = False

    def __init__(
        self, host: Host, identity: Identity, because: Sequence[Step], *, before: EndChannels | None = None
    ) -> None:
        """End connections in which nothing runs, whose identity nobody knows, where ``because`` changed.

        :param before: what it could not end is left alone here.
        """
        self._host = host
        self._identity = identity
        self._because = because
        self._before = before
        self.left: set[int] = set()

    def needed(self) -> str | None:
        """Return who would be told to end."""
        agents, sessions = self._find()
        if not agents and not sessions:
            return None
        told = " ".join(str(process.pid) for process in sorted({*agents, *sessions}))
        return f"kill -TERM {told}  # {len(agents)} channels of {self._identity}, {len(sessions)} connections"

    def apply(self) -> None:
        """Tell them, and whoever comes in the meantime, and wait until they have ended.

        :raises SetupError: some have not.
        """
        end = time.monotonic() + self._host.patience_seconds
        told: set[int] = set()
        while True:
            agents, sessions = self._find()
            told |= tell(self._host, [item for item in (*agents, *sessions) if item.pid not in told])
            if not agents:
                # An idle connection was told, and has nothing to finish.
                return
            if time.monotonic() > end:
                self.left = {process.pid for process in agents}
                pids = sorted(self.left)
                message = (
                    f"{len(pids)} channels of {self._identity} are still finishing what they began, or hang: "
                    f"look at them with 'ps -fp {','.join(map(str, pids))}', end one that hangs with "
                    "'kill -KILL NUMBER', and run this command again when they have ended"
                )
                raise SetupError(message)
            time.sleep(_LOOK_SECONDS)

    def _find(self) -> tuple[set[Process], set[Process]]:
        """Return the identity's agents, and the processes of sshd to end with them."""
        everyone = processes(self._host)
        agents = [process for process in everyone.values() if process.identity is not None]
        left = self._before.left if self._before else set()
        ours = {item for item in agents if item.identity == self._identity and item.pid not in left}
        sessions = {session for process in ours for session in _session_of(process, everyone)}
        if any(step.changing for step in self._because):
            used = {session for process in agents for session in _session_of(process, everyone)}
            sessions |= {process for process in everyone.values() if process.name in _SESSIONS} - used
        return ours, sessions


def _session_of(process: Process, everyone: dict[int, Process]) -> list[Process]:
    """Return sshd's process above an agent; a shell may stand between the two."""
    above = everyone.get(process.parent)
    while above and above.name not in _SESSIONS:
        above = everyone.get(above.parent)
    return [above] if above else []


def tell(host: Host, those: Iterable[Process]) -> set[int]:
    """Tell processes to end, and return the numbers of those that were there to be told."""
    user, told = host.find_account(), set()
    for process in those if user else ():
        with suppress(OSError, ValueError, KeyError):
            descriptor = os.pidfd_open(process.pid)
            try:
                # Another process may have its number since it was looked at; this one keeps it from now on.
                now = _read(host.path(f"proc/{process.pid}"), user.uid) if user else None
                if now and (now.name, now.identity) == (process.name, process.identity):
                    signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                    told.add(process.pid)
            finally:
                os.close(descriptor)
    return told
