"""The zpools with parents in them: active, healthy, with room, and nobody else's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from zolder.san.check.finding import Check, Finding, NotChecked
from zolder.san.check.machine import Machine
from zolder.san.check.policies import zpools

ZPOOL: Final = Check("zpool")
_PROPERTIES: Final = ("capacity", "multihost", "autotrim")
_FULL_PERCENT: Final = 90
_FILLING_PERCENT: Final = 80


def state_of(machine: Machine, zpool: str) -> str | None:
    """Return a zpool's state as the kernel's statistics have it, which never block; None if not imported."""
    state = machine.find_text(f"/proc/spl/kstat/zfs/{zpool}/state")
    return None if state is None else state.strip()


def require_answers(machine: Machine, zpool: str) -> None:
    """Make sure that asking ZFS about a zpool means something and cannot hang.

    :raises NotChecked: it is not imported or not active, which `check_zpools` says as a failure.
    """
    state = state_of(machine, zpool)
    if state not in {"ONLINE", "DEGRADED"}:
        message = f"zpool {zpool} is {state or 'not imported'}: ZFS is not asked about what is in it"
        raise NotChecked(message)


def check_zpools(machine: Machine) -> Iterator[Finding]:
    """Look at each zpool that has a parent."""
    for zpool in zpools(machine):
        state = state_of(machine, zpool)
        if state is None:
            message = "is not imported: nothing in it can be reached"
            yield ZPOOL.failure(zpool, message, f"sudo zpool import\nsudo zpool import {zpool}")
        elif state == "SUSPENDED":
            message = "has suspended its I/O: repair its devices, then clear it"
            yield ZPOOL.failure(zpool, message, f"zpool status {zpool}\nsudo zpool clear {zpool}")
        elif state not in {"ONLINE", "DEGRADED"}:
            yield ZPOOL.failure(zpool, f"is {state}", f"zpool status {zpool}")
        else:
            yield from _check_health(machine, zpool, state)
            yield from _check_properties(machine, zpool)


def _check_health(machine: Machine, zpool: str, state: str) -> Iterator[Finding]:
    text = machine.output("zpool", "status", "-x", zpool).strip()
    if state == "ONLINE" and text == f"pool '{zpool}' is healthy":
        yield ZPOOL.ok(zpool, "is ONLINE and healthy")
        return
    said = [
        line.partition(":")[2].strip()
        for line in text.splitlines()
        if line.startswith(("status:", "errors:"))
    ]
    reasons = "; ".join(reason for reason in said if reason)
    message = f"is {state}" + (f": {reasons}" if reasons else ", and not healthy")
    yield ZPOOL.warning(zpool, message, f"zpool status -v {zpool}")


def _check_properties(machine: Machine, zpool: str) -> Iterator[Finding]:
    names = ",".join(_PROPERTIES)
    values = dict(machine.rows(2, "zpool", "get", "-Hp", "-o", "property,value", names, zpool))
    if values.keys() != set(_PROPERTIES):
        message = f"zpool get {names} {zpool} told of {sorted(values)} only"
        raise NotChecked(message)
    percent = values["capacity"].removesuffix("%")
    if not percent.isdigit():
        yield ZPOOL.unknown(zpool, f"its capacity is {percent[:20]!a}, no number")
    elif int(percent) > _FILLING_PERCENT:
        say = ZPOOL.failure if int(percent) > _FULL_PERCENT else ZPOOL.warning
        message = (
            f"is {percent} % full: it becomes slow, and sparse volumes get I/O errors when nothing is left"
        )
        yield say(zpool, message, f"zfs list -o space -r {zpool}\nsudo zpool add {zpool} ...")
    else:
        yield ZPOOL.ok(zpool, f"is {percent} % full")
    yield from _check_multihost(machine, zpool, multihost=values["multihost"] == "on")
    if values["autotrim"] != "on":
        message = "does not tell its devices what was freed (autotrim=off); SSDs and thin disks want it"
        yield ZPOOL.note(zpool, message, f"sudo zpool set autotrim=on {zpool}")


def _check_multihost(machine: Machine, zpool: str, *, multihost: bool) -> Iterator[Finding]:
    generate = "sudo zgenhostid"
    if not _has_host_id(machine):
        if multihost:
            message = "has multihost=on, but this machine has no host id: the next import is refused"
            yield ZPOOL.failure(zpool, message, generate)
        else:
            message = "this machine has no host id: another one that sees the same disks is not kept out"
            yield ZPOOL.note(zpool, message, generate)
    if not multihost:
        message = "has multihost=off: right only where no other machine can reach its disks"
        yield ZPOOL.note(zpool, message, f"sudo zpool set multihost=on {zpool}")


def _has_host_id(machine: Machine) -> bool:
    parameter = (machine.find_text("/sys/module/spl/parameters/spl_hostid") or "0").strip()
    if parameter != "0":
        return True
    status = machine.find_status("/etc/hostid")
    return status is not None and machine.path("/etc/hostid").read_bytes()[:4].strip(b"\0") != b""
