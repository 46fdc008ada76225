"""The attacker's end of ssh: command lines, and a line to whatever answers.

Written without zolder's client on purpose: that one refuses to send what an attacker sends.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tests.attack.model import HELLO


@dataclass(frozen=True, slots=True)
class Access:
    """How the SAN is reached, and the attackers' keys by name."""

    port: int
    login: str
    known_hosts: str
    keys: Mapping[str, str]

    def argv(
        self,
        key: str = "agent",
        *,
        options: tuple[str, ...] = (),
        command: tuple[str, ...] = (),
        login: str | None = None,
    ) -> list[str]:
        """Return an ssh call with one of the keys; its ``options`` come first, and so win."""
        settings = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": self.known_hosts,
            "GlobalKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
            "ControlPath": "none",
            "ConnectTimeout": "60",
            "LogLevel": "INFO",
        }
        words = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        where = ["-i", self.keys[key], "-p", str(self.port), "-l", login or self.login]
        # A destination, and then the command as it is: words that begin with a dash are the command's.
        return ["ssh", "-F", "/dev/null", *options, *words, *where, "127.0.0.1", *command]


class Line:
    """A running ssh: bytes in, lines out."""

    def __init__(self, argv: list[str], variables: Mapping[str, str] | None = None) -> None:
        """Start it."""
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the line
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env={**os.environ, **(variables or {})},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        os.set_blocking(self._in.fileno(), False)
        self._waiting = b""
        self._ended = False
        self.received = b""
        self.usable = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, data: bytes, seconds: float = 20) -> bool:
        """Send as much as is taken in time, without reading; return whether that was all."""
        view, end = memoryview(data), time.monotonic() + seconds
        while view and time.monotonic() < end:
            _, ready, _ = select.select([], [self._in], [], 0.2)
            try:
                view = view[os.write(self._in.fileno(), view) :] if ready else view
            except (BrokenPipeError, BlockingIOError):
                if self._process.poll() is not None:
                    break
        return not view

    def end_input(self) -> None:
        """Close the attacker's side; safe to call twice."""
        if not self._in.closed:
            self._in.close()

    def read_line(self, seconds: float = 40) -> bytes | None:
        """Return the next line; what there is of one at the end, or None while the other side is silent."""
        end = time.monotonic() + seconds
        while b"\n" not in self._waiting and not self._ended:
            ready, _, _ = select.select([self._out], [], [], max(0, end - time.monotonic()))
            if not ready:
                return None
            data = os.read(self._out.fileno(), 65536)
            self._ended = not data
            self._waiting += data
            self.received += data
        found, newline, self._waiting = self._waiting.partition(b"\n")
        return found + newline

    def reply(self, seconds: float = 40) -> str:
        """Return the next reply in one word; see `word_of`."""
        while (found := self.read_line(seconds)) is not None:
            word = word_of(found)
            if word != "notice":
                return word
        return "silent"

    def greet(self) -> str:
        """Say hello, and return what came back."""
        self.send(HELLO)
        word = self.reply()
        self.usable = word.startswith("identity:")
        return word

    def exit_status(self, seconds: float) -> int | None:
        """Return how ssh ended; None when it did not in time."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    @property
    def output(self) -> bytes:
        """All that came back until now, and what ssh said."""
        self._complaints.seek(0)
        return self.received + b"\n" + self._complaints.read()

    def kill(self) -> None:
        """End it without a word."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it; safe to call twice."""
        self.usable = False
        self.end_input()
        if self.exit_status(5) is None:
            self.kill()
        self._out.close()
        self._complaints.close()


def word_of(received: bytes) -> str:
    """Return one line of the protocol in a word: a code, ``identity:NAME``, ``changed``, ``answered``, ..."""
    if not received:
        return "closed"
    try:
        reply = json.loads(received)
    except ValueError:
        return "no frame"
    if not isinstance(reply, dict):
        return "no frame"
    if "notice" in reply:
        return "notice"
    error, value = reply.get("error"), reply.get("value")
    if isinstance(error, dict):
        return str(error.get("code"))
    return _answer(value)


def _answer(value: Any) -> str:  # noqa: ANN401 - JSON
    if isinstance(value, dict) and "identity" in value:
        return f"identity:{value['identity']}"
    if isinstance(value, dict) and "changed" in value:
        return "changed" if value["changed"] else "unchanged"
    return "answered"
