"""systemd's units: root's helper and its socket, and what imports zpools and watches their devices."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from typing import Final

from zolder.san.check.accounts import INSTALL, check_place, user
from zolder.san.check.finding import Check, Finding, NotChecked
from zolder.san.check.machine import Machine

HELPER: Final = Check("helper")
SERVICES: Final = Check("services")
SOCKET: Final = "/run/zolder-helper.socket"
_SERVICE: Final = "zolder-helper.service"
_IMPORTS: Final = ("zfs-import-cache.service", "zfs-import-scan.service")
ENABLED: Final = frozenset({"enabled", "enabled-runtime", "static", "alias"})
_UNIT_FIELDS: Final = ("LoadState", "ActiveState", "UnitFileState", "ExecMainStartTimestamp")


def find_unit(machine: Machine, name: str) -> Mapping[str, str] | None:
    """Return what systemd says of a unit; None where there is no such unit.

    :raises NotChecked: systemd does not run here, or does not answer.
    """
    if machine.find_status("/run/systemd/system") is None:
        message = "systemd does not run this machine: look at its own service manager"
        raise NotChecked(message)
    fields = ",".join(_UNIT_FIELDS)
    text = machine.output("systemctl", "show", "--timestamp=unix", f"--property={fields}", name)
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if "LoadState" not in found:
        message = f"systemctl show {name} printed {text[:80]!a}"
        raise NotChecked(message)
    return None if found["LoadState"] == "not-found" else found


def check_helper(machine: Machine) -> Iterator[Finding]:
    """Look at root's helper: its socket is the agent's, its units run, its code is the installed one."""
    gid = user(machine).gid
    yield from check_place(
        HELPER, machine, SOCKET, uid=machine.root_uid, gid=gid, mode=0o660, kind=stat.S_IFSOCK
    )
    socket = find_unit(machine, "zolder-helper.socket")
    service = find_unit(machine, _SERVICE)
    if socket is None or service is None:
        yield HELPER.failure("units", "zolder-helper.socket and .service are not both there", INSTALL)
        return
    if socket.get("ActiveState") != "active":
        message = f"is {socket.get('ActiveState')}: no volume can be exported or looked up"
        remedy = "sudo systemctl enable --now zolder-helper.socket"
        yield HELPER.failure("zolder-helper.socket", message, remedy)
    elif socket.get("UnitFileState") not in ENABLED:
        message = "does not come back when this machine is restarted"
        yield HELPER.failure("zolder-helper.socket", message, "sudo systemctl enable zolder-helper.socket")
    if service.get("ActiveState") == "failed":
        remedy = (
            f"journalctl -u {_SERVICE} -n 50\nsudo systemctl reset-failed {_SERVICE} zolder-helper.socket"
        )
        yield HELPER.failure(_SERVICE, "has failed", remedy)
        return
    yield from _check_age(machine, service)


def _check_age(machine: Machine, service: Mapping[str, str]) -> Iterator[Finding]:
    if service.get("ActiveState") != "active":
        yield HELPER.ok(_SERVICE, "starts with the first request")
        return
    started = service.get("ExecMainStartTimestamp", "").removeprefix("@")
    if not started.isdigit():
        yield HELPER.unknown(_SERVICE, f"systemd does not say when it was started: {started[:40]!a}")
        return
    # Whole seconds: what was installed within the second of the start is not called newer.
    newest = max((int(path.stat().st_mtime) for path in machine.code.rglob("*.py")), default=0)
    if newest > int(started):
        message = "was started before the installed release: it still runs the old code"
        yield HELPER.warning(_SERVICE, message, f"sudo systemctl restart {_SERVICE}")
    else:
        yield HELPER.ok(_SERVICE, "runs the installed release")


def check_services(machine: Machine) -> Iterator[Finding]:
    """Look at what brings zpools back after a restart, and at what tells of failing devices."""
    units = {name: find_unit(machine, name) for name in (*_IMPORTS, "zfs-zed.service")}
    enabled = [name for name in _IMPORTS if (units[name] or {}).get("UnitFileState") in ENABLED]
    if enabled:
        yield SERVICES.ok("import", f"zpools are imported at boot by {', '.join(enabled)}")
    else:
        message = "nothing of OpenZFS's own imports zpools when this machine is restarted"
        yield SERVICES.note(
            "import", message, f"sudo systemctl enable {_IMPORTS[0]} zfs-import.target zfs.target"
        )
    if (units["zfs-zed.service"] or {}).get("ActiveState") == "active":
        yield SERVICES.ok("zfs-zed", "watches the zpools' devices")
    else:
        message = "does not run: no spare steps in for a failed device, and nobody is told"
        yield SERVICES.note(
            "zfs-zed", message, "sudo apt install zfs-zed\nsudo systemctl enable --now zfs-zed"
        )
