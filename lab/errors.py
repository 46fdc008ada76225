"""Errors of the lab. Each message says what happened and what to do about it.

`LabError` is caught once, by the command line, which prints it and exits 1.
Nothing here is for the product: the lab is a tool of its tests.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence


class LabError(Exception):
    """The lab cannot go on."""


class CommandFailed(LabError):
    """A command ended with another exit status than it should have."""

    def __init__(
        self, what: str, argv: Sequence[str] | str, exit_status: int, stderr: str, console_tail: str = ""
    ) -> None:
        """Put together what a person needs to see.

        :param what: where it ran, in words: "in san", "on this machine".
        :param argv: the command.
        :param exit_status: negative for a signal, as in `subprocess`.
        :param stderr: its complaint; the last lines are shown.
        :param console_tail: the machine's last console lines, where there is a machine.
        """
        command = argv if isinstance(argv, str) else shlex.join(argv)
        self.argv = argv
        self.exit_status = exit_status
        self.stderr = stderr
        lines = [f"a command failed {what} with exit status {exit_status}:", f"    {shorten(command, 600)}"]
        lines += indent(stderr or "(nothing on stderr)", last=20)
        if console_tail:
            lines += ["  end of its console:", *indent(console_tail, last=25)]
        super().__init__("\n".join(lines))


class TimedOut(LabError):
    """Something that was waited for did not happen in time."""


class DiskFull(LabError):
    """The file system of the cache has no room left."""


def indent(text: str, *, last: int) -> list[str]:
    """Return the last lines of a text, set in by four blanks."""
    return [f"    {line}" for line in text.rstrip().splitlines()[-last:]]


def shorten(text: str, length: int) -> str:
    """Cut a long text for showing."""
    return text if len(text) <= length else text[: length - 3] + "..."
