"""The draft's way: each command over a new session of one pooled SSH connection, as Cinder's SSHPool does."""

from __future__ import annotations

import shlex
import time
from typing import Final

import paramiko

from bench.commands import draft_commands
from bench.ways import PARENT, Runner, Step, Way
from lab import Lab, LabError

# For how long a command that fails is repeated: the device of a new zvol may be late for tgtadm.
PATIENCE_SECONDS: Final = 10


class DraftWay(Way):
    """What the driver of 2012 did, with its connection open already."""

    name = "draft"

    def __init__(self, lab: Lab, runner: Runner) -> None:
        """Connect with the lab's own key, which may run anything."""
        self._runner = runner
        environment = lab.environment()
        self._client = paramiko.SSHClient()
        self._client.load_host_keys(environment["known_hosts"])
        self._client.connect(
            "127.0.0.1",
            port=int(environment["san_ssh_port"]),
            username="root",
            key_filename=environment["admin_key"],
            allow_agent=False,
            look_for_keys=False,
        )

    def do(self, verb: str, zvol: str) -> Step:
        """See `Way`."""
        commands = draft_commands(verb, f"{PARENT}/{zvol}")
        return self._runner.watch(lambda: sum(self._repeat(command) for command in commands))

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def _repeat(self, command: tuple[str, ...]) -> int:
        """Run a command until it succeeds, and return how many requests that took."""
        end = time.monotonic() + PATIENCE_SECONDS
        requests = 1
        while self._execute(command):
            if time.monotonic() > end:
                raise LabError(f"the draft's command failed for {PATIENCE_SECONDS} s: {shlex.join(command)}")
            requests += 1
        return requests

    def _execute(self, command: tuple[str, ...]) -> int:
        stdin, stdout, stderr = self._client.exec_command(shlex.join(command))
        stdin.close()
        stdout.read()
        stderr.read()
        exit_status: int = stdout.channel.recv_exit_status()
        return exit_status
