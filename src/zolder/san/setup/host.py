"""The machine that is set up: where its files hang, how its programs run, who has which number.

All paths hang below one root, so that a test sets up a folder. Files are read without following a symbolic
link, and as bytes that come back as they were. One set-up at a time holds the lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from zolder.san import delegation
from zolder.san.run import Finished, run

Run: TypeAlias = Callable[[Sequence[str]], Finished]

USER: Final = delegation.USER
EXECUTABLE: Final = "/usr/local/bin/zolder-san"
FOLDER: Final = "etc/zolder"
_LOCK: Final = "etc/zolder/.lock"
# Nothing in it means anything to sshd, systemd or a shell, in whose files it stands.
_PLAIN_PATH: Final = re.compile(r"/[A-Za-z0-9._/+-]+", re.ASCII)


class SetupError(Exception):
    """The set-up cannot go on; the message says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Content:
    """A regular file as it stands; what is no UTF-8 in it is kept as surrogates."""

    text: str
    mode: int
    owner: int
    group: int


@dataclass(frozen=True, slots=True)
class Account:
    """A line of passwd(5)."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str


@dataclass(frozen=True, slots=True)
class Host:
    """One machine.

    ``patience_seconds`` is how long channels that were told to end are waited for; ``code`` has the paths of
    what root runs besides ``executable``, which nobody else may be able to change. Without any, that is not
    looked at.
    """

    root: Path = Path("/")
    run: Run = run
    executable: str = EXECUTABLE
    code: tuple[str, ...] = ()
    patience_seconds: float = 20.0

    def path(self, name: str) -> Path:
        """Return where a path without its leading slash lies."""
        return self.root / name

    def read(self, name: str) -> Content | None:
        """Return what is in a regular file; None where there is no such file.

        :raises SetupError: it is a symbolic link or no regular file.
        """
        try:
            descriptor = os.open(self.path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as err:
            if err.errno != errno.ELOOP:
                raise
            message = f"/{name} is a symbolic link: put a file in its place, or remove it"
            raise SetupError(message) from err
        with os.fdopen(descriptor, encoding="utf-8", errors="surrogateescape", newline="") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                message = f"/{name} is not a file: move it away"
                raise SetupError(message)
            return Content(file.read(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)

    def call(self, argv: Sequence[str]) -> str:
        """Run a program and return what it wrote.

        :raises BackendError: it failed or could not be started.
        """
        done = self.run(argv)
        if done.exit_status:
            raise done.error()
        return done.stdout

    def accounts(self) -> list[Account]:
        """Return the machine's own users, as /etc/passwd has them."""
        found = []
        content = self.read("etc/passwd")
        for line in content.text.splitlines() if content else ():
            match line.split(":"):
                case [name, _, uid, gid, _, home, shell] if uid.isdecimal() and gid.isdecimal():
                    found.append(Account(name, int(uid), int(gid), home, shell))
        return found

    def find_account(self, name: str = USER) -> Account | None:
        """Return a user; None where there is none of that name."""
        return next((account for account in self.accounts() if account.name == name), None)

    def group_id(self, name: str) -> int | None:
        """Return a group's number; None where there is none of that name."""
        content = self.read("etc/group")
        for line in content.text.splitlines() if content else ():
            fields = line.split(":")
            if fields[0] == name and len(fields) > 2 and fields[2].isdecimal():  # noqa: PLR2004 - group(5)
                return int(fields[2])
        return None

    @property
    def has_systemd(self) -> bool:
        """Whether systemd runs this machine (sd_booted(3))."""
        return self.path("run/systemd/system").is_dir()

    @contextmanager
    def lock(self, say: Callable[[str], None]) -> Iterator[None]:
        """Hold the set-up's lock for the block; wait for another one to end.

        Where this machine was never set up there is nothing to change, and nothing to lock.
        """
        if not self.path(FOLDER).is_dir():
            yield
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.path(_LOCK), flags, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("Another zolder-san is changing this machine's set-up; waiting for it.")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def running_executable(name: str | None = None) -> str:
    """Return the absolute path by which this program was called, symbolic links and all.

    :raises SetupError: it lies where its path cannot stand in the files of sshd and systemd.
    """
    called = sys.argv[0] if name is None else name
    found = shutil.which(called) if Path(called).name == Path(EXECUTABLE).name else None
    path = str(Path(found).absolute()) if found else EXECUTABLE
    if not _PLAIN_PATH.fullmatch(path):
        message = f"{path!r} cannot stand in sshd's files: install zolder-san at {EXECUTABLE}"
        raise SetupError(message)
    return path
