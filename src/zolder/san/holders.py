"""Who keeps a zvol busy, in words for an operator.

Only asked after ZFS said "dataset is busy", or once for all zvols, so it may be slow: it looks through all
processes and all of LIO's backstores. It changes nothing and opens no device; what vanishes is left out.
ZFS's own holders (snapshots, clones, holds) are not its subject.
Sources: proc(5), and Documentation/ABI/stable/sysfs-block in the Linux tree.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

# What is said of a process, a mount or a device that goes while we look: it holds nothing any more.
_GONE = (FileNotFoundError, ProcessLookupError, NotADirectoryError)
_LINKS: Final = "/dev/zvol/"
_WHOLE_DISK: Final = re.compile(r"zd[0-9]+", re.ASCII)

# Who holds what: a device's name, or udev's link, and the holder in words.
_Holders: TypeAlias = Iterator[tuple[str, str]]


def holders_of(dataset: str, node: Path | None, *, root: Path = Path("/")) -> list[str]:
    """Return who uses a zvol's device or one of its partitions, such as ``process 812 (qemu-img)``.

    :param node: the zvol's device; None takes what udev's link says, and knows of nobody without one.
    :param root: where ``dev``, ``proc`` and ``sys`` are.
    :raises OSError: something cannot be read for another reason than having vanished.
    """
    device = node or _linked_node(dataset, root / "dev")
    if device is None:
        return []
    return _look(root, [device.name], {f"{_LINKS}{dataset}": device.name}).get(device.name, [])


def all_holders(*, root: Path = Path("/")) -> dict[str, list[str]]:
    """Return who uses each zvol's device, as `holders_of`, by one look through everything.

    :return: those that are in use, by the device's name (``zd16``), or by the dataset's where something
        was given a link of udev's that leads nowhere any more.
    :raises OSError: as `holders_of`.
    """
    disks = [name for name in _names(root / "sys/block") if _WHOLE_DISK.fullmatch(name)]
    return _look(root, disks, {})


def _look(root: Path, disks: Iterable[str], links: Mapping[str, str]) -> dict[str, list[str]]:
    parts: dict[Path, str] = {}
    for disk in disks:
        whole = root / "sys/block" / disk
        parts |= dict.fromkeys([whole, *(path.parent for path in whole.glob("*/partition"))], disk)
    nodes = {**links, **{f"/dev/{part.name}": disk for part, disk in parts.items()}}
    held: dict[str, list[str]] = {}
    for which, holder in (
        *_stacked(parts, root / "sys/block"),
        *_mounted(parts, nodes, root / "proc"),
        *_swapping(nodes, root / "proc"),
        *_processes(nodes, root / "proc"),
        *_backstores(nodes, root / "sys/kernel/config/target"),
        *_namespaces(nodes, root / "sys/kernel/config/nvmet/subsystems"),
    ):
        # A process may call itself anything.
        text = "".join(letter if letter.isprintable() else "?" for letter in holder)
        held.setdefault(which, []).append(text)
    return held


def _linked_node(dataset: str, dev: Path) -> Path | None:
    with suppress(FileNotFoundError):
        return dev / (dev / "zvol" / dataset).readlink().name
    return None


def _stacked(parts: Mapping[Path, str], block: Path) -> _Holders:
    """Yield the device-mapper and md devices on top."""
    for part, disk in parts.items():
        for holder in _names(part / "holders"):
            name = _text(block / holder / "dm/name")
            yield disk, f"device-mapper {name} ({holder})" if name else f"device {holder}"


def _mounted(parts: Mapping[Path, str], nodes: Mapping[str, str], proc: Path) -> _Holders:
    numbers = {_text(part / "dev"): disk for part, disk in parts.items()}
    for line in _text(proc / "self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        # The device by number, and by name for file systems with a number of their own (btrfs).
        disk = numbers.get(fields[2]) or nodes.get(after.split()[1])
        if disk:
            yield disk, f"mount {fields[4]}"


def _swapping(nodes: Mapping[str, str], proc: Path) -> _Holders:
    for line in _text(proc / "swaps").splitlines():
        name = line.split()[0]
        if name in nodes:
            yield nodes[name], f"swap {name}"


def _processes(nodes: Mapping[str, str], proc: Path) -> _Holders:
    hidden = 0
    for pid in sorted((name for name in _names(proc) if name.isdigit()), key=int):
        try:
            opened = _opened_by(pid, proc)
        except PermissionError:
            hidden += 1
            continue
        disks = {nodes[path] for path in nodes.keys() & opened}
        command = _text(proc / pid / "comm") if disks else ""
        if command:
            yield from ((disk, f"process {pid} ({command})") for disk in sorted(disks))
    if hidden:
        said = f"perhaps one of {hidden} processes that only root may look into"
        yield from ((disk, said) for disk in sorted(set(nodes.values())))


def _opened_by(pid: str, proc: Path) -> set[str]:
    opened = set()
    folder = f"{proc}/{pid}/fd"
    for name in _names(folder):
        with suppress(*_GONE):
            opened.add(os.readlink(f"{folder}/{name}"))  # noqa: PTH115 - thousands, and Path is 5 times as slow
    return opened


def _backstores(nodes: Mapping[str, str], target: Path) -> _Holders:
    for hba in _names(target / "core"):
        for backstore in _names(target / "core" / hba):
            disk = _disk_behind(_text(target / "core" / hba / backstore / "udev_path"), nodes)
            if disk:
                yield disk, f"LIO backstore {hba}/{backstore}"


def _namespaces(nodes: Mapping[str, str], subsystems: Path) -> _Holders:
    for subsystem in _names(subsystems):
        for number in _names(subsystems / subsystem / "namespaces"):
            namespace = subsystems / subsystem / "namespaces" / number
            disk = _disk_behind(_text(namespace / "device_path"), nodes)
            if disk and _text(namespace / "enable") == "1":
                yield disk, f"nvmet namespace {number} of {subsystem}"


def _disk_behind(path: str, nodes: Mapping[str, str]) -> str | None:
    """Return the disk that a path leads to; the dataset of a link of udev's that leads nowhere."""
    # Ours have the node's own name; those of others may go by any link to it.
    disk = nodes.get(path) or (nodes.get(os.path.realpath(path)) if path else None)
    return disk or (path.removeprefix(_LINKS) if path.startswith(_LINKS) else None)


def _names(folder: str | Path) -> list[str]:
    with suppress(*_GONE):
        return sorted(os.listdir(folder))  # noqa: PTH208 - names are all that is wanted
    return []


def _text(path: Path) -> str:
    """Return a small file's text; empty for what is not there."""
    with suppress(*_GONE):
        return path.read_text(errors="replace").strip()
    return ""
