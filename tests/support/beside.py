"""Pieces of Python in the lab's SAN, beside the installed agent: what the agent's own modules do there.

One interpreter stays up for many pieces, since a new one takes longer than most of them.
"""

from __future__ import annotations

import json
import subprocess
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from lab import Machine

# A child that a piece forks writes to stderr only: stdout carries one answer for each question.
_WORKER = """
import json, os, sys, time, traceback
sys.path.insert(0, "/usr/local/lib/zolder")
from pathlib import Path
from zolder.errors import Error
from zolder.model import Chap
from zolder.names import DatasetName, InitiatorName, Portal, TargetPrefix, VolumeId, ZvolName
from zolder.san import configfs, device, holders, lio
from zolder.san.exporter import Subject
def subject_of(given):
    parent, _, leaf = given["dataset"].rpartition("/")
    return Subject(DatasetName(parent), ZvolName(leaf), TargetPrefix(given["prefix"]))
for line in sys.stdin:
    question = json.loads(line)
    answers = []
    names = {**globals(), "given": question["given"], "answer": answers.append}
    try:
        exec(question["piece"], names)
        reply = {"answer": answers[0]}
    except BaseException:
        reply = {"error": traceback.format_exc()}
    print(json.dumps(reply, default=str), flush=True)
"""


class Beside:
    """A Python in the SAN with the agent's modules at hand."""

    def __init__(self, san: Machine) -> None:
        """Start it."""
        self._command = [*san.remote.ssh_command(), "--", f"exec python3 -I -S -c '{_WORKER}'"]
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        )

    def run(self, piece: str, **given: object) -> Any:  # noqa: ANN401 - whatever the piece answers
        """Run a piece: it finds ``given`` and says ``answer(value)`` once.

        :raises AssertionError: it raised; the message is its traceback.
        """
        if self._process.poll() is not None:
            # Its line was cut, as when the whole machine stood still for minutes: one test has failed for it.
            self._process = self._start()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"piece": piece, "given": given}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        reply = json.loads(line) if line else {"error": "the interpreter in the SAN ended"}
        if "error" in reply:
            raise AssertionError(reply["error"])
        return reply["answer"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:
            if self._process.stdin is not None:
                self._process.stdin.close()
