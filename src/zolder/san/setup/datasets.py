"""What a policy's parents need on this machine: ZFS's permissions for the agent, and udev's rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

from zolder.names import DatasetName
from zolder.san.delegation import PERMISSIONS, allow_commands, missing, superfluous, unallow_commands
from zolder.san.policy import Policy
from zolder.san.setup.host import Host, SetupError
from zolder.san.setup.steps import After, Argv, Commands, Step
from zolder.san.setup.texts import EARLY_RULES_FILE, LATE_RULES, LATE_RULES_FILE, early_rules
from zolder.san.setup.tree import File

# zfs(8) says so, and nothing else of it means that a dataset is not there.
_ABSENT: Final = "dataset does not exist"
_TRIGGER: Final = ["udevadm", "trigger", "--action=change", "--subsystem-match=block", "--sysname-match=zd*"]


def parents_of(policies: Iterable[Policy]) -> list[DatasetName]:
    """Return all parents, each once, sorted."""
    return sorted({parent for policy in policies for parent in policy.parents})


def delegation_steps(host: Host, parents: Iterable[DatasetName]) -> list[Step]:
    """Return the steps that give the agent's user its permissions on each parent."""
    return [Commands(host, partial(_missing, host, parent)) for parent in parents]


def _missing(host: Host, parent: DatasetName) -> Sequence[Argv]:
    require_parent(host, parent)
    return allow_commands(parent) if missing(parent, host.call(["zfs", "allow", parent])) else []


def removal_steps(host: Host, parents: Iterable[DatasetName]) -> list[Step]:
    """Return the steps that take from the agent's user what it has on each parent."""
    return [Commands(host, partial(_given, host, parent)) for parent in parents]


def _given(host: Host, parent: DatasetName) -> Sequence[Argv]:
    if not _exists(host, parent):
        return []
    text = host.call(["zfs", "allow", parent])
    some = len(missing(parent, text)) < len(PERMISSIONS) or superfluous(parent, text)
    return unallow_commands(parent) if some else []


def require_parent(host: Host, parent: DatasetName) -> None:
    """Make sure that a parent is there and can hold zvols.

    :raises SetupError: it is not, or is no filesystem.
    """
    if not _exists(host, parent):
        message = (
            f"this SAN has no dataset {parent}: import its zpool, or make it with 'zfs create -p "
            f"-o mountpoint=none -o volmode=dev -o snapdev=hidden {parent}'"
        )
        raise SetupError(message)
    kind = host.call(["zfs", "get", "-H", "-p", "-o", "value", "type", parent]).strip()
    if kind != "filesystem":
        message = f"{parent} is a {kind}, and a parent must be a filesystem: name another dataset"
        raise SetupError(message)


def _exists(host: Host, parent: DatasetName) -> bool:
    done = host.run(["zfs", "list", "-H", "-o", "name", parent])
    if not done.exit_status:
        return True
    if _ABSENT in done.stderr and f"'{parent}'" in done.stderr:
        return False
    raise done.error()


def udev_steps(host: Host, parents: Iterable[DatasetName]) -> list[Step]:
    """Return the steps that keep this machine from looking into what lies below the parents."""
    rules = [File(host, EARLY_RULES_FILE, early_rules(parents)), File(host, LATE_RULES_FILE, LATE_RULES)]
    return [
        *rules,
        After(host, ["udevadm", "control", "--reload"], rules),
        # Devices that are there already were looked at under the old rules.
        After(host, _TRIGGER, rules),
    ]
