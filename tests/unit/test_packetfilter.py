from __future__ import annotations

import sys

import pytest

from tests.unit.nft_model import RECORDED, Nft
from zolder.errors import BackendError
from zolder.names import Portal
from zolder.san.packetfilter import PacketFilter
from zolder.san.run import Finished, run

FOUR = Portal("192.0.2.1:3260")
OTHER = Portal("192.0.2.1:4420")
SIX = Portal("[2001:db8::1]:3260")


def test_shut_and_open() -> None:
    """Portals of both kinds are shut and opened one by one; the table goes with the last."""
    nft = Nft()
    packet_filter = PacketFilter(nft)
    assert packet_filter.list_shut() == ()
    packet_filter.shut([FOUR, SIX])
    packet_filter.shut([OTHER])
    assert packet_filter.list_shut() == (FOUR, OTHER, SIX)
    assert nft.shut == ["192.0.2.1 . 3260", "192.0.2.1 . 4420", "2001:db8::1 . 3260"]
    packet_filter.open([FOUR, OTHER])
    assert packet_filter.list_shut() == (SIX,)
    packet_filter.open([SIX])
    assert (packet_filter.list_shut(), nft.four) == ((), None)


def test_nothing_to_change() -> None:
    """What is open already, or nothing at all, is no reason to load anything."""
    nft = Nft()
    packet_filter = PacketFilter(nft)
    packet_filter.shut([])
    packet_filter.open([FOUR])
    assert nft.scripts == []
    packet_filter.shut([FOUR])
    packet_filter.open([SIX])
    assert len(nft.scripts) == 1


def test_shut_again_is_whole() -> None:
    """Shutting what is shut already loads the whole table anew, in case somebody changed its rules."""
    nft = Nft()
    packet_filter = PacketFilter(nft)
    packet_filter.shut([FOUR])
    packet_filter.shut([FOUR])
    assert nft.scripts[0] == nft.scripts[1]


def test_only_our_table() -> None:
    """No text that is loaded names a table but ours."""
    nft = Nft()
    packet_filter = PacketFilter(nft)
    packet_filter.shut([FOUR, SIX])
    packet_filter.open([FOUR, SIX])
    named = [line for script in nft.scripts for line in script.splitlines() if "table" in line]
    assert {line.removesuffix(" {") for line in named} == {"table inet zolder", "delete table inet zolder"}


def test_not_installed() -> None:
    """Without nft the package is named that has it."""
    with pytest.raises(BackendError, match="install the package nftables"):
        PacketFilter(Nft(installed=False)).shut([FOUR])


def test_refused() -> None:
    """What the kernel says against it is passed on."""
    nft = Nft()
    nft.refuses = True
    with pytest.raises(BackendError, match="Operation not supported"):
        PacketFilter(nft).shut([FOUR])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"192.0.2.1", 4420', '"192.0.2.1"', "nft delete table inet zolder"),
        ('{"concat": ["192.0.2.1", 4420]}', '"192.0.2.1"', "nft delete table inet zolder"),
        ('"192.0.2.1", 4420', '"everywhere", 4420', "nft delete table inet zolder"),
        ('{"nftables"', '{"tables"', "nft -j list table inet zolder printed"),
        ('{"nftables"', '"nftables"', "nft -j list table inet zolder printed"),
    ],
)
def test_another_table_of_that_name(old: str, new: str, says: str) -> None:
    """A table of our name that is not as we make it is said to be so, with the way out."""

    def spoilt(argv: list[str], *, text: str | None = None) -> Finished:
        assert text is None
        name = "list-table" if argv[3] == "table" else "list-tables"
        said = (RECORDED / f"{name}.json").read_text()
        if name == "list-table":
            assert old in said
            said = said.replace(old, new)
        return Finished(tuple(argv), 0, said, "")

    with pytest.raises(BackendError, match=says):
        PacketFilter(spoilt).list_shut()


def test_text_for_a_program() -> None:
    """A program reads the text that it is given, or nothing."""
    program = [sys.executable, "-c", "import sys; print(repr(sys.stdin.read()))"]
    assert run(program, text="a\nb").stdout == "'a\\nb'\n"
    assert run(program).stdout == "''\n"
