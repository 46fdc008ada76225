"""Where the lab keeps what was expensive, and how nothing half made is ever used.

An entry is a folder `KIND-KEY`. It is made in a scratch folder beside it, flushed to disk and renamed, under
a lock of its own name; so an entry that exists is whole, two builds share one result, and what a killed build
left is removed by the next one. Entries are never changed afterwards.
"""

from __future__ import annotations

import ast
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lab.command import capture
from lab.errors import DiskFull, LabError

# Kinds of entries that old versions of the lab leave behind, and how long one may lie unused.
PRUNED = ("rootfs", "image", "golden", "zfs")
KEPT_SECONDS = 14 * 86400.0
MAKING, REMOVING = ".making-", ".removing-"


def default_root() -> Path:
    """Return the user's cache folder for the lab."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "zolder"


def content_key(*parts: object) -> str:
    """Return a short key for parts that `json` can write."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def tree_digest(*paths: Path) -> str:
    """Return a digest over names, modes and content of files and folders."""
    digest = hashlib.sha256()
    for top in paths:
        files = sorted(top.rglob("*")) if top.is_dir() else [top]
        for path in files:
            if "__pycache__" in path.parts or not path.is_file():
                continue
            name = path.relative_to(top) if path != top else path.name
            executable = bool(path.stat().st_mode & 0o100)
            digest.update(f"{name}\0{executable}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def recipe_digest(*modules: Path) -> str:
    """Return a digest of what Python modules do: comments, docstrings and layout do not count."""
    return content_key(
        [ast.unparse(WithoutDocstrings().visit(ast.parse(path.read_text()))) for path in modules]
    )


class WithoutDocstrings(ast.NodeTransformer):
    """Drops all that is said and not done."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """Drop strings that stand alone."""
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node


class Cache:
    """The cache folder of one user."""

    def __init__(self, root: Path | None = None) -> None:
        """Use a folder, by default the user's own; it is made when something is put into it."""
        self.root = root or default_root()

    @property
    def logs(self) -> Path:
        """The folder of build logs."""
        return self.root / "logs"

    def run_folder(self, lab_name: str) -> Path:
        """Return the folder for the state of a running lab."""
        return self.root / "run" / lab_name

    def entry(self, kind: str, key: str) -> Path:
        """Return where an entry is, or would be."""
        return self.root / f"{kind}-{key}"

    def find(self, kind: str, key: str) -> Path | None:
        """Return an entry if it is there; it is then whole."""
        path = self.entry(kind, key)
        if not path.is_dir():
            return None
        os.utime(path)  # when it was last of use, for `prune`
        return path

    def ensure(self, kind: str, key: str, make: Callable[[Path], None], *, needs_bytes: int = 0) -> Path:
        """Return an entry, made first if it is absent.

        :param make: fills the empty folder that it is given.
        :param needs_bytes: what making it takes on disk at most.
        :raises DiskFull: when there is no room, before or during making.
        """
        if found := self.find(kind, key):
            return found
        with self.locked(f"{kind}-{key}"):
            if found := self.find(kind, key):  # another build made it while we waited
                return found
            final = self.entry(kind, key)
            scratch = final.with_name(MAKING + final.name)
            if scratch.exists():  # of a build that was killed: we hold its lock
                shutil.rmtree(scratch)
            self.require_free(needs_bytes)
            scratch.mkdir()
            try:
                make(scratch)
                flush(scratch)
                scratch.rename(final)
            except OSError as err:
                if err.errno == errno.ENOSPC:
                    raise DiskFull(f"no space left in {self.root}; free some and start again") from err
                raise
            finally:
                if scratch.exists():
                    shutil.rmtree(scratch)
            return final

    def require_free(self, needs_bytes: int) -> None:
        """Refuse early what cannot fit.

        :raises DiskFull: when fewer bytes are free.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root).free
        if free < needs_bytes:
            raise DiskFull(
                f"{self.root} has {free / 2**30:.1f} GiB free and {needs_bytes / 2**30:.1f} GiB are needed; "
                "free some, or set XDG_CACHE_HOME to a larger file system"
            )

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold a lock, waiting for it; the kernel frees it even when we are killed."""
        with self._open_lock(name) as lock:
            if not take(lock):
                print(f"waiting for another command of the lab to end ({name}) ...", file=sys.stderr)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _open_lock(self, name: str) -> IO[str]:
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / name).open("w")

    def prune(self) -> list[Path]:
        """Remove what was of no use for long and carries no running lab, and what killed builds left.

        What somebody is at work on is left alone.
        """
        standing: set[str] = set()
        for state in self.root.glob("run/*/state.json"):
            entries = read_json(state).get("entries")
            standing.update(entries if isinstance(entries, list) else [])
        oldest = time.time() - KEPT_SECONDS
        removed = []
        for path in [*self.root.glob("*-*"), *self.root.glob(".*-*-*")]:
            unfinished = path.name.startswith((MAKING, REMOVING))
            name = path.name.removeprefix(MAKING).removeprefix(REMOVING)
            if name.split("-")[0] not in PRUNED or str(path) in standing:
                continue
            with self._open_lock(name) as lock:
                if take(lock) and path.exists() and (unfinished or path.stat().st_mtime < oldest):
                    # Renamed first: nobody may find an entry that is half removed.
                    doomed = path if unfinished else path.rename(path.with_name(REMOVING + name))
                    shutil.rmtree(doomed)
                    removed.append(path)
        return removed


def take(lock: IO[str]) -> bool:
    """Take a lock if nobody holds it, and say whether we have it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def flush(folder: Path) -> None:
    """Bring a folder's content to the disk, so that a rename never outlives what it names."""
    # One call for the whole file system: an image tree has 20,000 files.
    capture(["sync", "--file-system", str(folder)])


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object.

    :raises LabError: when it is something else.
    """
    value = json.loads(path.read_text())
    if not isinstance(value, dict):
        raise LabError(f"{path} is not the lab's; remove it and start again")
    return value


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old or the new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with scratch.open("w") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(path)
