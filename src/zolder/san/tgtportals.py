"""Where tgtd listens: for all its targets alike, so portals are added and never taken away.

Not locked: two callers that miss the same portal at once both ask for it, and the second one is told that it
cannot be had, which is looked into once more. Source: usr/iscsi/iscsi_tcp.c of tgt 1.0.85.
"""

from __future__ import annotations

import re

from zolder.errors import InvalidRequest
from zolder.names import Portal
from zolder.san.addresses import refused
from zolder.san.tgtd import Mode, Op, Refusal, Request, Tgtd

_PORTAL = re.compile(r"^Portal: (.+),\d+$", re.MULTILINE)


def ensure_portals(tgtd: Tgtd, portals: tuple[Portal, ...]) -> bool:
    """Have tgtd listen at portals, or at their port of all addresses; return whether any was added.

    :raises BackendError: it cannot listen at one of them.
    """
    missing = _missing(tgtd, portals)
    for portal in missing:
        request = Request(Mode.PORTAL, Op.NEW, parameters=f"portal={portal}")
        if not tgtd.ask(request, Refusal.INVALID_REQUEST).done and _missing(tgtd, (portal,)):
            refusal = refused("tgtd", portal, "LIO")
            raise refusal
    return bool(missing)


def list_portals(tgtd: Tgtd) -> tuple[Portal, ...]:
    """Return where tgtd listens, sorted; what others spelled in another way is left out."""
    return tuple(sorted(portal for text in _listening(tgtd) if (portal := _portal(text))))


def _missing(tgtd: Tgtd, portals: tuple[Portal, ...]) -> list[Portal]:
    listening = _listening(tgtd)
    return [portal for portal in portals if not listening & {portal, _anywhere(portal)}]


def _listening(tgtd: Tgtd) -> set[str]:
    return set(_PORTAL.findall(tgtd.ask(Request(Mode.PORTAL, Op.SHOW)).text))


def _anywhere(portal: Portal) -> str:
    host, _, port = portal.rpartition(":")
    return f"[::]:{port}" if host.startswith("[") else f"0.0.0.0:{port}"


def _portal(text: str) -> Portal | None:
    try:
        return Portal(text)
    except InvalidRequest:
        return None
