"""A program in a guest that is asked and answers, one JSON object a line.

For what would cost a second of starting Python, or more, each time. The program ends with its standard input;
a fault of its own comes back as an error with its text. One question at a time.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from lab.errors import LabError, indent
from lab.machine import Machine

FOLDER = "/run/zolder-lab"
ANSWERING = Path(__file__).parent / "inside/answering.py"


class Conversation:
    """A running program in a guest."""

    def __init__(self, machine: Machine, scripts: list[Path], command: str) -> None:
        """Put scripts into the guest and start one.

        :param scripts: they find lab/inside/answering.py beside them.
        :param command: for the guest's shell, whose folder is the scripts'.
        """
        self._name = f"{machine.name}: {command}"
        for path in (ANSWERING, *scripts):
            machine.write_file(f"{FOLDER}/{path.name}", path.read_bytes())
        self._process = subprocess.Popen(
            [*machine.remote.ssh_command(), "--", f"cd {FOLDER} && exec {command}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let it end."""
        self.close()

    def ask(self, verb: str, **details: object) -> Any:  # noqa: ANN401 - JSON
        """Ask for one thing and return the answer.

        :raises LabError: it failed, with what the program said.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise AssertionError  # both were asked for when it was started
        # Where it has ended already, what it said is read below.
        with suppress(BrokenPipeError):
            stdin.write(json.dumps({"verb": verb} | details).encode() + b"\n")
            stdin.flush()
        line = stdout.readline()
        if not line:
            _, said = self._process.communicate()
            ending = f"{self._name} ended with exit status {self._process.returncode} when asked for {verb}"
            raise LabError("\n".join([f"{ending}:", *indent(said.decode(errors="replace"), last=20)]))
        answer = json.loads(line)
        if "error" in answer:
            raise LabError(f"{self._name} failed to {verb}: {answer['error']}")
        return answer["value"]

    def close(self) -> None:
        """Let it end; safe to call twice."""
        if self._process.poll() is None:
            try:
                self._process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
