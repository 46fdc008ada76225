"""Exports: that they come back after a restart, that those on record stand, and that nobody is kept out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from zolder.errors import BackendError, InvalidRequest
from zolder.names import (
    LIO,
    NVMET,
    DatasetName,
    ExporterName,
    InitiatorName,
    Portal,
    ZvolName,
    export_target,
)
from zolder.san.check.accounts import INSTALL
from zolder.san.check.finding import Check, Finding, NotChecked
from zolder.san.check.machine import Machine
from zolder.san.check.policies import parents
from zolder.san.check.services import ENABLED, find_unit
from zolder.san.check.zpools import require_answers
from zolder.san.libzfs import EXPORT_RECORD
from zolder.san.packetfilter import PacketFilter
from zolder.san.run import Finished
from zolder.wish import read_wish

RESTORE: Final = Check("restore")
EXPORTS: Final = Check("exports")
MISSING: Final = "/run/zolder-helper/secrets-missing"
_UNITS: Final = ("zolder-portals.service", "zolder-restore.service")
_ISCSI: Final = "/sys/kernel/config/target/iscsi"
_SUBSYSTEMS: Final = "/sys/kernel/config/nvmet/subsystems"
_TGT_TARGETS: Final = ("tgtadm", "--lld", "iscsi", "--op", "show", "--mode", "target")
_RUN_IT: Final = "sudo zolder-san restore"
_SHOWN: Final = 3


def check_restore(machine: Machine) -> Iterator[Finding]:
    """Look at what brings exports back: nft, the units, and portals that are shut still."""
    shut: tuple[Portal, ...] = ()
    if machine.ask("nft", "-j", "list", "tables", "inet") is None:
        message = "is not there: an initiator that comes while exports are restored loses its disks for good"
        yield RESTORE.failure("nft", message, "sudo apt install nftables")
    else:
        shut = _list_shut(machine)
        yield RESTORE.ok("nft", "can keep initiators away while exports are restored")
    running = False
    for name in _UNITS:
        unit = find_unit(machine, name)
        if unit is None:
            yield RESTORE.failure(name, "is not there: exports do not come back after a restart", INSTALL)
            continue
        running |= unit.get("ActiveState") == "activating"
        if unit.get("UnitFileState") not in ENABLED:
            message = "is not enabled: exports do not come back after a restart"
            yield RESTORE.failure(name, message, f"sudo systemctl enable {name}")
        elif unit.get("ActiveState") == "failed":
            remedy = f"journalctl -u {name} -n 50\nsudo systemctl restart {name}"
            yield RESTORE.failure(name, "has failed", remedy)
        else:
            yield RESTORE.ok(name, "is enabled")
    if shut and running:
        yield RESTORE.note(", ".join(shut), "new connections wait: exports are being restored")
    elif shut:
        message = "new connections are dropped: a restore did not come to its end, or a zpool is away"
        yield RESTORE.failure(", ".join(shut), message, _RUN_IT)


def check_exports(machine: Machine) -> Iterator[Finding]:
    """Look at whether every export on record stands."""
    waiting = _waiting(machine)
    for parent in parents(machine):
        try:
            yield from _check_below(machine, parent, waiting)
        except NotChecked as err:
            yield EXPORTS.unknown(parent, str(err), err.remedy)


def _check_below(machine: Machine, parent: DatasetName, waiting: set[tuple[str, str]]) -> Iterator[Finding]:
    count, closed, without_secret = 0, [], []
    for leaf, value in _records(machine, parent):
        dataset = f"{parent}/{leaf}"
        try:
            zvol, wish = ZvolName(leaf), read_wish(value)
        except InvalidRequest as err:
            remedy = f"zfs get {EXPORT_RECORD} {dataset}\nsudo zfs inherit {EXPORT_RECORD} {dataset}"
            yield EXPORTS.failure(dataset, f"its record is not Zolder's: {err.message}", remedy)
            continue
        for initiator in wish.initiators:
            count += 1
            target = export_target(wish.route.exporter, wish.route.prefix, zvol, initiator)
            if (dataset, str(initiator)) in waiting:
                without_secret.append(f"{leaf} for {initiator}")
            elif not _stands(machine, wish.route.exporter, target, initiator):
                closed.append(f"{leaf} for {initiator}")
    if closed:
        yield EXPORTS.failure(parent, f"{_some(closed)} are on record and not open", _RUN_IT)
    if without_secret:
        message = (
            f"{_some(without_secret)} wait for their CHAP secrets, which cinder-volume sends within minutes"
        )
        yield EXPORTS.warning(parent, message, "zolder-san audit --since -10m --method ensure_exports")
    if not closed and not without_secret:
        yield EXPORTS.ok(parent, f"all {count} exports on record are open")


def _records(machine: Machine, parent: DatasetName) -> Iterator[tuple[str, str]]:
    require_answers(machine, parent.zpool)
    argv = ("zfs", "get", "-Hp", "-r", "-d", "1", "-t", "volume", "-o", "name,value,source", EXPORT_RECORD)
    for dataset, value, source in machine.rows(3, *argv, parent):
        above, _, leaf = dataset.rpartition("/")
        if above != parent:
            message = f"zfs get -r {parent} told of {dataset[:80]!a}"
            raise NotChecked(message)
        if source == "local":
            yield leaf, value


def _stands(machine: Machine, exporter: ExporterName, target: str, initiator: InitiatorName) -> bool:
    if exporter == LIO:
        return machine.find_status(f"{_ISCSI}/{target}/tpgt_1/acls/{initiator}") is not None
    if exporter == NVMET:
        return machine.find_status(f"{_SUBSYSTEMS}/{target}/allowed_hosts/{initiator}") is not None
    said = machine.output(*_TGT_TARGETS)
    return re.search(rf"^Target \d+: {re.escape(target)}$", said, re.MULTILINE) is not None


def _waiting(machine: Machine) -> set[tuple[str, str]]:
    text = machine.find_text(MISSING)
    if text is None:
        return set()
    try:
        return {(str(dataset), str(initiator)) for dataset, initiator in json.loads(text)}
    except (ValueError, TypeError) as err:
        message = f"{MISSING} is damaged: {text[:80]!a}"
        raise NotChecked(message, _RUN_IT) from err


def _list_shut(machine: Machine) -> tuple[Portal, ...]:
    def ask(argv: list[str], *, text: str | None = None) -> Finished:
        finished = machine.ask(*argv) if text is None else None
        if finished is None:
            raise AssertionError  # nft is here, and listing gives it no text
        return finished

    try:
        return PacketFilter(ask).list_shut()
    except BackendError as err:
        raise NotChecked(err.message, "sudo zolder-san check") from err


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{len(names)} exports ({shown}{', ...' if len(names) > _SHOWN else ''})"
