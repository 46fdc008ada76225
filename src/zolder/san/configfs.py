"""The smallest layer over a configfs tree: folders are kernel objects, files their attributes.

Paths are relative to the root and made of checked names only. Each failure is a BackendError that names the
path and the errno, never the value that was being written, which may be a secret. ``Build`` makes a part of
the tree that may be there already, wholly or by half, and takes back what it made itself if a step fails.
No state is kept here beyond that, and nothing is locked: mkdir(2) is the arbiter between processes.
Source: Documentation/filesystems/configfs.rst in the Linux tree.
"""

# ruff: noqa: PTH102, PTH106, PTH108, PTH115, PTH118, PTH211 - an export is 50 calls, and pathlib makes each
# 3 to 6 times as long (measured in the lab: a read 763 us with it, 122 us without).

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from zolder.errors import BackendError

LOG = logging.getLogger(__name__)

# What the kernel says of an object that is gone, or that goes while we look at it.
_ABSENT = frozenset({errno.ENOENT, errno.ENODEV})

# An attribute is one page at most (fs/configfs/file.c), and there are machines with pages of 64 KiB.
_LONGEST_ATTRIBUTE_BYTES: Final = 65536


class ConfigFs:
    """A configfs tree at ``root``; a value without state."""

    def __init__(self, root: Path) -> None:
        """Look at the tree below ``root``, which need not exist yet."""
        self.root = root
        self._prefix = f"{root}/"

    def exists(self, path: str) -> bool:
        """Return whether ``path`` is there."""
        return os.path.lexists(self._prefix + path)

    def folders(self, path: str) -> tuple[str, ...]:
        """Return the names of the folders in ``path``, sorted; none where it is absent.

        :raises BackendError: it cannot be listed for any other reason.
        """
        return self._list(path, lambda entry: entry.is_dir(follow_symlinks=False))

    def links(self, path: str) -> tuple[str, ...]:
        """Return the names of the links in ``path``, sorted; none where it is absent.

        :raises BackendError: it cannot be listed for any other reason.
        """
        return self._list(path, os.DirEntry.is_symlink)

    def make_folder(self, path: str) -> bool:
        """Create an object; return False where it stands already.

        :raises BackendError: the kernel refuses it.
        """
        with _naming("create", path):
            try:
                os.mkdir(self._prefix + path)
            except FileExistsError:
                return False
        return True

    def remove_folder(self, path: str) -> bool:
        """Remove an object and its default children; return False where it is absent.

        :raises BackendError: something made below it, or linked to it, is still there.
        """
        with _naming("remove", path):
            try:
                os.rmdir(self._prefix + path)
            except FileNotFoundError:
                return False
        return True

    def make_link(self, path: str, to: str) -> bool:
        """Link ``path`` to the object ``to``; return False where the link stands already.

        :raises BackendError: the kernel refuses it, or ``path`` is a link to another object.
        """
        with _naming("link", path):
            try:
                # configfs looks the target up from the process's working folder: only absolute is safe.
                os.symlink(self._prefix + to, self._prefix + path)
            except FileExistsError:
                if self.find_link(path) == to:
                    return False
                raise
        return True

    def find_link(self, path: str) -> str | None:
        """Return the object that a link points to, relative to the root; None where there is no link.

        :raises BackendError: it cannot be read.
        """
        link = self._prefix + path
        with _naming("read the link", path):
            try:
                # configfs answers with a path relative to the link's own folder.
                return os.path.relpath(os.path.join(link, "..", os.readlink(link)), self.root)
            except OSError as err:
                if err.errno in _ABSENT:
                    return None
                raise

    def remove_link(self, path: str) -> bool:
        """Remove a link; return False where it is absent.

        :raises BackendError: the kernel refuses it.
        """
        with _naming("unlink", path):
            try:
                os.unlink(self._prefix + path)
            except FileNotFoundError:
                return False
        return True

    def read(self, path: str) -> str:
        """Return an attribute's text without the white space around it.

        :raises BackendError: it is absent or cannot be read.
        """
        with _naming("read", path):
            descriptor = os.open(self._prefix + path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.read(descriptor, _LONGEST_ATTRIBUTE_BYTES).decode(errors="replace").strip()
            finally:
                os.close(descriptor)

    def find(self, path: str) -> str | None:
        """Return an attribute's text; None where it, or its object, is absent.

        :raises BackendError: it cannot be read for any other reason.
        """
        try:
            return self.read(path)
        except BackendError as err:
            if err.details["errno"] in _ABSENT:
                return None
            raise

    def write(self, path: str, value: str) -> None:
        """Give an attribute a value, at once and without a newline, which some attributes would keep.

        :raises BackendError: it is absent or the kernel refuses the value.
        """
        with _naming("write", path):
            descriptor = os.open(self._prefix + path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
            try:
                # One write(2): configfs takes each as a whole value.
                os.write(descriptor, value.encode())
            finally:
                os.close(descriptor)

    def _list(self, path: str, wanted: Callable[[os.DirEntry[str]], bool]) -> tuple[str, ...]:
        with _naming("list", path):
            try:
                with os.scandir(self._prefix + path) as entries:
                    return tuple(sorted(entry.name for entry in entries if wanted(entry)))
            except OSError as err:
                if err.errno in _ABSENT:
                    return ()
                raise


class Build:
    """One piece of building in a tree: ``changed`` tells whether anything was not yet as asked.

    Used as a context manager. Leaving it by an exception takes back the folders and links that it made, the
    last one first; what stood before, and attributes of it, stay. An error on the way back is logged only.
    """

    def __init__(self, tree: ConfigFs) -> None:
        """Build in ``tree``; nothing is done yet."""
        self.tree = tree
        self.changed = False
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._undo.pop_all()
        else:
            self._undo.close()

    def folder(self, path: str) -> bool:
        """Have the object at ``path``; return whether it was made now.

        :raises BackendError: the kernel refuses it.
        """
        made = self.tree.make_folder(path)
        if made:
            self.changed = True
            self._undo.callback(_take_back, self.tree.remove_folder, path)
        return made

    def link(self, path: str, to: str) -> None:
        """Have the link ``path`` to the object ``to``.

        :raises BackendError: the kernel refuses it, or ``path`` is a link to another object.
        """
        if self.tree.make_link(path, to):
            self.changed = True
            self._undo.callback(_take_back, self.tree.remove_link, path)

    def attribute(self, path: str, value: str) -> None:
        """Have the attribute at ``path`` say ``value``; it is written only where it differs.

        :raises BackendError: it is absent or the kernel refuses the value.
        """
        if self.tree.read(path) != value:
            self.tree.write(path, value)
            self.changed = True


def _take_back(remove: Callable[[str], bool], path: str) -> None:
    try:
        remove(path)
    except BackendError as err:
        # The first error is on its way to the caller and must not be hidden by this one.
        LOG.warning("left behind after a failure: %s", err.message)


@contextmanager
def _naming(action: str, path: str) -> Iterator[None]:
    """Turn an OSError into a BackendError that says what was done to which path."""
    try:
        yield
    except OSError as err:
        number = err.errno or 0
        name = errno.errorcode.get(number, str(number))
        message = f"configfs: cannot {action} {path}: {os.strerror(number)} ({name})"
        raise BackendError(message, path=path, errno=number) from err
