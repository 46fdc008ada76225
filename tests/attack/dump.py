"""All that a SAN holds, as facts by name, and what of it has changed.

A fact is one line: a dataset's property with its source, a permission, a target's attribute, a file's mode
and times, a listening socket, a process. What moves by itself is left out, each with its reason here; the
rest is compared to the last character. A file's change time is among its facts, which no user can set back.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

Facts: TypeAlias = dict[str, str]

ZPOOLS: Final = ("data", "fast")
DELEGATED: Final = ("data/volumes", "data/more", "data/other", "fast/volumes")
_TARGETS: Final = "/sys/kernel/config/target"
_ROOTS: Final = (
    "/etc", "/root", "/home", "/usr/local", "/var/lib/zolder",
    "/tmp", "/var/tmp", "/dev/shm",  # noqa: S108 - looked at, not used
    "/run/systemd/system", "/run/udev/rules.d", "/var/spool", "glob:/run/zolder", "glob:/run/zolder-helper*",
    "glob:/dev/zd*", "/dev/zvol",
)  # fmt: skip
_PRINTED: Final = r"%p\t%y%m\t%U:%G\t%s\t%T@ %C@\t%l\0"
_STATISTICS: Final = ("statistics", "fabric_statistics")

COMMANDS: Final[Mapping[str, list[str]]] = {
    "datasets": ["zfs", "get", "-Hpr", "-t", "all", "-o", "name,property,value,source", "all", *ZPOOLS],
    "zpools": ["zpool", "get", "-Hp", "-o", "name,property,value,source", "all", *ZPOOLS],
    **{f"allow {parent}": ["zfs", "allow", parent] for parent in DELEGATED},
    **{f"history {zpool}": ["zpool", "history", "-il", zpool] for zpool in ZPOOLS},
    "files": ["find", *_ROOTS, "-printf", _PRINTED],
    # prune: what counts traffic moves by itself
    "targets": ["find", _TARGETS, "-name", _STATISTICS[0], "-prune", "-o", "-name", _STATISTICS[1], "-prune",
                "-o", "-printf", r"%p\t%y%m\t%l\0"],
    "attributes": ["grep", "-rsa", *(f"--exclude-dir={name}" for name in _STATISTICS), "", _TARGETS],
    # all but the kernel's own threads
    "processes": ["ps", "-ww", "--deselect", "-p", "2", "--ppid", "2",
                  "-o", "pid=,ppid=,uid=,comm:20=,args="],
}  # fmt: skip
READS: Final = ["/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/unix", "/proc/modules",
                "/proc/1/mounts"]  # fmt: skip
DIGESTS: Final = ["/etc/zolder/*", "/etc/passwd", "/etc/shadow", "/etc/group", "/etc/ssh/sshd_config*",
                  "/etc/ssh/sshd_config.d/*", "/root/.ssh/*", "/var/lib/zolder/.ssh/*"]  # fmt: skip
# The kernel writes each change of these into the zpool's history, be it undone again or not; reading them
# takes it two seconds under emulation. So they are read now and then, and at once where the history grew.
RECORDED: Final = ("datasets", "zpools", "allow")
STRICT: Final = [name for name in COMMANDS if name.startswith((*RECORDED, "history", "processes"))]
# What an open session could bring: looked at while it is open.
MEANWHILE: Final = {"files": COMMANDS["files"]}
# Facts of these kinds may need a moment to come to rest after an attack.
RESTLESS: Final = ("process", "socket", "agents")

# Space, which moves with every transaction group of the zpool.
_COUNTED: Final = {
    "available", "compressratio", "logicalreferenced", "logicalused", "refcompressratio", "referenced",
    "snapshots_changed", "snapshots_changed_nsecs", "used", "usedbychildren", "usedbydataset",
    "usedbyrefreservation", "usedbysnapshots", "written",
    "allocated", "bcloneratio", "bclonesaved", "bcloneused", "capacity", "dedupratio", "dedupcached",
    "dedup_table_size", "expandsize", "fragmentation", "free", "freeing", "last_scrubbed_txg", "leaked",
}  # fmt: skip
_AGENT: Final = re.compile(r"serve --identity [a-z0-9_-]+$")
_HELPER: Final = re.compile(r"^/usr/bin/python3 .* helper$", re.DOTALL)
# They come and go with sessions, events and the system's timers.
_PASSING: Final = re.compile(
    r"^0 (\(.*\)|systemd-udevd|systemd-tmpfile|systemd-userwor|systemd-timedat|systemd-hostnam|logrotate"
    r"|fstrim|kmod|modprobe|zed)$|^\d+ sshd(-session|-auth)?$"
)
# The record of one of lab's own volumes, whose target's name is taken: it is written before the target is
# opened and taken back where that fails, and lab may have it written whenever it likes. What stands shows.
_OWN_RECORD: Final = re.compile(
    r"^.* \[txg:[0-9]+\] (set|inherit) data/volumes/volume-taken \([0-9]+\) zolder:export=.*\n", re.MULTILINE
)
# An agent notes a size before it asks ZFS and takes it back where ZFS refuses: only times move.
_NOTED: Final = re.compile(r"/run/zolder/index(/|$)")


def facts_of(found: Mapping[str, Any]) -> Facts:
    """Return the facts in what the guest gathered (tests/attack/inside/observing.py)."""
    facts: Facts = {}
    for name, text in found.items():
        if name in {"datasets", "zpools"}:
            facts.update(_properties(name, text))
        elif name.startswith(("allow ", "history ")):
            facts[name] = _OWN_RECORD.sub("", text)
        elif name in _READERS:
            facts.update(_READERS[name](text))
    facts.update({f"content {path}": digest for path, digest in found.get("digests", {}).items()})
    if "processes" in found:
        facts.update(_processes(found["processes"], found["pid"]))
    return facts


def changes(before: Facts, after: Facts) -> list[str]:
    """Return what came, went and changed, a line each."""
    lines = []
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name), after.get(name)
        if was is None:
            lines.append(f"+ {name} = {now}")
        elif now is None:
            lines.append(f"- {name} = {was}")
        elif was != now:
            lines.append(f"~ {name}: {was} -> {now}")
    return lines


def is_restless(change: str) -> bool:
    """Say whether a change may still come to rest by itself."""
    return change[2:].startswith(RESTLESS)


def _properties(kind: str, text: str) -> Iterator[tuple[str, str]]:
    for row in text.splitlines():
        name, name_of_property, value, *source = row.split("\t")
        if name_of_property not in _COUNTED and not name_of_property.startswith("written@"):
            yield f"{kind} {name} {name_of_property}", f"{value} ({' '.join(source)})"


def _files(text: str) -> Iterator[tuple[str, str]]:
    for record in text.split("\0")[:-1]:
        # From the right: a path may have tabs. A link's text may too: it reads oddly then, and still alike.
        path, mode, owner, size, times, link = record.rsplit("\t", 5)
        # The times of a device's node are those of its last use.
        timeless = mode.startswith(("b", "c")) or _NOTED.match(path)
        yield f"file {path}", " ".join([mode, owner, size, "" if timeless else times, link]).rstrip()


def _targets(text: str) -> Iterator[tuple[str, str]]:
    for record in text.split("\0")[:-1]:
        path, _, rest = record.partition("\t")
        yield f"target {path}", rest


def _attributes(text: str) -> Iterator[tuple[str, str]]:
    lines: dict[str, list[str]] = {}
    for row in text.splitlines():
        # A target's name has colons of its own; a path has one behind it, and no attribute's name has any.
        found = re.match(rf"({_TARGETS}(?:/[^/]*)*/[a-zA-Z0-9_]+):(.*)", row, re.DOTALL)
        path, value = found.groups() if found else (row, "")
        lines.setdefault(f"attribute {path}", []).append(value)
    return iter({name: "\n".join(values) for name, values in lines.items()}.items())


def _ports(text: str) -> Iterator[tuple[str, str]]:
    for row in text.splitlines()[1:]:
        words = row.split()
        # 0A: listening; 07: a bound UDP socket. The owner is part of the fact.
        if words[3] in {"0A", "07"}:
            yield f"socket {words[1]} {words[3]}", words[7]


def _unix(text: str) -> Iterator[tuple[str, str]]:
    for row in text.splitlines()[1:]:
        words = row.split(maxsplit=7)
        if len(words) == 8 and int(words[3], 16) & 0x10000:  # __SO_ACCEPTCON: it listens
            yield f"socket {words[7]}", words[4]


def _modules(text: str) -> Iterator[tuple[str, str]]:
    for row in text.splitlines():
        yield f"module {row.split()[0]}", ""


def _mounts(text: str) -> Iterator[tuple[str, str]]:
    for number, row in enumerate(text.splitlines()):
        yield f"mount {number}", row


def _processes(text: str, observer: int) -> Facts:
    rows = [(int(pid), int(parent), uid, comm, args) for pid, parent, uid, comm, args in
            (row.split(None, 4) for row in text.splitlines() if len(row.split(None, 4)) == 5)]  # fmt: skip
    parents = {pid: parent for pid, parent, *_ in rows}
    counted: Counter[str] = Counter()
    agents = 0
    for pid, _, uid, comm, args in rows:
        if _AGENT.search(args):
            agents += comm.startswith("python3")
        elif args.endswith("<defunct>"):
            continue  # it has ended and holds nothing; the helper buries its children at the next connection
        elif _HELPER.search(args):
            counted[f"process {uid} helper"] = 1  # it has a child for each agent
        elif not _descends(pid, observer, parents) and not _PASSING.match(f"{uid} {comm}"):
            counted[f"process {uid} {comm} {args}"] += 1
    facts = {name: str(count) for name, count in counted.items()}
    return facts | {"agents": str(agents)}


def _descends(pid: int, observer: int, parents: Mapping[int, int]) -> bool:
    """Say whether a process is the one who looks, or was started by it."""
    while pid > 1:
        if pid == observer:
            return True
        pid = parents.get(pid, 0)
    return False


_READERS: Final = {
    "files": _files,
    "targets": _targets,
    "attributes": _attributes,
    "/proc/net/tcp": _ports,
    "/proc/net/tcp6": _ports,
    "/proc/net/udp": _ports,
    "/proc/net/unix": _unix,
    "/proc/modules": _modules,
    "/proc/1/mounts": _mounts,
}
