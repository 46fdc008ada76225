"""A child process that bytes go to and come from, with a deadline on every wait.

It knows neither frames nor ssh. Its standard error is drained while anything is waited for, so the child
can never block on it, and the last of it is kept for the error message. One thread at a time uses a child.

Sockets carry the bytes, not pipes: under eventlet's monkey-patching os.write() on a pipe whose reader has
gone asks again for ever (eventlet/green/os.py takes EPIPE for EAGAIN), and a green socket does not. Each way
has a socket pair of its own, so that closing looks like a pipe's end to the child, never like a reset.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Final

from zolder.client.deadline import Deadline
from zolder.errors import ConnectionLost, DeadlineExceeded

LOG = logging.getLogger(__name__)

STDERR_TAIL_BYTES: Final = 4096
_CHUNK_BYTES: Final = 64 * 1024
# What a dying child still has to say arrives with its end; one that lives on is not waited for.
_LAST_WORDS_SECONDS: Final = 1.0
# Time for an agent to finish or undo the step at hand after its stream has ended (docs/design.md, 4).
_GRACE_SECONDS: Final = 20.0
_TERMINATE_SECONDS: Final = 5.0


class Child:
    """One child process and the sockets that lead to its stdin, stdout and stderr."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], *, may_kill: bool = True) -> None:
        """Start ``argv`` without a shell, in a session of its own: no terminal, no signals meant for us.

        :param environment: variables beside the ones that this process has.
        :param may_kill: whether one that does not end with its stream is killed; else it is left to itself.
        :raises OSError: it could not be started.
        """
        self._tail = bytearray()
        self._may_kill = may_kill
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
            ends = []
            for _ in range(3):
                ours, other = socket.socketpair()
                undo.callback(ours.close)
                theirs.callback(other.close)
                ours.setblocking(False)
                # A green socket is born non-blocking, which no program expects of its standard input.
                os.set_blocking(other.fileno(), True)
                ends.append((ours, other))
            (self._stdin, stdin), (self._stdout, stdout), (self._stderr, stderr) = ends
            self._process = subprocess.Popen(
                argv,
                stdin=stdin.fileno(),
                stdout=stdout.fileno(),
                stderr=stderr.fileno(),
                env={**os.environ, **environment},
                start_new_session=True,
            )
            self._selector: selectors.BaseSelector | None = selectors.DefaultSelector()
            self._selector.register(self._stdout, selectors.EVENT_READ)
            self._selector.register(self._stderr, selectors.EVENT_READ)
            undo.pop_all()

    def __repr__(self) -> str:
        """Name the process by its number."""
        return f"<Child {self._process.pid}>"

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def stderr_tail(self) -> str:
        """The last that the child said on its standard error, with unprintable characters replaced."""
        text = bytes(self._tail).decode("utf-8", "replace").strip()
        return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)

    @property
    def exit_status(self) -> int | None:
        """The status it ended with (negative: the signal), or None while it lives."""
        return self._process.poll()

    def send(self, data: bytes | memoryview, deadline: Deadline) -> None:
        """Hand all of ``data`` to the child.

        :raises ConnectionLost: it does not read any more.
        :raises DeadlineExceeded: it did not take the data in time.
        """
        selector = self._open_selector()
        selector.register(self._stdin, selectors.EVENT_WRITE)
        rest = memoryview(data)
        try:
            while rest:
                self._wait(self._stdin, deadline)
                rest = rest[self._stdin.send(rest) :]
        except OSError as err:
            message = f"the child process {self.pid} does not read any more"
            raise ConnectionLost(message) from err
        finally:
            selector.unregister(self._stdin)

    def receive(self, deadline: Deadline) -> bytes:
        """Return what the child wrote, at least one byte, or nothing where its stream has ended.

        :raises DeadlineExceeded: it wrote nothing in time.
        """
        self._wait(self._stdout, deadline)
        return self._stdout.recv(_CHUNK_BYTES)

    def is_silent(self) -> bool:
        """Tell whether the stream is open with nothing to read, as it must be between two requests."""
        return self._stdout not in self._select(0) and self.exit_status is None

    def hear_last_words(self) -> str:
        """Read standard error to its end and await the child's, for a moment only; return the tail."""
        deadline = Deadline.after(_LAST_WORDS_SECONDS)
        selector = self._open_selector()
        if self._stdout in selector.get_map():
            selector.unregister(self._stdout)
        while self._stderr in selector.get_map() and deadline.remaining_seconds:
            self._select(deadline.remaining_seconds)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(deadline.remaining_seconds)
        return self.stderr_tail

    def close(self) -> None:
        """End the stream and see the child off without waiting; safe to call twice.

        The end of its stream is what tells an agent to finish.
        """
        if self._selector is None:
            return
        self._selector.close()
        self._selector = None
        for end in (self._stdin, self._stdout, self._stderr):
            end.close()
        if self._process.poll() is None:
            threading.Thread(target=self._reap, name=f"reap-{self.pid}", daemon=True).start()

    def kill(self) -> None:
        """Close, and do not leave the child its time: for one that never became an agent's."""
        if self._process.poll() is None:
            self._signal(signal.SIGKILL)
        self.close()

    def _wait(self, end: socket.socket, deadline: Deadline) -> None:
        """Return once ``end`` is ready; drain standard error on the way."""
        while end not in self._select(deadline.remaining_seconds):
            if not deadline.remaining_seconds:
                message = f"the child process {self.pid} did not answer in time"
                raise DeadlineExceeded(message, stderr=self.stderr_tail)

    def _select(self, seconds: float) -> set[object]:
        """Return the ends that are ready; standard error has been dealt with."""
        ready: set[object] = {key.fileobj for key, _ in self._open_selector().select(seconds)}
        if self._stderr in ready:
            self._drain_stderr()
        return ready

    def _drain_stderr(self) -> None:
        data = self._stderr.recv(_CHUNK_BYTES)
        if not data:
            self._open_selector().unregister(self._stderr)
        self._tail += data
        del self._tail[:-STDERR_TAIL_BYTES]

    def _open_selector(self) -> selectors.BaseSelector:
        if self._selector is None:
            message = f"the child process {self.pid} is closed"
            raise ConnectionLost(message)
        return self._selector

    def _reap(self) -> None:
        for seconds, number in ((_GRACE_SECONDS, signal.SIGTERM), (_TERMINATE_SECONDS, signal.SIGKILL)):
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                if not self._may_kill:
                    LOG.info("the child process %d finishes what it has begun", self.pid)
                    break
                LOG.warning("the child process %d lives on; sending it %s", self.pid, number.name)
                self._signal(number)
            else:
                return
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        """Signal the child's whole session: ssh may have a ProxyCommand beside it."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            LOG.debug("the child process %d had ended already", self.pid)
