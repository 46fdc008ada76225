"""The kernel's modules and OpenZFS's versions: there now, there after a restart, and of one release."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from zolder.san.check.accounts import INSTALL
from zolder.san.check.finding import Check, Finding, NotChecked
from zolder.san.check.machine import Machine

MODULES: Final = Check("modules")
VERSIONS: Final = Check("versions")
_TARGETS: Final = ("target_core_mod", "target_core_iblock", "iscsi_target_mod")
_NVME: Final = "nvmet_tcp"
_LOADED_AT_BOOT: Final = "/etc/modules-load.d/zolder.conf"
_OLDEST: Final = (2, 1)
_NEWEST: Final = (2, 4)
_VERSION: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)\S*", re.ASCII)


def check_modules(machine: Machine) -> Iterator[Finding]:
    """Look at the modules: the agent is not root and cannot load one."""
    for name in ("zfs", *_TARGETS):
        if _is_loaded(machine, name):
            yield MODULES.ok(name, "is in the kernel")
        else:
            release = _release(machine)
            remedy = f"sudo modprobe {name}"
            message = "is not loaded"
            if not machine.names(f"/lib/modules/{release}"):
                message = f"is not loaded, and there are no modules of the running kernel {release}"
                remedy = f"sudo reboot   # into the kernel that is installed\n{remedy}"
            yield MODULES.failure(name, message, remedy)
    if machine.find_status("/sys/kernel/config/target") is None:
        message = "is not there: LIO cannot be configured"
        remedy = "sudo mount -t configfs none /sys/kernel/config\nsudo modprobe target_core_mod"
        yield MODULES.failure("/sys/kernel/config/target", message, remedy)
    if not _is_loaded(machine, _NVME):
        yield MODULES.note(
            _NVME, "is not loaded: nothing is exported over NVMe-oF", "sudo modprobe nvmet-tcp"
        )
    at_boot = (machine.find_text(_LOADED_AT_BOOT) or "").split()
    if late := [name for name in _TARGETS if name not in at_boot]:
        message = f"does not list {', '.join(late)}: not loaded after a restart"
        yield MODULES.warning(_LOADED_AT_BOOT, message, INSTALL)


def _release(machine: Machine) -> str:
    return machine.text("/proc/sys/kernel/osrelease").strip()


def _is_loaded(machine: Machine, name: str) -> bool:
    if machine.find_status(f"/sys/module/{name}") is not None:
        return True
    if any(line.split(" ", 1)[0] == name for line in (machine.find_text("/proc/modules") or "").splitlines()):
        return True
    built_in = machine.find_text(f"/lib/modules/{_release(machine)}/modules.builtin") or ""
    return any(line.rpartition("/")[2] == f"{name}.ko" for line in built_in.splitlines())


def find_zfs_version(machine: Machine) -> tuple[int, ...] | None:
    """Return the loaded OpenZFS's version, or None where it is not loaded or tells none."""
    found = _VERSION.match(machine.find_text("/sys/module/zfs/version") or "")
    return tuple(int(part) for part in found.groups()) if found else None


def check_versions(machine: Machine) -> Iterator[Finding]:
    """Look at OpenZFS: known, and the same in the kernel and in the tools and libraries beside it."""
    yield VERSIONS.ok("kernel", f"is Linux {_release(machine)}")
    loaded = (machine.find_text("/sys/module/zfs/version") or "").strip()
    version = find_zfs_version(machine)
    if version is None:
        message = f"the zfs module tells no version: {loaded[:40]!a}"
        raise NotChecked(message, "sudo modprobe zfs")
    if version[:2] < _OLDEST:
        message = f"is {loaded}: 2.1 is the oldest that will do"
        yield VERSIONS.failure("OpenZFS", message, "sudo apt install zfs-dkms zfsutils-linux\nsudo reboot")
    elif version[:2] > _NEWEST:
        yield VERSIONS.note(
            "OpenZFS", f"is {loaded}, newer than what this release knows", "zolder-san --version"
        )
    else:
        yield VERSIONS.ok("OpenZFS", f"is {loaded}")
    beside = machine.output("zfs", "version").splitlines()
    tools = beside[0].removeprefix("zfs-") if beside else ""
    if not _VERSION.match(tools):
        message = f"zfs version printed {tools[:80]!a}"
        raise NotChecked(message)
    if _VERSION.match(tools) and tools != loaded:
        message = (
            f"the kernel has {loaded}, its tools and libraries are {tools}: one of them was upgraded alone"
        )
        yield VERSIONS.warning("OpenZFS", message, "dpkg -l 'zfs*' 'libzfs*'\nsudo reboot")
