"""Why an exporter cannot listen at a portal: this machine lacks the address, or somebody else has the port.

tgtd says the same of both, so the kernel's own lists in /proc/net are read: the helper's unit keeps it from
sockets that could ask (zolder.san.setup.units). Looked at only behind a refusal: whether a portal can be had
is for the exporter to say, and LIO listens at an address before it is there (seen on 6.12). An error that
names its ``portal`` in its details is what a restore can do without (zolder.san.rebuild).
Sources: fib_trie_seq_show() in net/ipv4/fib_trie.c and if6_seq_show() in net/ipv6/addrconf.c of Linux.
"""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Final

from zolder.errors import BackendError
from zolder.names import Portal

_NET: Final = Path("/proc/net")
_IPV4_BITS: Final = 32
# IFA_F_DADFAILED and IFA_F_TENTATIVE: nobody can listen there (yet).
_UNUSABLE: Final = 0x08 | 0x40


def has_address(portal: Portal, *, net: Path = _NET) -> bool:
    """Say whether a portal's address is this machine's, or cannot be told."""
    address = portal.rpartition(":")[0]
    try:
        if address.startswith("["):
            packed = socket.inet_pton(socket.AF_INET6, address.strip("[]"))
            return not any(packed) or _has_ipv6(packed.hex(), (net / "if_inet6").read_text())
        number = int.from_bytes(socket.inet_pton(socket.AF_INET, address), "big")
        return number == 0 or _has_ipv4(number, (net / "fib_trie").read_text())
    except FileNotFoundError:
        return not address.startswith("[")  # a kernel without IPv6 has no list of it
    except OSError:
        return True


def taken(exporter: str, portal: Portal, other: str) -> BackendError:
    """Return the error of an exporter at whose portal somebody else listens.

    :param other: a program that may have the port.
    """
    message = (
        f"{exporter} cannot listen at {portal}: another program, such as {other}, holds the port;"
        " `ss -ltnp` shows a program's name and nothing for the kernel"
    )
    return BackendError(message, portal=portal, errno=errno.EADDRINUSE)


def refused(exporter: str, portal: Portal, other: str) -> BackendError:
    """Return the error of an exporter that was refused a portal, for whichever reason.

    :param other: as for `taken`.
    """
    if has_address(portal):
        return taken(exporter, portal, other)
    message = f"{exporter} cannot listen at {portal}: this machine does not have that address"
    return BackendError(message, portal=portal, errno=errno.EADDRNOTAVAIL)


def _has_ipv4(number: int, trie: str) -> bool:
    """Look for an address among the local ones of all tables: a leaf, then what it is, with its length."""
    leaf = 0
    for line in trie.splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            leaf = int.from_bytes(socket.inet_pton(socket.AF_INET, words[1]), "big")
        elif words[2:3] == ["LOCAL"]:
            others = _IPV4_BITS - int(words[0].removeprefix("/"))
            if number >> others == leaf >> others:
                return True
    return False


def _has_ipv6(digits: str, interfaces: str) -> bool:
    # Address, interface, length, scope, flags, name.
    rows = (line.split() for line in interfaces.splitlines())
    return any(row[0] == digits and not int(row[4], 16) & _UNUSABLE for row in rows)
