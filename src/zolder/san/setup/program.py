"""The program that root will run: root's alone, with all that it needs.

systemd starts the helper as root from where it lies, and root calls it by hand. Whoever can change it, its
interpreter, its code or a folder above any of them is root already.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from zolder.san.placement import HEAD_BYTES, Lost, describe_stranger, find_stranger, interpreters, way
from zolder.san.setup.host import Host, SetupError


def running_code() -> tuple[str, ...]:
    """Return the paths of what runs here beside the program itself: the interpreter, and our code."""
    return tuple(path for path in (sys.executable, str(Path(__file__).parents[2])) if path)


def require_roots_program(host: Host) -> None:
    """Make sure that what the set-up has root run is root's alone.

    :raises SetupError: somebody else could change it, or it is not there.
    """
    if not host.code:
        return
    try:
        fault = next(_faults(host), None)
    except Lost as err:
        fault = str(err)
    if fault:
        message = (
            f"root is to run {host.executable}, and {fault}: install zolder-san as root, with an interpreter "
            "of root's, where nobody else can write, as in /opt/zolder (docs/quickstart.md)"
        )
        raise SetupError(message)


def _faults(host: Host) -> Iterator[str]:
    def look(path: str) -> os.stat_result | None:
        try:
            return host.path(path.lstrip("/")).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def follow(path: str) -> str:
        return str(host.path(path.lstrip("/")).readlink())

    def resolved(path: str) -> Path:
        return host.path([at for at, _ in way(path, look, follow)][-1].lstrip("/"))

    if fault := find_stranger(host.executable, look, follow):
        yield fault
    with resolved(host.executable).open("rb") as file:
        needed = interpreters(file.read(HEAD_BYTES), look)
    for path in (*needed, *host.code):
        if fault := find_stranger(path, look, follow):
            yield fault
        for below in sorted(resolved(path).rglob("*")):
            if fault := describe_stranger(below.lstat()):
                yield f"{below} {fault}"
