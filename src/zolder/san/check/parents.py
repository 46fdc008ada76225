"""The datasets below which volumes live: there, closed to this machine's kernel, the agent's to work in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from zolder.names import DatasetName
from zolder.san.check.accounts import USER
from zolder.san.check.finding import Check, Finding, NotChecked
from zolder.san.check.machine import Machine
from zolder.san.check.policies import parents
from zolder.san.check.zpools import require_answers
from zolder.san.delegation import allow_commands, missing, superfluous
from zolder.san.parents import Site

PARENT: Final = Check("parent")
_PROPERTIES: Final = (
    "type",
    "guid",
    "volmode",
    "snapdev",
    "mountpoint",
    "canmount",
    "mounted",
    "readonly",
    "keystatus",
)


def check_parents(machine: Machine) -> Iterator[Finding]:
    """Look at each parent that the policy names."""
    for parent in parents(machine):
        try:
            require_answers(machine, parent.zpool)
            values = _find_properties(machine, parent)
            if values is None:
                make = f"sudo zfs create -p -o mountpoint=none -o volmode=dev -o snapdev=hidden {parent}"
                yield PARENT.failure(parent, "does not exist", make)
                continue
            faults = list(_check_properties(machine, parent, values))
            faults += _check_delegation(machine, parent)
            yield from faults or [PARENT.ok(parent, "is there, closed and delegated")]
        except NotChecked as err:
            yield PARENT.unknown(parent, str(err), err.remedy)


def _find_properties(machine: Machine, parent: DatasetName) -> Mapping[str, str] | None:
    argv = ("zfs", "get", "-Hp", "-o", "property,value", ",".join(_PROPERTIES), parent)
    finished = machine.ask(*argv)
    if finished is not None and finished.stderr.strip() == f"cannot open '{parent}': dataset does not exist":
        return None
    values = dict(machine.rows(2, *argv))
    if values.keys() != set(_PROPERTIES):
        message = f"zfs get told of {', '.join(sorted(values))[:120] or 'nothing'} only"
        raise NotChecked(message)
    return values


def _check_properties(machine: Machine, parent: DatasetName, values: Mapping[str, str]) -> Iterator[Finding]:
    if values["type"] != "filesystem":
        message = f"is a {values['type']}: volumes need a file system above them"
        yield PARENT.failure(parent, message, f"sudoedit /etc/zolder/san.toml   # name another than {parent}")
        return
    if values["volmode"] != "dev":
        message = f"has volmode={values['volmode']}: " + (
            "volumes get no device and cannot be exported"
            if values["volmode"] == "none"
            else "this machine's kernel reads guests' partition tables"
        )
        yield PARENT.failure(parent, message, f"sudo zfs set volmode=dev {parent}")
    if values["snapdev"] != "hidden":
        message = f"has snapdev={values['snapdev']}: every snapshot gets a device that udev looks into"
        yield PARENT.warning(parent, message, f"sudo zfs set snapdev=hidden {parent}")
    if values["readonly"] != "off":
        message = "is read-only, and so is every volume below it"
        yield PARENT.failure(
            parent, message, f"sudo zfs inherit readonly {parent}\nzfs get readonly {parent}"
        )
    if values["keystatus"] == "unavailable":
        message = "is encrypted and its key is not loaded: no volume below it can be opened"
        yield PARENT.failure(parent, message, f"sudo zfs load-key -r {parent}")
    if values["mounted"] == "yes":
        message = f"is mounted at {values['mountpoint']}, for nothing: volumes are no files"
        yield PARENT.note(parent, message, f"sudo zfs set mountpoint=none {parent}")
    elif values["canmount"] == "on" and values["mountpoint"] not in {"none", "legacy"}:
        message = f"would be mounted at {values['mountpoint']}, for nothing"
        yield PARENT.note(parent, message, f"sudo zfs set mountpoint=none {parent}")
    yield from _check_guid(machine, parent, values["guid"])


def _check_guid(machine: Machine, parent: DatasetName, guid: str) -> Iterator[Finding]:
    record = f"{Site().state}/parents/{parent.replace('/', ':')}"
    recorded = (machine.find_text(record) or guid).strip()
    if recorded != guid:
        message = f"has guid {guid}; set up was {recorded}: another zpool of this name, or made anew"
        remedy = f"zpool import\nsudo rm {record}   # only if the change is meant"
        yield PARENT.failure(parent, message, remedy)


def _check_delegation(machine: Machine, parent: DatasetName) -> Iterator[Finding]:
    text = machine.output("zfs", "allow", parent)
    if lacking := missing(parent, text):
        names = ", ".join(f"{item.name} ({'below' if item.below else 'on it'})" for item in lacking)
        requests = "; ".join(dict.fromkeys(item.requests for item in lacking))
        message = f"{USER} lacks {names}: without it fail {requests}"
        remedy = "\n".join(" ".join(("sudo", *argv)) for argv in allow_commands(parent))
        yield PARENT.failure(parent, message, remedy)
    if extra := superfluous(parent, text):
        message = f"{USER} may do more than it needs: {', '.join(extra)}"
        remedy = "\n".join(
            [
                f"sudo zfs unallow -u {USER} {parent}",
                *(" ".join(("sudo", *argv)) for argv in allow_commands(parent)),
            ]
        )
        yield PARENT.warning(parent, message, remedy)
