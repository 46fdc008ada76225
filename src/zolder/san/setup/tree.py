"""Files and folders as steps of a set-up.

A file that bears our heading is ours to write anew. One without it is somebody else's: it stays, and the
set-up says so. A file that holds others' words as well as ours (the policy, the keys) is changed by its own
module alone.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from zolder.san.setup.host import Content, Host, SetupError
from zolder.san.setup.steps import Step
from zolder.san.setup.writing import replace_file

HEADING: Final = "# Written by zolder-san"


class File(Step):
    """A file of root's with this text, which everybody may read."""

    def __init__(
        self,
        host: Host,
        name: str,
        text: str,
        *,
        shared: bool = False,
        verify: Callable[[str], None] | None = None,
    ) -> None:
        """Say what the file must be.

        :param shared: others write in it too, so it needs no heading of ours, but must be root's alone.
        :param verify: raises where the text, in place, does harm or has no effect; asked each time, since
            what makes the difference may stand elsewhere.
        """
        self._host = host
        self._name = name
        self._text = text
        self._shared = shared
        self._verify = verify

    def needed(self) -> str | None:
        """Return the difference.

        :raises SetupError: the file is somebody else's, or the new text would do harm.
        """
        now = self._host.read(self._name)
        if now and now.text != self._text and not self._shared and not now.text.startswith(HEADING):
            message = f"/{self._name} was not written by zolder-san: move it away and run this again"
            raise SetupError(message)
        if now and self._shared:
            require_roots(self._name, now)
        lines = describe_change(f"/{self._name}", now.text if now else None, self._text)
        if now and (now.mode, now.owner, now.group) != (0o644, 0, 0):
            lines.append(f"/{self._name}: owner root:root, mode 0644")
        if self._verify:
            self._verify(self._text)
        return "\n".join(lines) or None

    def apply(self) -> None:
        """Put the text in place."""
        path = self._host.path(self._name)
        if not path.parent.exists():
            path.parent.mkdir(mode=0o755, parents=True)
        replace_file(path, self._text, 0o644)


class Folder(Step):
    """A folder with this mode, and this owner and group of the same name."""

    def __init__(self, host: Host, name: str, mode: int, owner: str = "root") -> None:
        """Say what the folder must be; where it becomes zolder's, what is in it does, too."""
        self._host = host
        self._name = name
        self._mode = mode
        self._owner = owner

    def needed(self) -> str | None:
        """Return what would be made or changed.

        :raises SetupError: something else is in its place.
        """
        try:
            status = self._host.path(self._name).lstat()
        except FileNotFoundError:
            return f"mkdir -m {self._mode:04o} /{self._name}  # owner {self._owner}:{self._owner}"
        if not stat.S_ISDIR(status.st_mode):
            message = f"/{self._name} is not a folder: move it away, then run this command again"
            raise SetupError(message)
        now = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
        if now == (*self._numbers(missing=-1), self._mode):
            return None
        return f"/{self._name}: owner {self._owner}:{self._owner}, mode {self._mode:04o}"

    def apply(self) -> None:
        """Make the folder, then give it away."""
        path = self._host.path(self._name)
        with suppress(FileExistsError):
            path.mkdir(mode=self._mode, parents=True)
        owner, group = self._numbers(missing=None)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            # Once the folder is zolder's, zolder chooses what is in it, and root touches nothing there.
            if os.fstat(descriptor).st_uid != owner:
                _give_content(descriptor, owner, group)
            os.fchown(descriptor, owner, group)
            os.fchmod(descriptor, self._mode)
        finally:
            os.close(descriptor)

    def _numbers(self, *, missing: int | None) -> tuple[int, int]:
        if self._owner == "root":
            return 0, 0
        account = self._host.find_account(self._owner)
        if account:
            return account.uid, account.gid
        if missing is None:
            message = f"there is no user {self._owner}: run 'zolder-san install'"
            raise SetupError(message)
        return missing, missing


def _give_content(descriptor: int, owner: int, group: int) -> None:
    for _, folders, files, folder in os.fwalk(".", dir_fd=descriptor):
        for name in (*folders, *files):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            # A second name of a file may lie anywhere.
            if stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1):
                os.chown(name, owner, group, dir_fd=folder, follow_symlinks=False)


def describe_change(name: str, old: str | None, new: str) -> list[str]:
    """Return a unified diff's lines; none where the texts are equal."""
    if old == new:
        return []
    before = "" if old is None else old
    was = "/dev/null" if old is None else name
    lines = difflib.unified_diff(before.splitlines(), new.splitlines(), was, name, lineterm="")
    return list(lines) or [f"{name}: line ends"]


def require_roots(name: str, content: Content) -> None:
    """Make sure that nobody but root wrote in a file whose words count.

    :raises SetupError: somebody else may have.
    """
    if content.owner != 0 or content.mode & 0o022:
        message = (
            f"others than root can write /{name}: read what is in it, "
            f"then 'chown root: /{name}' and 'chmod 0644 /{name}'"
        )
        raise SetupError(message)
