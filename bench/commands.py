"""The command lines that the draft of 2012 ran: ``zfs`` and ``tgtadm``, one after the other.

Runs here, where each goes over ssh, and in the SAN, where it does not: it imports the standard library alone.
"""

from __future__ import annotations

from typing import Final

Commands = list[tuple[str, ...]]

_TGTADM: Final = ("tgtadm", "--lld", "iscsi", "--op")


def zfs_commands(verb: str, dataset: str) -> Commands:
    """Return what one verb takes, at the least."""
    create, destroy = ("zfs", "create", "-s", "-V", "1G", dataset), ("zfs", "destroy", dataset)
    commands: dict[str, Commands] = {
        "create": [create],
        "snapshot": [("zfs", "snapshot", f"{dataset}@s")],
        "clone": [("zfs", "clone", f"{dataset}@s", f"{dataset}-clone")],
        "delete clone": [("zfs", "destroy", f"{dataset}-clone")],
        "delete snapshot": [("zfs", "destroy", f"{dataset}@s")],
        "delete": [destroy],
        "create + export": [create, *_export(dataset)],
        "withdraw + delete": [*_withdraw(dataset), destroy],
    }
    return commands[verb]


def draft_commands(verb: str, dataset: str) -> Commands:
    """Return what the draft ran: it looked before it deleted, and before it withdrew.

    The promote that followed its clone is left out, for it broke what the clone had made.
    """
    commands = zfs_commands(verb, dataset)
    if "delete" in verb:
        commands.insert(-1, ("zfs", "list", "-H", commands[-1][-1]))
    if "withdraw" in verb:
        commands.insert(0, (*_TGTADM, "show", "--mode", "target", *_target(dataset)))
    return commands


def _target(dataset: str) -> tuple[str, str]:
    # The draft kept the number in its database; the end of the zvol's name serves as well.
    return ("--tid", dataset.rpartition("-")[2])


def _export(dataset: str) -> Commands:
    target, name = _target(dataset), f"iqn.2010-10.org.openstack.draft:{dataset.rpartition('/')[2]}"
    device = f"/dev/zvol/{dataset}"
    return [
        (*_TGTADM, "new", "--mode", "target", *target, "--targetname", name),
        (*_TGTADM, "bind", "--mode", "target", *target, "--initiator-address", "ALL"),
        (*_TGTADM, "new", "--mode", "logicalunit", *target, "--lun", "1", "--backing-store", device),
    ]


def _withdraw(dataset: str) -> Commands:
    target = _target(dataset)
    return [
        (*_TGTADM, "delete", "--mode", "logicalunit", *target, "--lun", "1"),
        (*_TGTADM, "delete", "--mode", "target", *target),
    ]
