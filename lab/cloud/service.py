"""Programs that live no longer than the command that started them.

Each runs in a process namespace whose first process is killed when this one ends, however that ends
(lab.command.CONTAINED), and takes all its children with it: RabbitMQ's port mapper, the web server's workers,
the driver's ssh. Nothing is asked to end gently, for their data are thrown away. They are to be started by
the main thread: the kernel ties them to the thread that did it (prctl(2), PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.command import CONTAINED, build_environment
from lab.errors import LabError, TimedOut, indent
from lab.waiting import wait_until

START_SECONDS = 120.0
END_SECONDS = 10.0
LOOPBACK = "127.0.0.1"


class Service:
    """One program that runs."""

    def __init__(
        self, name: str, argv: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None
    ) -> None:
        """Start it; see `wait_until_ready`.

        :param log: what it says on its outputs goes there.
        :param env: what its environment has beside ours.
        """
        self.name = name
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*CONTAINED, *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=build_environment(**(env or {})),
                # A terminal's Ctrl-C is for us, who then end them in their order.
                start_new_session=True,
            )

    def wait_until_ready(self, is_ready: Callable[[], object]) -> None:
        """Wait until it can be used.

        :raises LabError: it ended, or took too long; the error shows its log's end.
        """

        def reached() -> bool:
            if self._process.poll() is not None:
                raise TimedOut(f"{self.name} ended with exit status {self._process.returncode}")
            return bool(is_ready())

        try:
            wait_until(reached, START_SECONDS, f"{self.name} to be ready", interval_seconds=0.1)
        except TimedOut as err:
            text = self._log.read_text(errors="replace")
            raise LabError("\n".join([str(err), *indent(text, last=25), f"(log: {self._log})"])) from err

    def is_alive(self) -> bool:
        """Say whether it still runs."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End it and all that it started; none of that is left when this returns.

        unshare(1) waits for the namespace's first process, which ends when all others have: killed itself,
        it would leave them behind for a moment.
        """
        outer = self._process.pid
        if self._process.poll() is None:
            for first in Path(f"/proc/{outer}/task/{outer}/children").read_text(encoding="ascii").split():
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    os.kill(int(first), signal.SIGKILL)
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()  # it had not come to its namespace yet
        self._process.wait()


class Services(AbstractContextManager["Services"]):
    """The programs of one command, ended in the reverse of the order in which they were started."""

    def __init__(self, logs: Path) -> None:
        """Keep their logs in a folder."""
        self._logs = logs
        self._running: list[Service] = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all of them."""
        while self._running:
            self._running.pop().stop()

    def __enter__(self) -> Self:
        """Nothing runs yet."""
        return self

    def start(self, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Service:
        """Start one."""
        service = Service(name, argv, self._logs / f"{name}.log", env=env)
        self._running.append(service)
        return service

    def dead(self) -> list[str]:
        """Return the names of those that ended by themselves."""
        return [service.name for service in self._running if not service.is_alive()]


def answers(port: int) -> bool:
    """Say whether somebody listens at a port of the loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0
