"""What ``zfs allow`` gives the agent's user: the smallest set with which it can do all its requests.

Nothing is given on the parent itself but to make zvols in it, so a taken agent can neither destroy a parent
nor change it. Each permission was proven to be needed by taking it away (tests/lab/test_privilege.py).
What a permission lets through: zfs-allow(8), and the ``zfs_secpolicy_*`` functions in zfs_ioctl.c. No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from zolder.names import DatasetName
from zolder.properties import KINDS

USER: Final = "zolder"


@dataclass(frozen=True, slots=True)
class Permission:
    """One permission of zfs-allow(8): on the parent itself or on what lies below it, and what for."""

    name: str
    below: bool
    requests: str


PERMISSIONS: Final = (
    Permission("create", below=False, requests="create_zvol, clone_zvol"),
    Permission("mount", below=False, requests="create_zvol, clone_zvol: the kernel wants it with create"),
    Permission(
        "mount",
        below=True,
        requests="delete_zvol, delete_snapshot, adopt_zvol: the kernel wants it with destroy and rename",
    ),
    Permission("destroy", below=True, requests="delete_zvol, delete_snapshot, and undoing what failed"),
    Permission(
        "snapshot",
        below=True,
        requests="create_snapshot, create_snapshots, clone_zvol of a zvol, clone_zvols",
    ),
    Permission("clone", below=True, requests="clone_zvol, clone_zvols"),
    Permission("volsize", below=True, requests="grow_zvol, clone_zvol to a larger size"),
    Permission("refreservation", below=True, requests="create_zvol, clone_zvol, grow_zvol of thick ones"),
    *(
        Permission(name, below=True, requests=f"create_zvol, clone_zvol, set_zvol_properties with {name}")
        for name in KINDS
    ),
    Permission(
        "rollback", below=True, requests="revert_zvol; delete_zvol: what is put aside keeps its snapshots"
    ),
    Permission(
        "rename", below=True, requests="delete_zvol, revert_zvol, adopt_zvol, adopt_snapshot, move_zvol"
    ),
    Permission("create", below=True, requests="adopt_snapshot: the kernel wants it with rename"),
    Permission("send", below=True, requests="move_zvol to another zpool"),
    Permission("receive", below=False, requests="move_zvol from another zpool"),
    Permission("receive", below=True, requests="move_zvol from another zpool that was cut, and goes on"),
    Permission("promote", below=True, requests="revert_zvol: older snapshots move along"),
    Permission(
        "userprop",
        below=True,
        requests="create_zvol, clone_zvol, create_snapshot: the mark; write_zvol: who wrote it",
    ),
)

_HEAD: Final = re.compile(r"-+ Permissions on (\S+) -+")
# The sections of `zfs allow DATASET`, and where what they list holds.
_SECTIONS: Final = {
    "Local permissions:": (False,),
    "Descendent permissions:": (True,),
    "Local+Descendent permissions:": (False, True),
}


def allow_commands(parent: DatasetName, permissions: Sequence[Permission] = PERMISSIONS) -> list[list[str]]:
    """Return the commands that give the agent's user what it needs on a parent."""
    return [
        ["zfs", "allow", "-d" if below else "-l", "-u", USER, names, parent]
        for below in (False, True)
        if (names := ",".join(item.name for item in permissions if item.below is below))
    ]


def unallow_commands(parent: DatasetName) -> list[list[str]]:
    """Return the commands that take from the agent's user whatever it has on a parent."""
    return [["zfs", "unallow", "-u", USER, parent]]


def missing(parent: DatasetName, text: str) -> list[Permission]:
    """Return what the agent's user lacks.

    :param text: what ``zfs allow PARENT`` printed.
    """
    given = _given(parent, text)
    return [item for item in PERMISSIONS if (item.name, item.below) not in given]


def superfluous(parent: DatasetName, text: str) -> list[str]:
    """Return what the agent's user has beyond its needs, such as ``rename (below)``, sorted."""
    needed = {(item.name, item.below) for item in PERMISSIONS}
    return sorted(
        f"{name} ({'below' if below else 'on it'})" for name, below in _given(parent, text) - needed
    )


def _given(parent: DatasetName, text: str) -> set[tuple[str, bool]]:
    """Return what is given by name to the agent's user; groups, everyone and @sets are not looked into."""
    given = set()
    dataset, holds = "", tuple[bool, ...]()
    for line in text.splitlines():
        head = _HEAD.fullmatch(line.strip())
        words = line.split()
        if head:
            dataset, holds = head[1], ()
        elif line.endswith(":"):
            holds = _SECTIONS.get(line.strip(), ())
        elif words[:2] == ["user", USER] and len(words) == 3:  # noqa: PLR2004 - user, name, permissions
            for name in words[2].split(","):
                # What an ancestor gives below itself holds for the parent and below it.
                inherited = parent.startswith(f"{dataset}/") and True in holds
                places = (False, True) if inherited else holds if dataset == parent else ()
                given |= {(name, below) for below in places}
    return given
