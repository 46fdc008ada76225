"""Who keeps a zvol busy, in words for an operator.

Only asked after ZFS said "dataset is busy", so it may be slow: it looks through all processes and all of
LIO's backstores. It changes nothing, opens no device, and what vanishes while it looks is left out. ZFS's own
holders (snapshots, clones, holds) are not its subject.
Sources: proc(5), and Documentation/ABI/stable/sysfs-block in the Linux tree.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# What is said of a process, a mount or a device that goes while we look: it holds nothing any more.
_GONE = (FileNotFoundError, ProcessLookupError, NotADirectoryError)


def holders_of(dataset: str, node: Path | None, *, root: Path = Path("/")) -> list[str]:
    """Return who uses a zvol's device or one of its partitions, such as ``process 812 (qemu-img)``.

    :param node: the zvol's device; None takes what udev's link says, and knows of nobody without one.
    :param root: where ``dev``, ``proc`` and ``sys`` are.
    :raises OSError: something cannot be read for another reason than having vanished.
    """
    device = node or _linked_node(dataset, root / "dev")
    if device is None:
        return []
    disk = root / "sys/block" / device.name
    parts = [disk, *(path.parent for path in disk.glob("*/partition"))]
    nodes = {f"/dev/{part.name}" for part in parts}
    return [
        *_stacked(parts, root / "sys/block"),
        *_mounted(parts, nodes, root / "proc"),
        *_swapping(nodes, root / "proc"),
        *_processes(nodes, root / "proc"),
        *_backstores({*nodes, f"/dev/zvol/{dataset}"}, root / "sys/kernel/config/target"),
        *_namespaces({*nodes, f"/dev/zvol/{dataset}"}, root / "sys/kernel/config/nvmet/subsystems"),
    ]


def _linked_node(dataset: str, dev: Path) -> Path | None:
    with suppress(FileNotFoundError):
        return dev / (dev / "zvol" / dataset).readlink().name
    return None


def _stacked(parts: list[Path], block: Path) -> Iterator[str]:
    """Yield the device-mapper and md devices on top."""
    for part in parts:
        for holder in _names(part / "holders"):
            name = _text(block / holder / "dm/name")
            yield f"device-mapper {name} ({holder})" if name else f"device {holder}"


def _mounted(parts: list[Path], nodes: set[str], proc: Path) -> Iterator[str]:
    numbers = {_text(part / "dev") for part in parts}
    for line in _text(proc / "self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        # The device by number, and by name for file systems with a number of their own (btrfs).
        if fields[2] in numbers or after.split()[1] in nodes:
            yield f"mount {fields[4]}"


def _swapping(nodes: set[str], proc: Path) -> Iterator[str]:
    for line in _text(proc / "swaps").splitlines():
        name = line.split()[0]
        if name in nodes:
            yield f"swap {name}"


def _processes(nodes: set[str], proc: Path) -> Iterator[str]:
    hidden = 0
    for pid in sorted((name for name in _names(proc) if name.isdigit()), key=int):
        try:
            opened = _opened_by(pid, proc)
        except PermissionError:
            hidden += 1
            continue
        command = "" if nodes.isdisjoint(opened) else _text(proc / pid / "comm")
        if command:
            yield f"process {pid} ({command})"
    if hidden:
        yield f"perhaps one of {hidden} processes that only root may look into"


def _opened_by(pid: str, proc: Path) -> set[str]:
    opened = set()
    folder = f"{proc}/{pid}/fd"
    for name in _names(folder):
        with suppress(*_GONE):
            opened.add(os.readlink(f"{folder}/{name}"))  # noqa: PTH115 - thousands, and Path is 5 times as slow
    return opened


def _backstores(names: set[str], target: Path) -> Iterator[str]:
    for hba in _names(target / "core"):
        for backstore in _names(target / "core" / hba):
            udev_path = _text(target / "core" / hba / backstore / "udev_path")
            # Ours have the node's own name; those of others may go by any link to it.
            if udev_path in names or (udev_path and os.path.realpath(udev_path) in names):
                yield f"LIO backstore {hba}/{backstore}"


def _namespaces(names: set[str], subsystems: Path) -> Iterator[str]:
    for subsystem in _names(subsystems):
        for number in _names(subsystems / subsystem / "namespaces"):
            namespace = subsystems / subsystem / "namespaces" / number
            if _text(namespace / "device_path") in names and _text(namespace / "enable") == "1":
                yield f"nvmet namespace {number} of {subsystem}"


def _names(folder: str | Path) -> list[str]:
    with suppress(*_GONE):
        return sorted(os.listdir(folder))  # noqa: PTH208 - names are all that is wanted
    return []


def _text(path: Path) -> str:
    """Return a small file's text; empty for what is not there."""
    with suppress(*_GONE):
        return path.read_text(errors="replace").strip()
    return ""
