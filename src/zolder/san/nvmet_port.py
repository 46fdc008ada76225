"""Where nvmet listens: ports of TCP, shared by all subsystems, ours and others'.

A port of the very address that is asked for is used, whoever made it, and its attributes are never changed;
one is made only where there is none. Linking opens its socket with the first subsystem; unlinking ends that
subsystem's controllers at the port and closes the socket with the last (nvmet_port_subsys_allow_link and
_drop_link). A port is never removed, not even one just made: a symlink(2) into a port that another process
removes dereferences NULL in the kernel while it holds nvmet's one lock, and only a reboot helps then (seen
on 6.12 with three exports coming and going at once). A port without links is shut and costs nothing.
Ports are few, and each holds many links: the links of a port are never listed to find one.
Source: drivers/nvme/target/configfs.c and tcp.c, fs/configfs/symlink.c in the Linux tree.
"""

from __future__ import annotations

import errno
import socket
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from zolder.errors import BackendError, InvalidRequest
from zolder.names import MAX_PORT, Portal
from zolder.san.configfs import Build, ConfigFs

# nvmet takes a port's number as 16 bits (nvmet_ports_make); 0 is left out.
_MOST_PORTS: Final = 65535
# How many numbers an address may have: two addresses of one SAN hardly ever have one in common.
_NUMBERS: Final = 8
_ATTEMPTS: Final = 20

# An administrator removed the port, or another process opened it while its address was being written: an open
# one takes none (seen on 6.12).
_RACES: Final = frozenset({errno.ENOENT, errno.ENODEV, errno.EACCES})

_FAMILIES: Final = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}


def ensure_listening(build: Build, nqn: str, portals: Iterable[Portal]) -> None:
    """Have a subsystem reached at these portals and no others.

    :raises BackendError: the kernel refuses one; where it cannot listen there, the message says what to do,
        and the details name the ``portal``.
    """
    wanted = {_listen(build, nqn, portal) for portal in portals}
    for number in build.tree.folders("ports"):
        if number not in wanted:
            build.changed |= build.tree.remove_link(f"ports/{number}/subsystems/{nqn}")


def stop_listening(tree: ConfigFs, nqn: str) -> bool:
    """Unlink a subsystem from every port, which ends its controllers; return whether it was linked.

    :raises BackendError: the kernel refuses a step.
    """
    unlinked = [tree.remove_link(f"ports/{number}/subsystems/{nqn}") for number in tree.folders("ports")]
    return any(unlinked)


def portals_by_port(tree: ConfigFs) -> dict[str, Portal]:
    """Return the ports of TCP that have an address.

    :raises BackendError: the tree cannot be read.
    """
    found = ((number, _find_portal(tree, number)) for number in tree.folders("ports"))
    return {number: portal for number, portal in found if portal}


def _listen(build: Build, nqn: str, portal: Portal) -> str:
    """Link a subsystem into a port of that address; return the port's number."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return _listen_once(build, nqn, portal)
        except BackendError as err:
            if err.details["errno"] not in _RACES:
                raise
    return _listen_once(build, nqn, portal)


def _listen_once(build: Build, nqn: str, portal: Portal) -> str:
    for number in _candidates(build, portal):
        try:
            build.link(f"ports/{number}/subsystems/{nqn}", f"subsystems/{nqn}")
        except BackendError as err:
            # Another port of the same address may be the one that is open.
            if err.details["errno"] == errno.EADDRINUSE:
                continue
            if err.details["errno"] == errno.EADDRNOTAVAIL:
                message = f"nvmet cannot listen at {portal}: this machine does not have that address"
                raise BackendError(message, portal=portal, errno=errno.EADDRNOTAVAIL) from err
            raise
        return number
    message = (
        f"nvmet cannot listen at {portal}: another program, or an nvmet port of another address such as"
        " 0.0.0.0, holds it; `ss -ltnp` shows a program's name and nothing for nvmet"
    )
    raise BackendError(message, portal=portal, errno=errno.EADDRINUSE)


def _candidates(build: Build, portal: Portal) -> Iterator[str]:
    """Yield the ports of an address, our own first, one at least; others are looked for only when needed."""
    tree = build.tree
    own = next((number for number in _numbers(portal) if _find_portal(tree, number) == portal), None)
    if own:
        yield own
    others = [number for number in tree.folders("ports") if number != own]
    others = [number for number in others if _find_portal(tree, number) == portal]
    yield from others
    if not own and not others:
        yield _make_port(build, portal)


def _make_port(build: Build, portal: Portal) -> str:
    """Make a port of our own, or complete one that was made by half."""
    address, _, service = portal.rpartition(":")
    attributes = {
        "trtype": "tcp",
        "adrfam": "ipv6" if address.startswith("[") else "ipv4",
        "traddr": address.strip("[]"),
        "trsvcid": service,
    }
    for number in _numbers(portal):
        # Not by `build`, which would remove it again.
        build.changed |= build.tree.make_folder(f"ports/{number}")
        standing = {name: build.tree.read(f"ports/{number}/addr_{name}") for name in attributes}
        if all(standing[name] in {"", value} for name, value in attributes.items()):
            for name, value in attributes.items():
                build.attribute(f"ports/{number}/addr_{name}", value)
            return number
    message = f"nvmet: the ports {', '.join(_numbers(portal))} are all taken by other addresses than {portal}"
    raise BackendError(message, errno=errno.EEXIST)


def _numbers(portal: Portal) -> tuple[str, ...]:
    """Return the numbers that our port of an address may have, the likeliest first."""
    first = zlib.crc32(portal.encode())
    return tuple(str((first + step) % _MOST_PORTS + 1) for step in range(_NUMBERS))


def _find_portal(tree: ConfigFs, number: str) -> Portal | None:
    """Return a port's address in its one spelling; None where it is absent, has none or is not of TCP."""
    if tree.find(f"ports/{number}/addr_trtype") != "tcp":
        return None
    family = _FAMILIES.get(tree.find(f"ports/{number}/addr_adrfam") or "")
    address = tree.find(f"ports/{number}/addr_traddr") or ""
    service = tree.find(f"ports/{number}/addr_trsvcid") or ""
    if family is None or not service.isdecimal() or not 0 < int(service) <= MAX_PORT:
        return None
    try:
        spelled = socket.inet_ntop(family, socket.inet_pton(family, address))
        return Portal(f"[{spelled}]:{service}" if family == socket.AF_INET6 else f"{spelled}:{service}")
    except (OSError, InvalidRequest):
        return None  # made by somebody else: Zolder listens at checked addresses only
