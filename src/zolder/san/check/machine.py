"""The machine that is looked at: its files below a root, and the programs that tell about it.

Everything here reads. What is absent is None, for that is an answer; what cannot be read is `NotChecked`,
for that is none. A program is asked once and gets a bounded time: one that hangs, as ZFS commands do on a
zpool that has suspended its I/O, is left behind, and not asked again.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from zolder.errors import BackendError
from zolder.san.check.finding import NotChecked
from zolder.san.run import Finished

Runner = Callable[[Sequence[str]], Finished]

# A listing of some thousand zvols takes its time; more than this is a command that hangs.
LONGEST_SECONDS: Final = 120
_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_GONE: Final = (FileNotFoundError, NotADirectoryError, ProcessLookupError)
_TAIL: Final = 300


class Hangs(BackendError):
    """A program did not end in time."""


def run_bounded(argv: Sequence[str], *, seconds: float = LONGEST_SECONDS) -> Finished:
    """Run a program that only reads.

    :raises Hangs: it did not end in time; it was told to, and is hardly waited for, since a process that
        waits in the kernel cannot be killed.
    :raises BackendError: it cannot be started.
    """
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_ENVIRONMENT,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as err:
        message = f"cannot run {argv[0]}: {err.strerror}"
        raise BackendError(message, argv=list(argv)) from err
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as err:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=1)
        message = f"{' '.join(argv[:2])} did not end within {seconds:g} s"
        raise Hangs(message, argv=list(argv)) from err
    return Finished(tuple(argv), process.returncode, stdout, stderr)


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine whose files lie below ``root`` and whose programs ``run`` runs.

    ``root_uid`` is whose files root's are, ``code`` where this program's own source is; both differ in tests.
    """

    root: Path = Path("/")
    run: Runner = run_bounded
    root_uid: int = 0
    code: Path = Path(__file__).parents[2]
    _answers: dict[tuple[str, ...], Finished] = field(default_factory=dict)
    _hanging: dict[str, str] = field(default_factory=dict)

    def path(self, path: str) -> Path:
        """Return where an absolute path is."""
        return self.root / path.lstrip("/")

    def find_status(self, path: str) -> os.stat_result | None:
        """Return what lstat(2) says; None where there is nothing.

        :raises NotChecked: it cannot be said.
        """
        try:
            return self.path(path).lstat()
        except _GONE:
            return None
        except OSError as err:
            raise _unreadable(path, err) from err

    def find_text(self, path: str) -> str | None:
        """Return a file's text; None where there is none.

        :raises NotChecked: it cannot be read.
        """
        try:
            return self.path(path).read_text(encoding="utf-8", errors="replace")
        except _GONE:
            return None
        except OSError as err:
            raise _unreadable(path, err) from err

    def text(self, path: str) -> str:
        """Return a file's text.

        :raises NotChecked: it is not there or cannot be read.
        """
        text = self.find_text(path)
        if text is None:
            message = f"{path} is not there"
            raise NotChecked(message)
        return text

    def names(self, path: str) -> list[str]:
        """Return the names in a folder, sorted; none where there is no such folder.

        :raises NotChecked: it cannot be listed.
        """
        try:
            return sorted(entry.name for entry in self.path(path).iterdir())
        except _GONE:
            return []
        except OSError as err:
            raise _unreadable(path, err) from err

    def find_link(self, path: str) -> str | None:
        """Return what a symbolic link says; None where there is none, or it went or may not be read."""
        try:
            return str(self.path(path).readlink())
        except OSError:
            return None

    def ask(self, *argv: str) -> Finished | None:
        """Return how a program ended; None where this machine has no such program.

        :raises NotChecked: it cannot be run, or hangs.
        """
        if argv[0] in self._hanging:
            raise NotChecked(self._hanging[argv[0]])
        if argv not in self._answers:
            try:
                self._answers[argv] = self.run(argv)
            except Hangs as err:
                self._hanging[argv[0]] = err.message
                raise NotChecked(err.message, "sudo dmesg | tail") from err
            except BackendError as err:
                if isinstance(err.__cause__, FileNotFoundError):
                    return None
                raise NotChecked(err.message) from err
        return self._answers[argv]

    def output(self, *argv: str) -> str:
        """Return what a program printed.

        :raises NotChecked: this machine has no such program, or it failed.
        """
        finished = self.ask(*argv)
        if finished is None:
            message = f"this machine has no {argv[0]}"
            raise NotChecked(message)
        if finished.exit_status:
            said = finished.stderr.strip()[-_TAIL:] or f"exit status {finished.exit_status}"
            message = f"{' '.join(argv)}: {said}"
            raise NotChecked(message, "sudo zolder-san check" if os.geteuid() else "")
        return finished.stdout

    def rows(self, columns: int, *argv: str) -> Iterator[list[str]]:
        """Yield what a program printed as lines of columns with a tab between.

        :raises NotChecked: as `output`, or a line has not so many columns.
        """
        for line in self.output(*argv).splitlines():
            row = line.split("\t")
            if len(row) != columns:
                message = f"{' '.join(argv)}: {line[:_TAIL]!a} has not {columns} columns"
                raise NotChecked(message)
            yield row


def _unreadable(path: str, err: OSError) -> NotChecked:
    remedy = "sudo zolder-san check" if isinstance(err, PermissionError) else ""
    return NotChecked(f"{path} cannot be read: {err.strerror}", remedy)
