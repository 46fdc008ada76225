"""The way to a SAN through the system's ssh, which brings the operator's configuration, agents and jumps.

Builds the argument vector, which never goes through a shell and never carries a secret. Host keys are always
checked. A password reaches ssh through an askpass program in a private folder that lives only while the
channel is being opened. Sources: ssh(1), ssh_config(5).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from zolder.client.diagnosis import ConnectDenied, explain_ssh
from zolder.errors import ConnectFailed, InvalidRequest

# ssh notices a dead line after three unanswered probes: 45 seconds.
_ALIVE_INTERVAL_SECONDS: Final = 15
_ALIVE_COUNT: Final = 3
# Without a forced command this is what the login shell is asked for; with one it is ignored (sshd(8)).
_COMMAND: Final = "zolder-san"
# The ssh that a jump host is reached by inherits the environment of ours: only our own child gets the secret.
_ASKPASS: Final = """#!/bin/sh
grep -q "^PPid:[[:space:]]*{pid}$" "/proc/$PPID/status" && exec cat -- "${{0%/*}}/secret"
"""


@dataclass(frozen=True, slots=True)
class SshTarget:
    """Where the agent is and how to log in there.

    ``known_hosts`` are paths; empty leaves the choice to ssh. Without a key and a password, ssh_config and a
    running ssh-agent decide. ``config`` takes the place of the user's and the system's ssh_config.
    """

    address: str
    login: str
    port: int = 22
    private_key: str | None = None
    password: str | None = field(default=None, repr=False)
    known_hosts: tuple[str, ...] = ()
    config: str | None = None
    connect_timeout_seconds: int = 30

    def __post_init__(self) -> None:
        """Check what ssh would misread.

        :raises InvalidRequest: an empty or dashed address or login, or a quote in a path.
        """
        for what, value in (("address", self.address), ("login", self.login)):
            if not value or value.startswith("-") or not value.isprintable() or " " in value:
                message = f"{value!a} is no {what} for ssh"
                raise InvalidRequest(message)
        if any('"' in path for path in self.known_hosts):
            message = "a known_hosts path cannot contain a quotation mark"
            raise InvalidRequest(message)

    @property
    def peer(self) -> str:
        """The SAN as messages name it."""
        return f"{self.login}@{self.address} port {self.port}"

    @property
    def is_line(self) -> bool:
        """The agent runs on the SAN: who kills ssh kills nothing there."""
        return True

    @property
    def argv(self) -> tuple[str, ...]:
        """The whole ssh command.

        A channel is a connection of its own (no ControlPath): sshd's MaxSessions counts per connection, and a
        dying master would take all others along.
        """
        options = {
            "BatchMode": "no" if self.password else "yes",
            "NumberOfPasswordPrompts": "1",
            "StrictHostKeyChecking": "yes",
            "ServerAliveInterval": str(_ALIVE_INTERVAL_SECONDS),
            "ServerAliveCountMax": str(_ALIVE_COUNT),
            "ConnectTimeout": str(self.connect_timeout_seconds),
            "ClearAllForwardings": "yes",
            "ControlPath": "none",
            # The diagnosis reads what ssh says, so ssh_config must not silence it.
            "LogLevel": "INFO",
        }
        if self.known_hosts:
            options["UserKnownHostsFile"] = " ".join(f'"{path}"' for path in self.known_hosts)
        if self.private_key:
            options["IdentitiesOnly"] = "yes"
        words = ["ssh", "-T", *(["-F", self.config] if self.config else [])]
        for name, value in options.items():
            words += ["-o", f"{name}={value}"]
        if self.private_key:
            words += ["-i", self.private_key]
        return (*words, "-p", str(self.port), "-l", self.login, "--", self.address, _COMMAND)

    @contextlib.contextmanager
    def environment(self) -> Iterator[Mapping[str, str]]:
        """Yield the variables that ssh needs while it logs in; what they lead to is gone afterwards.

        :raises ConnectDenied: the private key cannot be read.
        """
        self._check_key()
        # The diagnosis knows the messages of the C locale.
        variables = {"LC_ALL": "C"}
        if self.password is None:
            yield variables
            return
        # ssh closes all descriptors but the first three when it starts, so the secret cannot come by one of
        # those; mkdtemp's folder and the file in it are readable by this user alone.
        with tempfile.TemporaryDirectory(prefix="zolder-") as folder:
            _write(Path(folder, "secret"), self.password + "\n", 0o600)
            _write(Path(folder, "askpass"), _ASKPASS.format(pid=os.getpid()), 0o700)
            yield variables | {"SSH_ASKPASS": str(Path(folder, "askpass")), "SSH_ASKPASS_REQUIRE": "force"}

    def explain(self, stderr: str, status: int | None) -> ConnectFailed:
        """Say why ssh ended before the agent spoke."""
        key = self.private_key or "your key"
        if self.password and not self.private_key:
            credential = "the password is that user's and sshd on the SAN takes passwords"
        else:
            credential = f"the public half of {key} stands in that user's authorized_keys on the SAN"
        return explain_ssh(
            stderr,
            status,
            {
                "peer": self.peer,
                "address": self.address,
                "port": str(self.port),
                "known_hosts": " ".join(self.known_hosts) or "~/.ssh/known_hosts",
                "key": key,
                "credential": credential,
            },
        )

    def _check_key(self) -> None:
        if self.private_key and not os.access(self.private_key, os.R_OK):
            message = (
                f"The private key {self.private_key} cannot be read: check the path, and that the user that"
                " cinder-volume runs as may read it."
            )
            raise ConnectDenied(message)


def _write(path: Path, text: str, mode: int) -> None:
    # O_EXCL with the mode at birth: at no moment can another user open it.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)
