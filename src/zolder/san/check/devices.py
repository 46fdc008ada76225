"""Who on this machine may look into zvols: LVM, multipath and udev, which then hold them or write to them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import Final

from zolder.san.check.accounts import INSTALL
from zolder.san.check.finding import Check, Finding, NotChecked
from zolder.san.check.machine import Machine
from zolder.san.check.policies import parents

LVM: Final = Check("lvm")
MULTIPATH: Final = Check("multipath")
HOLDERS: Final = Check("holders")
UDEV: Final = Check("udev")
_ZVOL_PATHS: Final = ("/dev/zd0", "/dev/zvol/zpool/parent/volume")
_BRACKETS: Final = {"(": ")", "[": "]", "{": "}"}
# What keeps blkid, multipath, and udev's own watch off, in the two files.
_RULES: Final = {
    "/etc/udev/rules.d/10-zolder.rules": (
        "UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG",
        "DM_MULTIPATH_DEVICE_PATH",
    ),
    "/etc/udev/rules.d/90-zolder.rules": ("SYSTEMD_READY", "nowatch"),
}
_LOOKED: Final = re.compile(r"^E:(ID_FS_TYPE|ID_PART_TABLE_TYPE)=(.*)$", re.MULTILINE)
_FILTER: Final = """sudoedit /etc/lvm/lvm.conf   # in the section devices:
global_filter = [ "r|^/dev/zd|", "r|^/dev/zvol/|" ]"""


def check_lvm(machine: Machine) -> Iterator[Finding]:
    """Look at whether LVM keeps off zvols: after a restart it would activate guests' volume groups."""
    names = ("devices/global_filter", "devices/use_devicesfile", "devices/devicesfile")
    if machine.ask("lvmconfig", "--typeconfig", "full", *names) is None:
        yield LVM.ok("LVM", "is not installed")
        return
    text = machine.output("lvmconfig", "--typeconfig", "full", *names)
    settings = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    filters = json.loads(settings.get("global_filter", "null"))
    if isinstance(filters, str):
        filters = [filters]  # LVM takes one pattern without brackets, too
    if not isinstance(filters, list) or not all(isinstance(item, str) for item in filters):
        message = f"lvmconfig printed {text[:80]!a}"
        raise NotChecked(message)
    listed = machine.find_text(f"/etc/lvm/devices/{settings.get('devicesfile', '').strip(chr(34))}")
    if settings.get("use_devicesfile") == "1" and listed is not None:
        if re.search(r"^\s*[^#\n]*=/dev/(?:zd|zvol/)", listed, re.MULTILINE):
            message = "the devices file lists a zvol: guests' volume groups are activated on this machine"
            yield LVM.failure("LVM", message, "sudo lvmdevices\nsudo lvmdevices --deldev /dev/zdN")
        else:
            yield LVM.ok("LVM", "sees the devices of its devices file alone, no zvols")
    elif is_rejected(filters):
        yield LVM.ok("LVM", "its global_filter keeps it off zvols")
    else:
        message = "looks into zvols: it activates guests' volume groups here, and volumes stay busy"
        yield LVM.warning("LVM", message, _FILTER)


def is_rejected(filters: list[str]) -> bool:
    """Say whether LVM's global_filter keeps off a zvol: one of its names is rejected and none accepted.

    :raises NotChecked: a pattern is not to be understood.
    """
    verdicts = set()
    for path in _ZVOL_PATHS:
        for item in filters:
            verb, opening, rest = item[:1], item[1:2], item[2:]
            closing = _BRACKETS.get(opening, opening)
            if verb not in {"a", "r"} or not rest.endswith(closing or " "):
                message = f"LVM's global_filter has {item[:80]!a}"
                raise NotChecked(message)
            if _search(rest[:-1], path):
                verdicts.add(verb)
                break
    return verdicts == {"r"}


