"""Commands in a guest, as root over SSH with the lab's admin key.

All commands of one machine share one connection (OpenSSH's ControlMaster), which is made by the first and
ended by `close`; it dies with the guest's state, so a reset closes it. This is the lab's own way in: the code
under test uses its own keys and its own connections.
"""

from __future__ import annotations

import shlex
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.errors import TimedOut, shorten

# sshd allows ten sessions on a connection; two are left for people who look on.
SESSIONS = 8
CONNECT_SECONDS = 60


@dataclass(frozen=True)
class Completed:
    """What a command in a guest left."""

    stdout: str
    stderr: str
    exit_status: int
    seconds: float


class Remote:
    """The way into one guest."""

    def __init__(self, name: str, port: int, keys: Path, known_hosts: Path, control: Path) -> None:
        """Prepare; nothing is connected yet.

        :param control: where the shared connection's socket will be.
        """
        self.name = name
        self._port = port
        self._keys = keys
        self._known_hosts = known_hosts
        self._control = control
        self._sessions = threading.BoundedSemaphore(SESSIONS)

    def ssh_command(self, *, shared: bool = True, connect_seconds: int = CONNECT_SECONDS) -> list[str]:
        """Return the ssh call up to the command to be run.

        :param shared: over the shared connection.
        :param connect_seconds: how long the guest's sshd may take to say its first word.
        """
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": self._known_hosts,
            "GlobalKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
            "IdentityFile": self._keys / "admin",
            "LogLevel": "ERROR",
            "ConnectTimeout": str(connect_seconds),
            # Generous: on a busy machine an emulated guest may be silent for a while.
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "8",
        }
        if shared:
            options |= {"ControlMaster": "auto", "ControlPath": self._control, "ControlPersist": "yes"}
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-F", "/dev/null", *words, "-p", str(self._port), "root@127.0.0.1"]

    def run(
        self,
        command: str | Sequence[str],
        *,
        input: str | bytes | None = None,  # noqa: A002 - the name that subprocess gives it
        timeout_seconds: float = 120.0,
        connect_seconds: int = CONNECT_SECONDS,
    ) -> Completed:
        """Run a command and return how it went, whatever its exit status.

        :param command: a list is quoted word by word, a string goes to the guest's shell as it is.
        :param connect_seconds: how long the guest's sshd may take to say its first word.
        :raises TimedOut: when it takes longer.
        """
        text = command if isinstance(command, str) else shlex.join(command)
        data = input.encode() if isinstance(input, str) else input
        started = time.monotonic()
        with self._sessions:
            try:
                done = subprocess.run(
                    [*self.ssh_command(connect_seconds=connect_seconds), "--", text],
                    input=data, stdin=subprocess.DEVNULL if data is None else None,
                    capture_output=True, timeout=timeout_seconds, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired as err:
                said = (err.stderr or b"").decode(errors="replace")
                raise TimedOut(
                    f"a command in {self.name} did not end in {timeout_seconds:g} s:\n"
                    f"    {shorten(text, 600)}\n    {said.strip() or '(nothing on stderr)'}"
                ) from err
        return Completed(
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
            done.returncode,
            time.monotonic() - started,
        )

    def close(self) -> None:
        """End the shared connection, if there is one."""
        if self._control.exists():
            # Its exit status says only whether a connection was there.
            subprocess.run(
                [*self.ssh_command(), "-O", "exit"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
            self._control.unlink(missing_ok=True)
