"""The way to an agent on this very machine: a child process over the same kind of pipe (``san_is_local``).

The agent runs as a user of its own. Root's child becomes that one by itself; anybody else's needs a line in
sudoers(5) for this command (docs/security.md).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self

from zolder.client.diagnosis import explain_silence
from zolder.errors import ConnectFailed
from zolder.names import Identity

_USER: Final = "zolder"


@dataclass(frozen=True, slots=True)
class LocalAgent:
    """The command of an agent."""

    argv: tuple[str, ...]

    @classmethod
    def of_identity(cls, identity: Identity) -> Self:
        """Return the agent that ``zolder-san`` in PATH is for an identity."""
        sudo = () if os.geteuid() == 0 else ("sudo", "-n", "-u", _USER, "--")
        return cls((*sudo, "zolder-san", "serve", "--identity", identity))

    @property
    def peer(self) -> str:
        """The agent as messages name it."""
        return " ".join(self.argv)

    @property
    def is_line(self) -> bool:
        """The command is the agent, which finishes what it has begun: it is never killed."""
        return False

    @contextlib.contextmanager
    def environment(self) -> Iterator[Mapping[str, str]]:
        """Yield no variables: there is nothing to log in to."""
        yield {}

    def explain(self, stderr: str, status: int | None) -> ConnectFailed:
        """Say why the agent ended before it spoke."""
        return explain_silence(self.peer, stderr, status)
