"""The way along a path, link by link, and whether anybody but root can change what lies at its end. No I/O.

What root runs must be root's alone: the program, what interprets it, its code, and each folder above them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Final

# What lstat(2) and readlink(2) say of an absolute path; None where there is nothing.
Look = Callable[[str], os.stat_result | None]
Follow = Callable[[str], str | None]

HEAD_BYTES: Final = 256
_MOST_LINKS: Final = 40
_AGENTS: Final = ("/var/lib/zolder", "/run/zolder")
# What systemd gives a service for PATH (systemd.exec(5)).
_PLACES: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


class Lost(Exception):
    """A path leads nowhere; the message says where it ends."""


def way(path: str, look: Look, follow: Follow) -> Iterator[tuple[str, os.stat_result]]:
    """Yield each folder and link on the way to what a path means, and that itself last.

    :raises Lost: something on the way is not there, or links lead in a circle.
    """
    todo = ["/", *PurePosixPath(path).parts[1:]]
    at, links = PurePosixPath("/"), 0
    while todo:
        part = todo.pop(0)
        at = at.parent if part == ".." else at / part
        status = look(str(at))
        if status is None:
            message = f"{at} is not there"
            raise Lost(message)
        yield str(at), status
        if stat.S_ISLNK(status.st_mode):
            links += 1
            to = PurePosixPath(follow(str(at)) or "")
            if links > _MOST_LINKS:
                message = f"{path} is a circle of links"
                raise Lost(message)
            at = PurePosixPath("/") if to.is_absolute() else at.parent
            todo = [item for item in to.parts if item != "/"] + todo


def find_stranger(path: str, look: Look, follow: Follow, *, owner: int = 0) -> str | None:
    """Return by what somebody but the owner can change what a path means; None where by nothing.

    :raises Lost: as `way`.
    """
    for at, status in way(path, look, follow):
        if any(at == folder or at.startswith(f"{folder}/") for folder in _AGENTS):
            return f"{at} lies in a folder of the agent's"
        if fault := describe_stranger(status, owner=owner):
            return f"{at} {fault}"
    return None


def describe_stranger(status: os.stat_result, *, owner: int = 0) -> str | None:
    """Return why somebody but the owner can change a file or folder; None where nobody can."""
    if status.st_uid != owner:
        return f"belongs to uid {status.st_uid}, not {owner}"
    # A link's own mode means nothing. Root's group is root.
    others = stat.S_IWOTH | (stat.S_IWGRP if status.st_gid else 0)
    if not stat.S_ISLNK(status.st_mode) and status.st_mode & others:
        return f"can be written by others (mode {stat.S_IMODE(status.st_mode):04o})"
    return None


def interpreters(head: bytes, look: Look) -> list[str]:
    """Return what a program's first line says must run it: a path, or two where env(1) looks for one.

    :raises Lost: it names nothing, or what nobody finds.
    """
    first = head[:HEAD_BYTES].splitlines()[:1]
    if not first or not first[0].startswith(b"#!"):
        return []
    words = first[0][2:].decode(errors="replace").split()
    if not words:
        message = "its first line names nothing"
        raise Lost(message)
    if PurePosixPath(words[0]).name != "env":
        return words[:1]
    name = next((word for word in words[1:] if not word.startswith("-") and "=" not in word), "")
    places = (f"{place}/{name}" for place in _PLACES)
    found = next((place for place in places if name and look(place) is not None), None)
    if found is None:
        message = f"env finds no {name[:40]!a}"
        raise Lost(message)
    return [words[0], found]
