"""The ports that exports over NVMe are reached at: whose they are, and that none is ever removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit import nvmet_export
from tests.unit.nvmet_export import (
    ALICE,
    NQN,
    PORTALS,
    PORTS,
    PREFIX,
    SECRET,
    SUBJECT,
    SUBSYSTEM,
    make_root,
    seen_in,
    steps_of_export,
)
from tests.unit.nvmet_tree import NvmetTree
from zolder.errors import BackendError
from zolder.names import Portal
from zolder.san.nvmet import Nvmet
from zolder.san.nvmet_port import _numbers

root, dev = nvmet_export.root, nvmet_export.dev
ensure, nvmet = nvmet_export.ensure, nvmet_export.nvmet


def test_a_port_of_somebody_else_at_the_address_is_used_and_stays(
    root: Path, nvmet: Nvmet, ensure: Callable[..., bool]
) -> None:
    """A port of the very address, in whatever spelling, is linked into, never changed, never removed."""
    foreign_port(root, "1", "192.0.2.1")
    foreign_port(root, "2", "2001:db8:0::1", family="ipv6")
    before = seen_in(root)
    assert ensure() is True
    seen = seen_in(root)
    assert [name for name, text in seen.items() if name.startswith("ports/") and text.startswith("->")] == [
        f"ports/1/subsystems/{NQN}",
        f"ports/2/subsystems/{NQN}",
    ]
    assert nvmet.list_exports(PREFIX)[0].portals == tuple(sorted(PORTALS))
    assert nvmet.remove_export(SUBJECT) is True
    assert seen_in(root) == before


def foreign_port(root: Path, number: str, address: str, *, family: str = "ipv4") -> None:
    """Make a port as an administrator would."""
    foreign = NvmetTree(root)
    foreign.make_folder(f"ports/{number}")
    for name, value in (("trtype", "tcp"), ("adrfam", family), ("traddr", address), ("trsvcid", "4420")):
        foreign.write(f"ports/{number}/addr_{name}", value)


def test_a_port_that_is_open_beside_ours_is_used(root: Path, ensure: Callable[..., bool]) -> None:
    """Where our own port of an address lost the socket to another's of the same address, that one serves."""
    number = _numbers(PORTALS[0])[0]
    foreign_port(root, number, "192.0.2.1")
    foreign_port(root, "1", "192.0.2.1")
    foreign = NvmetTree(root)
    foreign.make_folder("subsystems/nqn.2014-08.org.elsewhere:theirs")
    foreign.make_link(
        "ports/1/subsystems/nqn.2014-08.org.elsewhere:theirs", "subsystems/nqn.2014-08.org.elsewhere:theirs"
    )
    assert ensure(portals=PORTALS[:1]) is True
    assert (root / "ports/1/subsystems" / NQN).is_symlink()


def test_a_taken_number_leads_to_the_next(root: Path, nvmet: Nvmet, ensure: Callable[..., bool]) -> None:
    """A port of another address with our number is left, and ours is made beside it and goes again."""
    first, second, *_ = _numbers(PORTALS[0])
    foreign_port(root, first, "198.51.100.7")
    before = seen_in(root)
    ensure(portals=PORTALS[:1])
    assert (root / f"ports/{second}/subsystems" / NQN).is_symlink()
    assert ensure(portals=PORTALS[:1]) is False
    nvmet.remove_export(SUBJECT)
    assert seen_in(root) == before


def test_no_port_is_ever_removed(tmp_path: Path, dev: Path, ensure: Callable[..., bool]) -> None:
    """Another process may be linking into a port just now, and the kernel would not survive its removal."""
    steps_to_refuse = range(steps_of_export(ensure, tmp_path))
    trees = [NvmetTree(make_root(tmp_path / f"refused-{step}"), refuse_at=step) for step in steps_to_refuse]
    for tree in trees:
        with pytest.raises(BackendError, match="ENOMEM"):
            ensure(tree=tree, chap=SECRET)
    last = NvmetTree(make_root(tmp_path / "last"))
    ensure(tree=last)
    Nvmet(dev=dev, tree=last).remove_initiator(SUBJECT, ALICE)
    ensure(tree=last)
    Nvmet(dev=dev, tree=last).remove_export(SUBJECT)
    steps = [step for tree in (*trees, last) for step in tree.steps]
    assert f"rmdir {SUBSYSTEM}" in steps
    assert not [step for step in steps if step.startswith("rmdir ports/")]
    assert not [
        path for tree in (*trees, last) for path in (tree.root / "ports").rglob("*") if path.is_symlink()
    ]


def test_a_shut_port_is_used_again(root: Path, nvmet: Nvmet, ensure: Callable[..., bool]) -> None:
    """A port that the last export left is the next one's, so their number does not grow."""
    ensure()
    nvmet.remove_export(SUBJECT)
    left = sorted(path.name for path in (root / "ports").iterdir())
    assert len(left) == len(PORTALS)
    ensure()
    assert sorted(path.name for path in (root / "ports").iterdir()) == left


@pytest.mark.parametrize("moment", ["link", "write"])
def test_a_port_that_is_removed_meanwhile_is_made_again(
    root: Path, ensure: Callable[..., bool], moment: str
) -> None:
    """An administrator may remove a port just before we link into it: then it is made anew."""
    tree = NvmetTree(root)
    removed: list[str] = []

    def remove_once(step: str) -> None:
        if step.startswith(f"{moment} {PORTS[0]}/") and not removed:
            removed.append(step)
            NvmetTree(root).remove_folder(PORTS[0])

    tree.before = remove_once
    assert ensure(tree=tree) is True
    assert removed
    assert tree.find_link(f"{PORTS[0]}/subsystems/{NQN}") == SUBSYSTEM


@pytest.mark.parametrize(
    ("attribute", "match"),
    [("held", r"cannot listen at 192\.0\.2\.1:4420: another"), ("foreign", "this machine does not have")],
)
def test_an_address_that_cannot_be_had_is_named(
    root: Path, ensure: Callable[..., bool], attribute: str, match: str
) -> None:
    """Where a program holds an address, or the machine lacks it, the error says so; nothing is left."""
    pristine = seen_in(root)
    tree = NvmetTree(root)
    getattr(tree, attribute).add("192.0.2.1 4420")
    with pytest.raises(BackendError, match=match) as caught:
        ensure(tree=tree)
    assert caught.value.details["portal"] == "192.0.2.1:4420"
    assert seen_in(root) == pristine


def test_portals_are_exactly_those_asked_for(root: Path, nvmet: Nvmet, ensure: Callable[..., bool]) -> None:
    """A portal that is no longer asked for goes; a new one is added to a live subsystem."""
    ensure()
    third = Portal("198.51.100.7:4420")
    assert ensure(portals=(PORTALS[0], third)) is True
    assert nvmet.list_exports(PREFIX)[0].portals == (PORTALS[0], third)
    assert not list((root / PORTS[1] / "subsystems").iterdir())
