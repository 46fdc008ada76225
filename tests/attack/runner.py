"""Carries attacks out against a SAN, and says in a word what each led to.

Channels that have been greeted are kept for the next attack, since opening one takes a second and more under
emulation. One attack at a time.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import singledispatchmethod
from pathlib import Path
from typing import Any, Protocol

from tests.attack import floods
from tests.attack.line import Access, Line, word_of
from tests.attack.model import (
    HOSTILE,
    Attack,
    Bytes,
    Command,
    Flood,
    Forward,
    Frames,
    Helper,
    Login,
    Outcome,
    Session,
)

HELPER_SOCKET = "/run/zolder-helper.socket"
# An agent that has nothing more to say is waited for no longer than this.
SILENCE_SECONDS = 5.0


class Guest(Protocol):
    """What acts and looks inside the SAN: lab.conversation.Conversation with inside/observing.py."""

    def ask(self, verb: str, **details: object) -> Any:  # noqa: ANN401 - JSON
        """Ask for one thing and return the answer."""


class Runner:
    """One attacker with several keys."""

    def __init__(self, access: Access, guest: Guest, look_meanwhile: Callable[[], list[str]]) -> None:
        """Prepare.

        :param look_meanwhile: returns the files and sockets that came while a session is open.
        """
        self._access = access
        self._guest = guest
        self._look_meanwhile = look_meanwhile
        self._lines: dict[str, Line] = {}

    @property
    def open_lines(self) -> int:
        """How many agents there are for us."""
        return sum(line.usable for line in self._lines.values())

    def run(self, attack: Attack) -> Outcome:
        """Carry one out."""
        return self._run(attack.sent, attack)

    def close(self) -> None:
        """End all channels."""
        for line in self._lines.values():
            line.close()
        self._lines.clear()

    def greeted(self, key: str) -> Line:
        """Return a channel of a key's that has been greeted and is in order."""
        line = self._lines.get(key)
        if line is None or not line.usable:
            if line is not None:
                line.close()
            line = self._lines[key] = Line(self._access.argv(key))
            word = line.greet()
            assert line.usable, f"no channel for the attacks with key {key}: {word} {line.output!r}"
        return line

    @singledispatchmethod
    def _run(self, sent: object, attack: Attack) -> Outcome:
        raise TypeError(sent, attack)

    @_run.register
    def _(self, sent: Session, attack: Attack) -> Outcome:
        with _variables(sent) as variables:
            argv = self._access.argv(attack.key, options=sent.options, command=sent.command)
            with Line(argv, variables) as line:
                line.send(sent.stdin)
                word = line.reply()
                meanwhile = self._meanwhile() if sent.watched else []
                line.end_input()
                while line.read_line(SILENCE_SECONDS):
                    pass
                line.exit_status(10)
                return Outcome(word, line.output, meanwhile)

    @_run.register
    def _(self, sent: Login, attack: Attack) -> Outcome:
        with Line(self._access.argv(attack.key, options=sent.options, login=sent.login)) as line:
            line.end_input()
            status = line.exit_status(20)
            word = "stayed" if status is None else "refused" if status else "let in"
            while line.read_line(0):
                pass
            return Outcome(word, line.output)

    @_run.register
    def _(self, sent: Forward, attack: Attack) -> Outcome:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = tuple(word.format(port=port) for word in sent.options)
        with Line(self._access.argv(attack.key, options=("-N", *options))) as line:
            received = _knock(port, sent)
            line.kill()
            word = "bytes" if sent.forbidden in received else "nothing"
            return Outcome(word, received + line.output)

    @_run.register
    def _(self, sent: Frames, attack: Attack) -> Outcome:
        word, received = "", b""
        for frame in sent.frames:
            line = self.greeted(attack.key)
            begun = len(line.received)
            line.send(json.dumps(frame).encode() + b"\n")
            word = line.reply()
            line.usable = word not in {"closed", "silent", "no frame", "remote_protocol"}
            received += line.received[begun:]
            if word not in attack.seen:
                return Outcome(word, ascii(frame)[:500].encode() + received)
        return Outcome(word, received)

    @_run.register
    def _(self, sent: Bytes, attack: Attack) -> Outcome:
        line = self.greeted(attack.key) if sent.greeted else Line(self._access.argv(attack.key))
        begun = len(line.received)
        line.send(sent.data)
        if sent.ends:
            line.end_input()
        words: list[str] = []
        while (found := line.read_line(30 if not words else SILENCE_SECONDS)) is not None:
            if not found:
                break
            words.append(word_of(found))
        ended = found == b""
        received = line.received[begun:]
        line.close()
        self._lines = {name: kept for name, kept in self._lines.items() if kept is not line}
        return Outcome(words[-1] if words else "closed" if ended else "silent", received)

    @_run.register
    def _(self, sent: Command, attack: Attack) -> Outcome:
        del attack
        done = self._guest.ask("run_as", user=sent.user, script=sent.script, seconds=30)
        return Outcome("failed" if done["status"] else "succeeded", done["output"].encode())

    @_run.register
    def _(self, sent: Helper, attack: Attack) -> Outcome:
        data = base64.b64encode(sent.first + b"".join(sent.then)).decode()
        replies = sent.first.count(b"\n") + len(sent.then)
        said = self._guest.ask(
            "speak", user=sent.user, path=HELPER_SOCKET, data=data, replies=replies, seconds=10
        )
        output = base64.b64decode(said["output"])
        if not said["connected"]:
            return Outcome("no connection", output)
        words = [word_of(row) for row in output.splitlines() if row.startswith(b"{")]
        if not sent.then:
            return Outcome(words[-1] if words else "closed", output)
        if not words or words[0] != "answered":
            return Outcome(f"hello: {words}", output)
        words += ["closed"] * (replies - len(words))
        wrong = [word for word in words[1:] if word not in attack.seen]
        return Outcome(wrong[0] if wrong else words[-1], output)

    @_run.register
    def _(self, sent: Flood, attack: Attack) -> Outcome:
        self.close()
        return floods.WAYS[sent.way](self._access, self._guest, attack.key, sent.count)

    def _meanwhile(self) -> list[str]:
        hostile = [text for text in self._guest.ask("environments") if HOSTILE in text]
        return [f"an agent has {text!r}" for text in hostile] + self._look_meanwhile()


