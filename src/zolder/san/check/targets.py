"""iSCSI on this machine: what we export is closed, nobody else has our ports, our addresses are here."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from zolder.names import Portal, TargetPrefix
from zolder.san.check.finding import Check, Finding, NotChecked
from zolder.san.check.machine import Machine
from zolder.san.check.policies import portals, prefixes
from zolder.san.check.services import find_unit

TARGETS: Final = Check("targets")
PORTALS: Final = Check("portals")
_ISCSI: Final = "/sys/kernel/config/target/iscsi"
# Each of these lets in whom no ACL names: to the LUN, or to the list of all targets.
_OPEN: Final = ("generate_node_acls", "demo_mode_discovery")
_RESTORERS: Final = ("rtslib-fb-targetctl.service", "target.service")
# Debian's, and rtslib's own.
_SAVED: Final = ("/etc/rtslib-fb-target/saveconfig.json", "/etc/target/saveconfig.json")
_LISTENING: Final = "0A"
_SOCKET: Final = re.compile(r"socket:\[(\d+)\]", re.ASCII)


def check_targets(machine: Machine) -> Iterator[Finding]:
    """Look at the targets under our prefixes, and for who else makes or restores targets."""
    ours = prefixes(machine)
    faults, count = [], 0
    for target in machine.names(_ISCSI):
        if not any(target.startswith(prefix) for prefix in ours):
            continue
        count += 1
        for group in machine.names(f"{_ISCSI}/{target}"):
            for name in _OPEN if group.startswith("tpgt_") else ():
                path = f"{_ISCSI}/{target}/{group}/attrib/{name}"
                if machine.text(path).strip() != "0":
                    message = f"is open to everybody ({name}=1): not as Zolder made it"
                    faults.append(TARGETS.failure(target, message, f"echo 0 | sudo tee {path}"))
    yield from faults or [TARGETS.ok("LIO", f"{count} targets under our prefixes, all closed")]
    for name in _RESTORERS:
        unit = find_unit(machine, name)
        if unit is not None and unit.get("UnitFileState") == "enabled":
            saved = _count_saved(machine, ours)
            message = (
                f"is enabled, and {saved} targets of ours are in its files: at boot it restores them as they"
                " were then, and 'zolder-san restore' takes them for stale"
                if saved
                else "is enabled: it saves and restores the targets that Zolder makes, stale ones too"
            )
            yield TARGETS.warning(name, message, f"sudo systemctl disable {name}")


def _count_saved(machine: Machine, ours: list[TargetPrefix]) -> int:
    """Return how many targets under our prefixes rtslib would restore.

    :raises NotChecked: its file cannot be understood.
    """
    found = set()
    for path in _SAVED:
        text = machine.find_text(path)
        try:
            names = [str(target["wwn"]) for target in json.loads(text)["targets"]] if text else []
        except (ValueError, LookupError, TypeError) as err:
            message = f"{path} is not as rtslib writes it"
            raise NotChecked(message) from err
        found |= {name for name in names if name.startswith(tuple(ours))}
    return len(found)


def check_portals(machine: Machine) -> Iterator[Finding]:
    """Look at each portal: its address is on this machine, and nobody but the kernel listens at it."""
    wanted = portals(machine)
    here = _addresses(machine)
    for portal in wanted:
        address = portal.rpartition(":")[0].strip("[]")
        if address not in here:
            message = "is on no interface of this machine: no volume can be exported there"
            remedy = f"ip -brief addr\nsudoedit /etc/zolder/san.toml   # or bring up {address}"
            yield PORTALS.failure(portal, message, remedy)
        elif here[address]:
            yield PORTALS.ok(portal, "is on this machine")
        else:
            yield PORTALS.warning(portal, "is on an interface that is down", "ip -brief link")
    yield from _check_listeners(machine, wanted)


def _addresses(machine: Machine) -> dict[str, bool]:
    """Return this machine's addresses, and whether the interface of each is up.

    :raises NotChecked: ``ip`` does not say.
    """
    text = machine.output("ip", "-j", "addr")
    found = {}
    try:
        for interface in json.loads(text):
            # A loopback's or a tunnel's state is UNKNOWN while it works.
            up = interface.get("operstate") in {"UP", "UNKNOWN"}
            for address in interface.get("addr_info", ()):
                found[str(address["local"])] = up
    except (ValueError, TypeError, AttributeError, KeyError) as err:
        message = f"ip -j addr printed {text[:80]!a}"
        raise NotChecked(message) from err
    return found


# What a policy's portals are for with the exporter tgt.
_TGTD: Final = "tgtd"


def _check_listeners(machine: Machine, wanted: list[Portal]) -> Iterator[Finding]:
    """Say which process listens at a portal: LIO does so in the kernel, and no process holds its socket."""
    ports = {int(portal.rpartition(":")[2]) for portal in wanted}
    addresses = {portal.rpartition(":")[0].strip("[]") for portal in wanted} | {"0.0.0.0", "::"}  # noqa: S104 - compared
    listening = {}
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in (machine.find_text(f"/proc/net/{table}") or "").splitlines()[1:]:
            fields = line.split()
            address, _, port = fields[1].partition(":")
            if fields[3] == _LISTENING and int(port, 16) in ports and _decoded(address, family) in addresses:
                listening[fields[9]] = f"{_decoded(address, family)} port {int(port, 16)}"
    hidden = False
    for pid in filter(str.isdigit, machine.names("/proc")) if listening else ():
        try:
            held = _sockets(machine, pid)
        except NotChecked:
            hidden = True
            continue
        for inode in sorted(held & listening.keys()):
            name = (machine.find_text(f"/proc/{pid}/comm") or "?").strip()
            message = f"{name} (process {pid}) listens there: LIO and nvmet cannot"
            if name == _TGTD:
                remedy = "right where target_helper is tgtadm; else: sudo systemctl disable --now tgt"
                yield PORTALS.note(listening[inode], message, remedy)
            else:
                yield PORTALS.failure(
                    listening[inode], f"{message}, and no volume can be exported", f"ps -fp {pid}"
                )
    if hidden:
        message = "whether a process or the kernel listens at our ports can only root tell"
        yield PORTALS.unknown("ports", message, "sudo zolder-san check")


def _sockets(machine: Machine, pid: str) -> set[str]:
    links = [machine.find_link(f"/proc/{pid}/fd/{name}") for name in machine.names(f"/proc/{pid}/fd")]
    return {found[1] for link in links if link and (found := _SOCKET.fullmatch(link))}


def _decoded(address: str, family: socket.AddressFamily) -> str:
    """Return an address of /proc/net/tcp as people write it: words of 32 bits in this machine's order."""
    words = [bytes.fromhex(address[at : at + 8]) for at in range(0, len(address), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    with suppress(ValueError):
        return socket.inet_ntop(family, packed)
    return ""
