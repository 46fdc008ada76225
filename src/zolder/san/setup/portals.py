"""Where targets listen: what an administrator wrote, or else every global address of this machine."""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Final

from zolder.errors import InvalidRequest
from zolder.names import Portal
from zolder.san.setup.host import Host, SetupError

PORT: Final = 3260
_WITH_PORT: Final = re.compile(r"(\[[^\]]*\]|[^:\[\]]*):([0-9]+)")
# An address that is about to go, is not ours yet, or changes every day is none that an initiator is told.
_PASSING: Final = ("temporary", "deprecated", "tentative", "dadfailed")


def parse_portal(text: str) -> Portal:
    """Return a portal from ADDRESS or ADDRESS:PORT; an IPv6 address with a port stands in brackets.

    :raises SetupError: it is none.
    """
    with_port = _WITH_PORT.fullmatch(text)
    address, port = (with_port[1], with_port[2]) if with_port else (text, str(PORT))
    bracketed = address.startswith("[") and address.endswith("]")
    try:
        return _portal(ipaddress.ip_address(address[1:-1] if bracketed else address), port)
    except (ValueError, InvalidRequest) as err:
        message = f"--portal {text!r:.80}: 192.0.2.1, 192.0.2.1:3260 or [2001:db8::1]:3260 is the form"
        raise SetupError(message) from err


def _portal(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: str) -> Portal:
    host = f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004 - IPv6
    return Portal(f"{host}:{port}")


def own_portals(host: Host) -> tuple[Portal, ...]:
    """Return a portal for each global address of this machine, in the order in which ip(8) lists them.

    :raises SetupError: it has none.
    """
    try:
        links = json.loads(host.call(["ip", "-j", "addr"]))
        found = {
            _portal(ipaddress.ip_address(entry["local"]), str(PORT)): None
            for link in links
            for entry in link.get("addr_info", [])
            if entry.get("scope") == "global" and not any(entry.get(flag) for flag in _PASSING)
        }
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        message = (
            "ip(8) does not say which addresses this machine has: say where targets listen with --portal"
        )
        raise SetupError(message) from err
    if not found:
        message = "this machine has no global address: say where targets listen with --portal"
        raise SetupError(message)
    return tuple(found)
