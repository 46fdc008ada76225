"""What lies below the parents: whose it is, and whether udev has made its link."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Final

from zolder.names import DatasetName
from zolder.san.check.finding import Check, Finding, NotChecked
from zolder.san.check.machine import Machine
from zolder.san.check.policies import parents
from zolder.san.check.zpools import require_answers
from zolder.san.libzfs import VOLUME_MARK

ZVOLS: Final = Check("zvols")
_SHOWN: Final = 5


def check_zvols(machine: Machine) -> Iterator[Finding]:
    """Look at the zvols below each parent: marked as ours, and reachable by their links."""
    for parent in parents(machine):
        try:
            yield from _check_below(machine, parent)
        except NotChecked as err:
            yield ZVOLS.unknown(parent, str(err), err.remedy)


def _check_below(machine: Machine, parent: DatasetName) -> Iterator[Finding]:
    require_answers(machine, parent.zpool)
    argv = ("zfs", "get", "-Hp", "-r", "-t", "volume", "-o", "name,value,source", VOLUME_MARK, parent)
    marks = {name: (value, source) for name, value, source in machine.rows(3, *argv)}
    if outside := [name for name in marks if not name.startswith(f"{parent}/")]:
        message = f"zfs get -r {parent} told of {outside[0][:80]!a}"
        raise NotChecked(message)
    # Only a mark of its own proves a zvol ours: clones and children inherit it.
    foreign = [name for name, (_, source) in marks.items() if source != "local"]
    if foreign:
        message = (
            f"{_some(foreign)} below it bear no mark of their own: left alone, but in the way of such names"
        )
        yield ZVOLS.note(parent, message, f"zfs list -o name,creation,used,origin {shlex.quote(foreign[0])}")
    lost = [name for name in marks if not machine.path(f"/dev/zvol/{name}").exists()]
    if lost:
        message = f"{_some(lost)} have no link below /dev/zvol: udev lost them, or they have no device"
        remedy = "sudo udevadm trigger --action=add --subsystem-match=block --sysname-match='zd*'"
        yield ZVOLS.warning(parent, message, remedy)
    if not foreign and not lost:
        yield ZVOLS.ok(parent, f"has {len(marks)} zvols, all ours, all with their links")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{len(names)} zvols ({shown}{', ...' if len(names) > _SHOWN else ''})"
