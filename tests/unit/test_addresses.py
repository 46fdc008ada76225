"""Whether an address is this machine's, by lists in the kernel's form."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from zolder.names import Portal
from zolder.san import addresses
from zolder.san.addresses import has_address, refused

FIB_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        +-- 127.0.0.0/31 1 0 0
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
     +-- 192.0.2.0/24 2 0 2
        +-- 192.0.2.0/30 2 0 2
           |-- 192.0.2.0
              /24 link UNICAST
           |-- 192.0.2.2
              /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
"""
IF_INET6 = """\
20010db8000000000000000000000001 04 40 00 80     eth0
20010db8000000000000000000000002 04 40 00 c0     eth0
20010db8000000000000000000000003 04 40 00 88     eth0
00000000000000000000000000000001 01 80 10 80       lo
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """Return the kernel's lists."""
    (tmp_path / "fib_trie").write_text(FIB_TRIE)
    (tmp_path / "if_inet6").write_text(IF_INET6)
    return tmp_path


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("192.0.2.2", True),
        ("192.0.2.1", False),
        ("192.0.2.0", False),
        ("192.0.2.255", False),
        ("198.51.100.2", False),
        ("127.0.0.7", True),
        ("0.0.0.0", True),  # noqa: S104 - nobody listens
        ("[2001:db8::1]", True),
        ("[2001:db8::2]", False),
        ("[2001:db8::3]", False),
        ("[2001:db8::4]", False),
        ("[::1]", True),
        ("[::]", True),
    ],
)
def test_whose_address_it_is(net: Path, address: str, *, here: bool) -> None:
    """An address is here where it is local to a table or an interface, and no other machine may have it."""
    assert has_address(Portal(f"{address}:3260"), net=net) is here


def test_lists_that_are_not_there(net: Path, tmp_path: Path) -> None:
    """Without IPv6 no such address is here; where nothing can be told, none is said to be missing."""
    (net / "if_inet6").unlink()
    assert has_address(Portal("[2001:db8::1]:3260"), net=net) is False
    assert has_address(Portal("192.0.2.1:3260"), net=tmp_path / "nothing") is True


@pytest.mark.parametrize(
    ("here", "says", "number"),
    [
        (True, "another program, such as LIO, holds the port", errno.EADDRINUSE),
        (False, "this machine does not have that address", errno.EADDRNOTAVAIL),
    ],
)
def test_what_is_said(monkeypatch: pytest.MonkeyPatch, *, here: bool, says: str, number: int) -> None:
    """A refusal names the portal, for people and for a restore, and which of the two it is."""
    monkeypatch.setattr(addresses, "has_address", lambda _: here)
    err = refused("tgtd", Portal("192.0.2.1:3260"), "LIO")
    assert err.message.startswith(f"tgtd cannot listen at 192.0.2.1:3260: {says}")
    assert err.details == {"portal": "192.0.2.1:3260", "errno": number}