@contextmanager
def _variables(sent: Session) -> Iterator[dict[str, str]]:
    """Yield ssh's own variables; ``{agent}`` in one is the socket of a running ssh-agent."""
    with contextlib.ExitStack() as stack:
        variables = dict(sent.variables)
        if any("{agent}" in value for value in variables.values()):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zolder-")))
            agent = subprocess.Popen(
                ["ssh-agent", "-D", "-a", str(folder / "agent")], stdout=subprocess.DEVNULL
            )
            stack.callback(agent.wait)
            stack.callback(agent.terminate)
            end = time.monotonic() + 10
            while not (folder / "agent").exists() and time.monotonic() < end:
                time.sleep(0.02)
            variables = {name: value.format(agent=folder / "agent") for name, value in variables.items()}
        yield variables


def _knock(port: int, sent: Forward) -> bytes:
    """Return what a local port answers once somebody listens there; nothing where nobody does in time."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=3) as knocking:
                return _hear(knocking, sent)
        except ConnectionRefusedError:
            time.sleep(0.05)
        except OSError as err:
            return f"({err})".encode()
    raise AssertionError(f"ssh never listened on port {port}, so nothing was tried")  # noqa: EM102, TRY003 - a test


def _hear(knocking: socket.socket, sent: Forward) -> bytes:
    received = b""
    with contextlib.suppress(OSError):  # a timeout is one, too: the rest is what was heard
        knocking.sendall(sent.probe)
        while sent.forbidden not in received and (more := knocking.recv(65536)):
            received += more
    return received
