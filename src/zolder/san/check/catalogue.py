"""All checks, in the order in which they are shown, and how one is made so that it cannot stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from zolder.san.check.accounts import check_account, check_folders
from zolder.san.check.devices import check_holders, check_lvm, check_multipath, check_udev
from zolder.san.check.exports import check_exports, check_restore
from zolder.san.check.finding import Check, Finding, NotChecked
from zolder.san.check.kernel import check_modules, check_versions
from zolder.san.check.keys import check_keys
from zolder.san.check.machine import Machine
from zolder.san.check.padding import check_padding
from zolder.san.check.parents import check_parents
from zolder.san.check.policies import check_policy
from zolder.san.check.program import check_command
from zolder.san.check.services import check_helper, check_services
from zolder.san.check.sshd import check_sshd
from zolder.san.check.system import check_clock, check_memory
from zolder.san.check.targets import check_portals, check_targets
from zolder.san.check.zpools import check_zpools
from zolder.san.check.zvols import check_zvols

CHECKS: Final[dict[str, Callable[[Machine], Iterator[Finding]]]] = {
    "account": check_account,
    "folders": check_folders,
    "policy": check_policy,
    "keys": check_keys,
    "command": check_command,
    "sshd": check_sshd,
    "helper": check_helper,
    "modules": check_modules,
    "versions": check_versions,
    "zpool": check_zpools,
    "parent": check_parents,
    "padding": check_padding,
    "zvols": check_zvols,
    "lvm": check_lvm,
    "multipath": check_multipath,
    "udev": check_udev,
    "holders": check_holders,
    "targets": check_targets,
    "portals": check_portals,
    "restore": check_restore,
    "exports": check_exports,
    "clock": check_clock,
    "services": check_services,
    "memory": check_memory,
}


def look_at(machine: Machine) -> Iterator[Finding]:
    """Make every check and yield what they find; one that cannot be made, or not to its end, says so."""
    for name, check in CHECKS.items():
        try:
            yield from check(machine)
        except NotChecked as err:
            yield Check(name).unknown("not looked at", str(err), err.remedy)
        except (OSError, ValueError, LookupError) as err:
            # What a file or a program said is not what it says on any machine that is known.
            yield Check(name).unknown("not looked at", f"what was read makes no sense: {err!r}")
