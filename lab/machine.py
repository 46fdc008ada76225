"""One guest of the lab: its process, its console, and commands in it.

What tests, demo and bench hold in their hands. Every failure shows the command, its complaint and the end of
the machine's console.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lab.errors import CommandFailed, LabError, TimedOut
from lab.process import Process
from lab.qemu import find_qemu, start_qemu
from lab.qmp import Qmp
from lab.remote import CONNECT_SECONDS, Completed, Remote
from lab.spec import Hardware, Spec
from lab.waiting import wait_until

T = TypeVar("T")

# An emulated kernel may end before its first word (seen once in some 30 boots): no disk was touched by then.
BOOT_ATTEMPTS = 3
BOOT_SECONDS = 900.0
# How long the tries to connect to a booting guest wait, before they have patience.
FIRST_TRIES = (1,) * 20 + (2,) * 10 + (5,) * 10
# What systemd and kernels write to make a terminal colourful.
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\r|\x00")


@dataclass(frozen=True)
class Place:
    """Where a machine's things are on this machine."""

    folder: Path
    links: Path
    keys: Path
    known_hosts: Path


class Machine:
    """A guest, running or not."""

    def __init__(self, spec: Spec, place: Place, hardware: Hardware, ssh_port: int) -> None:
        """Take hold of a machine; nothing is started."""
        self.name = spec.name
        self.spec = spec
        self.ssh_port = ssh_port
        self._place = place
        self._hardware = hardware
        self.remote = Remote(spec.name, ssh_port, place.keys, place.known_hosts, place.folder / "ssh.sock")

    # Commands

    def run(
        self,
        command: str | Sequence[str],
        *,
        input: str | bytes | None = None,  # noqa: A002 - the name that subprocess gives it
        timeout_seconds: float = 120.0,
        check: bool = False,
    ) -> Completed:
        """Run a command as root.

        :param command: a list is quoted word by word, a string goes to the guest's shell as it is.
        :param check: raise unless it exits 0.
        :raises CommandFailed: with `check`.
        :raises TimedOut: when it takes longer.
        """
        try:
            done = self.remote.run(command, input=input, timeout_seconds=timeout_seconds)
        except TimedOut as err:
            raise TimedOut(f"{err}\n  end of {self.name}'s console:\n{self.console_tail(15)}") from err
        if check and done.exit_status != 0:
            raise self._failure(command, done)
        return done

    def succeed(
        self,
        command: str | Sequence[str],
        *,
        input: str | bytes | None = None,  # noqa: A002 - as above
        timeout_seconds: float = 120.0,
    ) -> str:
        """Run a command that must exit 0, and return its standard output."""
        return self.run(command, input=input, timeout_seconds=timeout_seconds, check=True).stdout

    def fail(self, command: str | Sequence[str], *, timeout_seconds: float = 120.0) -> str:
        """Run a command that must not exit 0, and return its standard error.

        :raises LabError: when it succeeds.
        """
        done = self.run(command, timeout_seconds=timeout_seconds)
        if done.exit_status == 0:
            text = command if isinstance(command, str) else shlex.join(command)
            raise LabError(
                f"this should have failed in {self.name}, and did not:\n    {text}\n    {done.stdout}"
            )
        return done.stderr

    def wait_until(
        self, condition: str | Callable[[], T | None], timeout_seconds: float = 30.0, what: str = ""
    ) -> T | bool:
        """Wait until a command exits 0, or a function answers something true.

        :param what: what is waited for, for the error; the command, if it is not given.
        :raises TimedOut: when it did not come true in time.
        """
        try:
            if isinstance(condition, str):
                command = condition
                return wait_until(
                    lambda: self.run(command).exit_status == 0,
                    timeout_seconds,
                    what or f"`{command}` in {self.name}",
                )
            return wait_until(condition, timeout_seconds, what or f"a condition in {self.name}")
        except TimedOut as err:
            raise TimedOut(f"{err}\n  end of {self.name}'s console:\n{self.console_tail(15)}") from err

    def write_file(self, path: str, content: bytes, *, mode: int = 0o644) -> None:
        """Write a file whole: a reader sees the old content or the new."""
        quoted, scratch = shlex.quote(path), shlex.quote(f"{path}.new")
        self.succeed(
            f"umask 077; cat > {scratch} && chmod {mode:o} {scratch} && mv {scratch} {quoted}", input=content
        )

    def _failure(self, command: str | Sequence[str], done: Completed) -> CommandFailed:
        said = done.stderr or done.stdout
        return CommandFailed(f"in {self.name}", command, done.exit_status, said, self.console_tail(15))

    # Life

    def is_running(self) -> bool:
        """Say whether its QEMU runs."""
        return self.find_process() is not None

    def find_process(self) -> Process | None:
        """Return its QEMU, whoever started it."""
        return find_qemu(self._place.folder)

    def console_tail(self, lines: int = 40) -> str:
        """Return the last lines of its console."""
        console = self._place.folder / "console.log"
        if not console.exists():
            return ""
        return "\n".join(ESCAPES.sub("", console.read_text(errors="replace")).splitlines()[-lines:])

    def start(self, *, paused: bool = False) -> None:
        """Start its QEMU; see `boot` for a machine that is then ready."""
        start_qemu(
            self.spec, self._hardware, self._place.folder, self._place.links, self.ssh_port, paused=paused
        )

    def qmp(self) -> Qmp:
        """Connect to its QEMU."""
        return Qmp(self._place.folder / "qmp.sock")

    def power_off_hard(self) -> None:
        """Pull the plug: nothing is flushed, nobody is told."""
        if process := self.find_process():
            process.kill()
        self.remote.close()

    def boot(self) -> None:
        """Boot it from its disks as they are, and wait until it is ready."""
        if self.is_running():
            raise LabError(f"{self.name} runs already; power_off_hard() comes before boot()")
        self.remote.close()
        for attempt in range(1, BOOT_ATTEMPTS + 1):
            self.start()
            try:
                self.wait_until_ready(BOOT_SECONDS, booting=True)
            except LabError:
                if attempt == BOOT_ATTEMPTS or self.is_running() or self.console_tail():
                    raise
            else:
                return

    def wait_until_ready(self, timeout_seconds: float, *, booting: bool = False) -> None:
        """Wait for its sshd, and set its clock.

        :param booting: it is being booted, not restored; wait until systemd says that all has started, too.
        :raises TimedOut: with the end of its console.
        """
        # User networking accepts connections for a guest that does not listen yet, and those then hang: while
        # it boots, a new one is made soon. A restored guest listens at once, however slow it may be.
        patience = iter(FIRST_TRIES if booting else ())

        def answers() -> bool:
            if not self.is_running():
                raise LabError(
                    f"{self.name} ended while starting; end of its console:\n{self.console_tail(25)}"
                )
            try:
                done = self.remote.run("true", connect_seconds=next(patience, CONNECT_SECONDS))
            except (
                TimedOut
            ):  # it answered and then stalled, on a busy machine: asked again until our own time is up
                return False
            return done.exit_status == 0

        self.wait_until(answers, timeout_seconds, f"{self.name} to answer over ssh")
        # A restored machine believes it is still the time when its state was saved. Told over the connection
        # that stands now, the time is not stale when it arrives.
        self.succeed(f"date -u -s @{time.time():.3f}")
        if booting:
            # Exits 1 for "degraded": whether a unit matters is for the one who needs it to say.
            self.run("systemctl is-system-running --wait", timeout_seconds=timeout_seconds)
