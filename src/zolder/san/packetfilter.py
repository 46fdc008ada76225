"""The packet filter that keeps initiators away while exports are made: a table of our own in nftables.

The first target that listens at a portal answers there for all, and an initiator that is told "no such
target" gives its disk up for good, while one whose packets are lost tries again. So new connections to a
portal are dropped, never rejected, until all its exports stand. Connections that stand are left alone: a
restore by hand harms nobody who is there. No table but ours is read or changed; each change is one
transaction, whole. The caller sees to it that one process at a time changes it.
Sources: nft(8); a packet dropped in one chain of a hook is seen by no later one, whoever accepts it there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final, Protocol

from zolder.errors import BackendError, InvalidRequest
from zolder.names import Portal
from zolder.san.run import Finished, run

TABLE: Final = "zolder"
# To delete a table that is not there is an error, to add one that is there is none.
_GONE: Final = f"table inet {TABLE}\ndelete table inet {TABLE}\n"
# raw(-300) comes before the tracking of connections, which need not hear of what is dropped.
_RULES: Final = """\
table inet {table} {{
    set portals4 {{ type ipv4_addr . inet_service; {four} }}
    set portals6 {{ type ipv6_addr . inet_service; {six} }}
    chain input {{
        type filter hook input priority -300; policy accept;
        ip daddr . tcp dport @portals4 tcp flags & (syn | ack) == syn drop
        ip6 daddr . tcp dport @portals6 tcp flags & (syn | ack) == syn drop
    }}
}}
"""


class Runner(Protocol):
    """What runs a program: `zolder.san.run.run`."""

    def __call__(self, argv: list[str], *, text: str | None = None) -> Finished:
        """Run it with ``text`` on its standard input."""


class PacketFilter:
    """This machine's."""

    def __init__(self, runner: Runner = run) -> None:
        """Touch nothing yet."""
        self._run = runner

    def shut(self, portals: Iterable[Portal]) -> None:
        """Have new connections to these portals dropped, too.

        :raises BackendError: nft is not installed, or refuses.
        """
        if wanted := {*self.list_shut(), *portals}:
            self._replace(wanted)

    def open(self, portals: Iterable[Portal]) -> None:
        """Let connections to these portals in; the table goes with the last.

        :raises BackendError: nft is not installed, or refuses.
        """
        standing = set(self.list_shut())
        if remaining := standing - set(portals):
            if remaining != standing:
                self._replace(remaining)
        elif standing:
            self._nft(["-f", "-"], _GONE)

    def list_shut(self) -> tuple[Portal, ...]:
        """Return the portals that are shut, sorted.

        :raises BackendError: nft is not installed, or refuses, or shows a table that is not as we make it.
        """
        tables = self._read(["list", "tables", "inet"])
        if not any(entry.get("table", {}).get("name") == TABLE for entry in tables):
            return ()
        listed = self._read(["list", "table", "inet", TABLE])
        try:
            return tuple(
                sorted(
                    _portal(*element["concat"])
                    for entry in listed
                    for element in entry.get("set", {}).get("elem", ())
                )
            )
        except (KeyError, TypeError, AttributeError, InvalidRequest) as err:
            message = f"table inet {TABLE} is not as Zolder makes it: 'nft delete table inet {TABLE}'"
            raise BackendError(message) from err

    def _replace(self, portals: Iterable[Portal]) -> None:
        text = _RULES.format(
            table=TABLE, four=_elements(portals, six=False), six=_elements(portals, six=True)
        )
        self._nft(["-f", "-"], _GONE + text)

    def _read(self, words: list[str]) -> list[Any]:
        said = self._nft(["-j", *words])
        try:
            found = json.loads(said)["nftables"]
        except (ValueError, LookupError, TypeError) as err:
            message = f"nft -j {' '.join(words)} printed {said[:80]!a}"
            raise BackendError(message) from err
        return [entry for entry in found if isinstance(entry, dict)]

    def _nft(self, words: list[str], text: str | None = None) -> str:
        try:
            done = self._run(["nft", *words], text=text)
        except BackendError as err:
            if not isinstance(err.__cause__, FileNotFoundError):
                raise
            message = (
                "this SAN has no nft, which keeps initiators away while exports are made:"
                " install the package nftables"
            )
            raise BackendError(message) from err
        if done.exit_status:
            raise done.error()
        return done.stdout


def _elements(portals: Iterable[Portal], *, six: bool) -> str:
    found = []
    for portal in sorted(portals):
        address, _, port = portal.rpartition(":")
        if address.startswith("[") is six:
            found.append(f"{address.strip('[]')} . {port}")
    # A set without elements has no list of them.
    return f"elements = {{ {', '.join(found)} }}" if found else ""


def _portal(address: str, port: int) -> Portal:
    return Portal(f"[{address}]:{port}" if ":" in address else f"{address}:{port}")
