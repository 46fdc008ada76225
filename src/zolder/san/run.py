"""Running a program on the SAN: an argument vector, never a shell, a fixed environment.

Never kills what it started: a ``zfs`` command that began is let finish, so no step is left half done.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from zolder.errors import BackendError

LOG = logging.getLogger(__name__)

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_TAIL = 2000


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended."""

    argv: tuple[str, ...]
    exit_status: int
    stdout: str
    stderr: str

    def error(self) -> BackendError:
        """Return what nobody recognised as an error that shows it."""
        message = f"{' '.join(self.argv[:2])} failed: {self.stderr.strip()[-_TAIL:] or self.exit_status}"
        return BackendError(
            message, argv=list(self.argv), exit_status=self.exit_status, stderr=self.stderr[-_TAIL:]
        )


def run(argv: Sequence[str], *, text: str | None = None) -> Finished:
    """Run a program to its end.

    :param text: what it reads on standard input, which is empty where this is None.
    :raises BackendError: it cannot be started.
    """
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL if text is None else None,
            input=text,
            capture_output=True,
            env=ENVIRONMENT,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as err:
        message = f"cannot run {argv[0]}: {err.strerror}"
        raise BackendError(message, argv=list(argv)) from err
    return Finished(tuple(argv), done.returncode, done.stdout, done.stderr)
