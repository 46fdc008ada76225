"""Who is to reach a zvol, and how: what stands in the zvol's own property and decides.

An export is opened once for each of its attachments and goes with the last; an initiator is shut out with the
last of its own. The attachments are counted by name, so a repeat counts once and two that end at the same
moment leave nothing. Pure values: reading and writing them is zolder.san.records' part. No secrets.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from zolder.errors import Busy, InvalidRequest
from zolder.model import Access, Route
from zolder.names import AttachmentId, InitiatorName, ZvolName
from zolder.shapes import decode, encode

# zfs(8): a user property's value is shorter than 8192 bytes.
_LONGEST_BYTES = 8191


@dataclass(frozen=True, slots=True)
class Grant:
    """One initiator's attachments. ``unnamed`` is the one without an id; ``chap`` asks for a secret."""

    initiator: InitiatorName
    attachments: tuple[AttachmentId, ...]
    unnamed: bool
    chap: bool


@dataclass(frozen=True, slots=True)
class Wish:
    """An export as it is to be."""

    route: Route
    grants: tuple[Grant, ...] = ()

    @property
    def initiators(self) -> tuple[InitiatorName, ...]:
        """Who may reach it, sorted."""
        return tuple(grant.initiator for grant in self.grants)

    def find(self, initiator: InitiatorName) -> Grant | None:
        """Return what an initiator has of it."""
        return next((grant for grant in self.grants if grant.initiator == initiator), None)


def add(
    wish: Wish | None, route: Route, initiator: InitiatorName, attachment: AttachmentId | None, *, chap: bool
) -> Wish:
    """Return the wish with one attachment more; what it has already counts once.

    Portals that others were told of stay as long as they are attached.

    :param wish: what has been wished until now; None for nothing.
    :raises Busy: others have it over another exporter, or under another target's name.
    """
    if wish is None or not wish.grants:
        wish = Wish(route)
    elif (wish.route.exporter, wish.route.prefix) != (route.exporter, route.prefix):
        message = (
            f"in use by {', '.join(wish.initiators)} over {wish.route.exporter} under {wish.route.prefix}:"
            f" over {route.exporter} under {route.prefix} it can be had once they have detached"
        )
        raise Busy(message, holders=list(wish.initiators))
    portals = tuple(dict.fromkeys((*route.portals, *wish.route.portals)))
    grant = wish.find(initiator) or Grant(initiator, (), unnamed=False, chap=chap)
    if attachment is None:
        grant = replace(grant, unnamed=True, chap=chap)
    else:
        grant = replace(grant, attachments=tuple(sorted({*grant.attachments, attachment})), chap=chap)
    return Wish(replace(wish.route, portals=portals), _with(wish, grant))


def remove(wish: Wish, initiator: InitiatorName, attachment: AttachmentId | None) -> Wish:
    """Return the wish without one attachment; one that it does not have changes nothing."""
    grant = wish.find(initiator)
    if grant is None:
        return wish
    if attachment is None:
        grant = replace(grant, unnamed=False)
    else:
        grant = replace(grant, attachments=tuple(held for held in grant.attachments if held != attachment))
    return replace(wish, grants=_with(wish, grant))


def accesses_of(zvol: ZvolName, wish: Wish) -> list[Access]:
    """Return the attachments that a zvol's wish counts, sorted."""
    found = []
    for grant in wish.grants:
        uses: tuple[AttachmentId | None, ...] = (*((None,) if grant.unnamed else ()), *grant.attachments)
        found += [Access(zvol, grant.initiator, attachment) for attachment in uses]
    return found


def write_wish(wish: Wish) -> str:
    """Return a wish as the text of a property.

    :raises InvalidRequest: it has more attachments than a property has room for.
    """
    text = json.dumps(encode(wish), separators=(",", ":"))
    if len(text) > _LONGEST_BYTES:
        message = f"{len(wish.grants)} initiators with their attachments are more than a zvol can record"
        raise InvalidRequest(message)
    return text


def read_wish(text: str) -> Wish:
    """Return the wish that a property's text says.

    :raises InvalidRequest: it is none.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as err:
        message = f"no record of an export: {type(err).__name__}"
        raise InvalidRequest(message) from err
    wish: Wish = decode(Wish, value)
    # Whoever is let in shows in `accesses_of`, and `find` finds all that an initiator has.
    if any(not grant.attachments and not grant.unnamed for grant in wish.grants):
        message = "no record of an export: an initiator without attachments"
        raise InvalidRequest(message)
    if len(set(wish.initiators)) < len(wish.grants):
        message = "no record of an export: an initiator is named twice"
        raise InvalidRequest(message)
    return wish


def _with(wish: Wish, grant: Grant) -> tuple[Grant, ...]:
    others = (held for held in wish.grants if held.initiator != grant.initiator)
    used = (grant,) if grant.attachments or grant.unnamed else ()
    return tuple(sorted((*others, *used), key=lambda held: held.initiator))
