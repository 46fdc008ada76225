from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest

from bench import table
from bench.__main__ import VERBS
from bench.commands import draft_commands, zfs_commands
from bench.table import WAYS, Results
from bench.ways import Step


def results(**ms: float) -> Results:
    """Return a run in which every step of a way took the same time, but for one that was disturbed."""
    found = Results()
    for verb in VERBS:
        for way in WAYS:
            for factor in (1, 1, 9):
                found.add(verb, way, Step(ms[way] * factor, 1, 2))
    return found


def test_medians(tmp_path: Path) -> None:
    """The file has the medians of every verb and way, so that one disturbed step does not show."""
    with mock.patch.object(table, "RESULTS", tmp_path / "results.json"):
        results(bare=90, library=100, command=200, draft=300, driver=110).write()
    written = (tmp_path / "results.json").read_text()
    assert '"library_ms": 100' in written
    assert '"requests": 1' in written
    assert all(f'"{verb}"' in written for verb in VERBS)


@pytest.mark.parametrize(
    ("driver", "missed"), [(110, []), (149, ["the limit"] * len(VERBS)), (160, ["the limit", "the draft's"])]
)
def test_bars(driver: float, missed: list[str]) -> None:
    """A driver that takes more than a quarter beyond the limit, or half of the draft's time, is told so."""
    found = results(bare=90, library=100, command=200, draft=300, driver=driver).missed_bars()
    assert bool(found) == bool(missed)
    assert all(any(bar in line for line in found) for bar in missed)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_commands(verb: str) -> None:
    """The draft does what the command line does, and looks first where it deletes."""
    plain, draft = zfs_commands(verb, "data/volumes/bench-7"), draft_commands(verb, "data/volumes/bench-7")
    assert set(plain) <= set(draft)
    assert (len(draft) > len(plain)) == ("delete" in verb)


def test_what_the_driver_does_alone(tmp_path: Path) -> None:
    """It has no bar to miss and a table of its own; a count keeps what else stands."""
    found = Results()
    found.add("manage", "driver", Step(7, 2, 3))
    with mock.patch.object(table, "RESULTS", tmp_path / "results.json"):
        (tmp_path / "results.json").write_text(
            '{"manage": {"driver_ms": 250.5, "requests": 9}, "create": {"driver_ms": 1}}'
        )
        found.write(only_counts=True)
        assert json.loads((tmp_path / "results.json").read_text()) == {
            "manage": {"driver_ms": 250.5, "requests": 2, "processes": 3},
            "create": {"driver_ms": 1},
        }
    assert found.missed_bars() == []
    assert found.table().splitlines()[-1].split() == ["manage", "7", "2,", "3"]
