"""What the stand-ins for the kernel's side of configfs share, whichever part of it they model.

mkdir brings default children and attributes, rmdir takes them away and refuses what somebody made or linked.
State is in the folder alone, so another instance goes on with it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from zolder.san.configfs import ConfigFs, _naming


class Killed(BaseException):
    """What a process that was killed would have gone on to do; no handler may catch it."""


class KernelTree(ConfigFs):
    """A tree that remembers its calls and can be killed or refuse at a chosen step."""

    # What can be made: its path, and the attributes and default folders (with a slash) that come with it.
    KINDS: ClassVar[tuple[tuple[str, dict[str, str]], ...]]
    # Where links can be made.
    LINKS: ClassVar[tuple[str, ...]]
    # What the kernel answers where nothing of the kind can be made.
    NO_KIND: ClassVar[int]

    def __init__(self, root: Path, *, kill_at: int | None = None, refuse_at: int | None = None) -> None:
        """Count the steps that change something from 0: from ``kill_at`` on none is done any more."""
        super().__init__(root)
        self.steps: list[str] = []
        self.looks: list[str] = []
        self._kill_at = kill_at
        self._refuse_at = refuse_at

    def make_folder(self, path: str) -> bool:
        """Create an object with its default children, of a kind that can be made here."""
        self._step(f"mkdir {path}")
        with _naming("create", path):
            defaults = self._brought(path)
        if not super().make_folder(path):
            return False
        for name, value in defaults.items():
            attribute = self.root / path / name
            if name.endswith("/"):
                attribute.mkdir()
            else:
                attribute.parent.mkdir(parents=True, exist_ok=True)
                attribute.write_text(value)
        return True

    def remove_folder(self, path: str) -> bool:
        """Remove an object with its default children, unless something is linked to it or into it."""
        self._step(f"rmdir {path}")
        folder = self.root / path
        with _naming("remove", path):
            if not folder.exists():
                return False
            below = list(folder.rglob("*"))
            made = [
                path for path in below if path.is_dir() and self._defaults(str(path.relative_to(self.root)))
            ]
            if made or any(path.is_symlink() for path in below):
                raise OSError(errno.ENOTEMPTY, "something made here is left")
            if self._is_linked(folder):
                raise OSError(errno.EBUSY, "something links to it")
            shutil.rmtree(folder)
        return True

    def remove_link(self, path: str) -> bool:
        """Remove a link."""
        self._step(f"unlink {path}")
        return super().remove_link(path)

    def exists(self, path: str) -> bool:
        """Look, and remember where."""
        self.looks.append(path)
        return super().exists(path)

    def read(self, path: str) -> str:
        """Read, and remember what."""
        self.looks.append(path)
        return super().read(path)

    def find_link(self, path: str) -> str | None:
        """Follow a link, and remember which."""
        self.looks.append(path)
        return super().find_link(path)

    def _list(self, path: str, wanted: Callable[[os.DirEntry[str]], bool]) -> tuple[str, ...]:
        self.looks.append(f"ls {path}")
        return super()._list(path, wanted)

    def _peek(self, path: str) -> str:
        """Read as the kernel itself does, which nobody has to remember."""
        return super().read(path)

    def _brought(self, path: str) -> dict[str, str]:
        """Return what comes with an object that is made; refuse what cannot be made."""
        defaults = self._defaults(path)
        if defaults is None:
            raise OSError(self.NO_KIND, "nothing of the kind can be made here")
        return defaults

    def _defaults(self, path: str) -> dict[str, str] | None:
        """Return what comes with an object of this path; None where none can be made."""
        return next((defaults for pattern, defaults in self.KINDS if re.fullmatch(pattern, path)), None)

    def _is_linked(self, folder: Path) -> bool:
        links = (path for pattern in self.LINKS for path in self.root.glob(pattern) if path.is_symlink())
        return any(path.readlink() == folder for path in links)

    def _step(self, step: str) -> None:
        if self._kill_at is not None and len(self.steps) >= self._kill_at:
            raise Killed
        self.steps.append(step)
        if self._refuse_at is not None and len(self.steps) - 1 == self._refuse_at:
            with _naming(*step.split(" ", 1)):
                raise OSError(errno.ENOMEM, "refused for the test")


def picture(root: Path) -> dict[str, str]:
    """Return everything below a root: folders, attributes' texts and links' targets."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {os.path.relpath(path.readlink(), root)}"
        else:
            found[name] = "/" if path.is_dir() else path.read_text()
    return found