def check_multipath(machine: Machine) -> Iterator[Finding]:
    """Look at whether multipathd, if it is there, keeps off zvols."""
    if machine.ask("multipath", "-t") is None:
        yield MULTIPATH.ok("multipath", "is not installed")
        return
    text = machine.output("multipath", "-t")
    if not re.search(r"^defaults \{", text, re.MULTILINE):
        message = f"multipath -t printed {text[:80]!a}"
        raise NotChecked(message)
    patterns = {section: _devnodes(text, section) for section in ("blacklist", "blacklist_exceptions")}
    excepted = any(_matches(pattern) for pattern in patterns["blacklist_exceptions"])
    if not excepted and any(_matches(pattern) for pattern in patterns["blacklist"]):
        yield MULTIPATH.ok("multipath", "its blacklist has zvols")
        return
    message = "may take zvols for paths of its own, and volumes stay busy"
    remedy = (
        "sudo mkdir -p /etc/multipath/conf.d\n"
        "printf 'blacklist {\\n devnode \"^zd[0-9]\"\\n}\\n' | sudo tee /etc/multipath/conf.d/zolder.conf\n"
        "sudo multipathd reconfigure"
    )
    yield MULTIPATH.warning("multipath", message, remedy)


def _devnodes(text: str, section: str) -> list[str]:
    found = re.search(rf"^{section} \{{\n(.*?)^\}}", text, re.MULTILINE | re.DOTALL)
    return re.findall(r'^\tdevnode "(.*)"$', found[1], re.MULTILINE) if found else []


def _matches(pattern: str) -> bool:
    """Say whether a devnode pattern has zvols; a leading ``!`` turns it round (multipath.conf(5))."""
    return not _search(pattern[1:], "zd0") if pattern.startswith("!") else _search(pattern, "zd0")


def _search(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error as err:
        message = f"the pattern {pattern[:80]!a} is not to be understood: {err}"
        raise NotChecked(message) from err


def check_holders(machine: Machine) -> Iterator[Finding]:
    """Look at what lies upon a zvol or one of its partitions on this machine already."""
    faults = []
    for disk in (name for name in machine.names("/sys/block") if name.startswith("zd")):
        parts = [name for name in machine.names(f"/sys/block/{disk}") if name.startswith(disk)]
        for folder in (f"/sys/block/{disk}", *(f"/sys/block/{disk}/{part}" for part in parts)):
            for holder in machine.names(f"{folder}/holders"):
                name = (machine.find_text(f"/sys/block/{holder}/dm/name") or holder).strip()
                message = f"{name} lies upon it on this machine: the volume cannot be exported or deleted"
                remedy = f"sudo dmsetup info {shlex.quote(name)}\nsudo dmsetup remove {shlex.quote(name)}"
                faults.append(HOLDERS.failure(f"/dev/{disk}", message, remedy))
    yield from faults or [HOLDERS.ok("zvols", "nothing on this machine lies upon one")]


def check_udev(machine: Machine) -> Iterator[Finding]:
    """Look at our rules, and at whether udev has looked into a zvol nevertheless."""
    faults = []
    for path, words in _RULES.items():
        lines = (machine.find_text(path) or "").splitlines()
        rules = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
        ours = () if "nowatch" in words else [f'"{parent}/*"' for parent in parents(machine)]
        needed = (*words, *ours)
        if lacking := [word for word in needed if word not in rules]:
            message = f"is missing or lacks {', '.join(lacking)}: this machine looks into guests' disks"
            faults.append(UDEV.failure(path, message, f"{INSTALL}\nsudo udevadm control --reload"))
    again = "sudo udevadm trigger --action=change --subsystem-match=block --sysname-match='zd*'"
    for disk in machine.names("/sys/block"):
        number = (machine.find_text(f"/sys/block/{disk}/dev") or "").strip() if disk.startswith("zd") else ""
        if not number:
            continue
        known = machine.find_text(f"/run/udev/data/b{number}") or ""
        if looked := _LOOKED.search(known):
            message = f"udev has looked into it and found {looked[2][:40]!a} (before the rules?)"
            faults.append(UDEV.note(f"/dev/{disk}", message, again))
        if machine.find_link(f"/run/udev/watch/b{number}") is not None:
            message = "udev watches it, and opens it each time a writer closes it"
            faults.append(UDEV.note(f"/dev/{disk}", message, again))
    yield from faults or [UDEV.ok("rules", "keep this machine off zvols")]
