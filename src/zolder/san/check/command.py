"""The command ``zolder-san check``: its options, and its report for people and for programs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from zolder import __version__
from zolder.san.check.catalogue import look_at
from zolder.san.check.finding import EXIT_STATUS, Finding, Level, worst
from zolder.san.check.machine import Machine

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse has no other name for it

_TAGS: Final = {
    Level.OK: "ok",
    Level.NOTE: "note",
    Level.WARNING: "WARN",
    Level.UNKNOWN: "????",
    Level.FAILURE: "FAIL",
}


def add_parser(commands: Commands) -> None:
    """Add the command and its options to those of ``zolder-san``."""
    parser = commands.add_parser(
        "check",
        help="look at this SAN for what bites operators, and say what to do",
        description="Look at this SAN, say what is wrong and what to do; change nothing. Needs root to see"
        " everything. Exit status: 0 nothing worse than a note, 1 warnings, 2 failures, 3 something could not"
        " be looked at and nothing failed.",
    )
    parser.add_argument("--quiet", action="store_true", help="show only what is not ok")
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")


def run(options: argparse.Namespace, machine: Machine | None = None) -> int:
    """Make all checks, print the report, and return the exit status that it stands for."""
    findings = list(look_at(machine or Machine()))
    level = worst(findings)
    shown = [finding for finding in findings if finding.level is not Level.OK or not options.quiet]
    text = as_json(level, shown) if options.json else "".join(as_text(finding) for finding in shown)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has seen enough; Python would complain of it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_STATUS[level]


def as_text(finding: Finding) -> str:
    """Return a finding as a line for people, its remedy below it."""
    line = (
        f"{_TAGS[finding.level]:4}  {finding.check:9}  {_plain(finding.subject)}: {_plain(finding.message)}\n"
    )
    return line + "".join(f"{'':17}{_plain(step)}\n" for step in finding.remedy.splitlines())


def as_json(level: Level, findings: Iterable[Finding]) -> str:
    """Return the report for programs: the release, the worst level, and each finding's fields."""
    report = {"version": __version__, "level": level, "findings": [asdict(finding) for finding in findings]}
    return json.dumps(report, indent=2) + "\n"


def _plain(text: str) -> str:
    """Return a text that cannot write over the terminal: names and messages of others are in it."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
