"""``zolder-san restore``: its words, what it says, and its exit status."""

from __future__ import annotations

import argparse
import json

import pytest

from tests.unit import restored_san
from tests.unit.restored_san import CHAP, CINDER, FASTER, ONE, PORTAL, SHARED, SPEEDY, World, wish
from zolder.san import restore_command
from zolder.san.policy import Policy

world = restored_san.world


def call(world: World, *words: str, policies: tuple[Policy, ...] = (CINDER, SPEEDY)) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser()
    restore_command.add_parser(parser.add_subparsers(dest="command", required=True))
    return restore_command.run(parser.parse_args(["restore", *words]), world.san, policies)


def test_command(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """All in place is exit status 0 and a line for each parent."""
    world.add_zvol("v1", wish((ONE, False)))
    assert call(world) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == ["data/volumes: 1 exports, 1 built", "fast/volumes: 0 exports, 0 built"]
    assert said.err == ""


def test_command_says_what_is_not(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """What is not in place is exit status 1 and named: the zpool, the secret, the portals."""
    world.add_zvol("v1", wish((ONE, True)))
    world.export_zpool("fast")
    assert call(world, "--wait", "0") == 1
    said = capsys.readouterr()
    assert "fast/volumes: not restored\n" in said.out
    assert f"data/volumes/v1 stays shut to {ONE}: its CHAP secret is not here yet" in said.err
    assert "still shut to new connections: 192.0.2.3:4420\n" in said.err
    assert CHAP.secret not in said.out + said.err


def test_command_json(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json standard output is one object with the same."""
    world.add_zvol("v1", wish((ONE, True)))
    assert call(world, "--wait=0", "--json", "--pool=data") == 1
    assert json.loads(capsys.readouterr().out) == {
        "complete": False,
        "parents": [
            {
                "parent": "data/volumes",
                "exports": 1,
                "built": 0,
                "withdrawn": 0,
                "waiting": [["data/volumes/v1", str(ONE)]],
                "faults": [],
            }
        ],
        "shut": [],
        "faults": [],
    }


def test_shut_only(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the network is up all portals are shut, and nothing else is done."""
    world.add_zvol("v1", wish((ONE, False)))
    assert call(world, "--shut-only") == 0
    assert (capsys.readouterr().out, world.targets) == ("3 portals are shut\n", {})
    assert len(world.nft.shut) == 3
    assert call(world, "--shut-only", "--json") == 0
    assert json.loads(capsys.readouterr().out)["shut"] == [PORTAL, SHARED, FASTER]


def test_shut_only_without_nft(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a packet filter there is nothing to shut with, which fails."""
    world.nft.installed = False
    assert call(world, "--shut-only") == 1
    assert "install the package nftables" in capsys.readouterr().err


def test_nothing_to_restore(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """A SAN without identities has nothing to restore and nothing to shut."""
    assert call(world, policies=()) == 0
    assert world.nft.scripts == []
    assert capsys.readouterr().out == ""


def test_wrong_usage(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """A zpool that no identity has a parent in, or no number of seconds, is exit status 2."""
    assert call(world, "--pool", "tank") == 2
    for seconds in ("soon", "-1", "nan", "1e9"):
        with pytest.raises(SystemExit) as caught:
            call(world, f"--wait={seconds}")
        assert caught.value.code == 2
    assert "no identity exports anything in zpool tank" in capsys.readouterr().err


def test_cut_short(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever stops it while it waits is told that portals may be shut."""

    def stop() -> None:
        raise KeyboardInterrupt

    world.each_pause = stop
    world.add_zvol("v1", wish((ONE, True)))
    assert call(world) == 1
    assert "portals may be shut still" in capsys.readouterr().err
