"""What a check found: how bad it is, of what it is said, and what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Level(StrEnum):
    """How bad a finding is, from well to worst.

    What could not be looked at may be a failure, so it stands above a warning; a failure that was seen stands
    above everything.
    """

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    UNKNOWN = "unknown"
    FAILURE = "failure"


_ORDER: Final = list(Level)

# As monitoring plugins have it (Monitoring Plugins Development Guidelines, "Plugin Return Codes").
EXIT_STATUS: Final[Mapping[Level, int]] = {
    Level.OK: 0,
    Level.NOTE: 0,
    Level.WARNING: 1,
    Level.FAILURE: 2,
    Level.UNKNOWN: 3,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; ``remedy`` has commands to type, a line each, or is empty."""

    check: str
    level: Level
    subject: str
    message: str
    remedy: str = ""


class NotChecked(Exception):
    """Something could not be looked at; the message says why, ``remedy`` how it can be."""

    def __init__(self, message: str, remedy: str = "") -> None:
        """Keep both."""
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Check:
    """The name of a check, from which its findings are made."""

    name: str

    def ok(self, subject: str, message: str) -> Finding:
        """Say that something is as it should be."""
        return Finding(self.name, Level.OK, subject, message)

    def note(self, subject: str, message: str, remedy: str = "") -> Finding:
        """Say what is good to know; nothing is wrong."""
        return Finding(self.name, Level.NOTE, subject, message, remedy)

    def warning(self, subject: str, message: str, remedy: str) -> Finding:
        """Say what works and will bite."""
        return Finding(self.name, Level.WARNING, subject, message, remedy)

    def failure(self, subject: str, message: str, remedy: str) -> Finding:
        """Say what does not work, or is not safe."""
        return Finding(self.name, Level.FAILURE, subject, message, remedy)

    def unknown(self, subject: str, message: str, remedy: str = "") -> Finding:
        """Say what could not be looked at, and why."""
        return Finding(self.name, Level.UNKNOWN, subject, message, remedy)


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level there is; where nothing was found, nothing is known."""
    return max((finding.level for finding in findings), key=_ORDER.index, default=Level.UNKNOWN)
