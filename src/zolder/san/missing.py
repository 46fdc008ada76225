"""Which exports wait for their CHAP secrets: written by root, read by everybody.

Another SAN that takes a zpool over has the records of its exports and none of their secrets (docs/design.md,
decision 7). What waits is counted in the figures that Cinder asks for, and the driver sends the secrets
again. The list lies in /run: a restore writes it, each secret that comes strikes a line off. It names exports
and never a secret. Root's processes change it under a lock of its own; it is replaced whole, so reading needs
none.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

from zolder.errors import BackendError
from zolder.names import DatasetName, InitiatorName
from zolder.san.rootplaces import RootPlaces
from zolder.san.setup.writing import replace_file

# A zvol's whole name, and an initiator of it.
Waiting: TypeAlias = tuple[str, str]

LIST: Final = RootPlaces().missing


def note_missing(dataset: str, initiator: InitiatorName, *, file: Path = LIST) -> None:
    """Note that an export stays shut to an initiator until its secret comes.

    :raises BackendError: that failed.
    """
    _change(file, lambda waiting: waiting | {(dataset, str(initiator))})


def note_supplied(dataset: str, initiator: InitiatorName | None, *, file: Path = LIST) -> None:
    """Note that an export waits no longer: its secret has come, or it was closed.

    :param initiator: None for all of a zvol's.
    :raises BackendError: that failed.
    """
    if file.exists():  # else nothing waits: the ordinary case costs no lock
        _change(
            file,
            lambda waiting: {
                entry
                for entry in waiting
                if entry[0] != dataset or (initiator is not None and entry[1] != initiator)
            },
        )


def keep_missing(parents: Iterable[DatasetName], keep: Iterable[Waiting], *, file: Path = LIST) -> None:
    """Strike off what waits below some parents, but for what is to be kept.

    :raises BackendError: that failed.
    """
    below, kept = frozenset(parents), frozenset(keep)
    if file.exists():
        _change(
            file,
            lambda waiting: {
                entry for entry in waiting if entry in kept or entry[0].rpartition("/")[0] not in below
            },
        )


def count_missing(parent: DatasetName, *, file: Path = LIST) -> int:
    """Return how many exports of a parent wait for their secrets; for the agent, too.

    :raises BackendError: the list cannot be read.
    """
    return sum(dataset.rpartition("/")[0] == parent for dataset, _ in list_missing(file=file))


def list_missing(*, file: Path = LIST) -> tuple[Waiting, ...]:
    """Return the exports that wait for their secrets, sorted.

    :raises BackendError: the list cannot be read.
    """
    try:
        content = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as err:
        message = _say("cannot read", file, err)
        raise BackendError(message, errno=err.errno or 0) from err
    try:
        found = {(str(dataset), str(initiator)) for dataset, initiator in json.loads(content)}
    except (ValueError, TypeError, RecursionError) as err:
        message = f"{file} is damaged: run 'zolder-san restore' as root, which writes it anew"
        raise BackendError(message) from err
    return tuple(sorted(found))


def _change(file: Path, change: Callable[[frozenset[Waiting]], Iterable[Waiting]]) -> None:
    try:
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        file.parent.chmod(0o755)  # whatever the umask: every agent reads there
        with _locked(file):
            try:
                before = frozenset(list_missing(file=file))
            except BackendError:
                before = frozenset({("", "")})  # damaged: written anew whatever follows
            after = sorted(entry for entry in set(change(before)) if entry[0])
            if not after:
                file.unlink(missing_ok=True)
            elif set(after) != before:
                text = json.dumps(after)
                replace_file(file, text, 0o644, owner=os.geteuid(), group=os.getegid())
    except OSError as err:
        message = _say("cannot write", file, err)
        raise BackendError(message, errno=err.errno or 0) from err


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(file.with_name(f"{file.name}.lock"), flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _say(what: str, path: Path, err: OSError) -> str:
    return f"{what} {path}: {err.strerror}"
