"""docs/support.md against Cinder, the driver and the tests: it can claim nothing that is not so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import support
from zolder.cinder.driver import ZolderDriver


def test_the_page_is_the_tables() -> None:
    """`python -m tools.support` renews it."""
    assert support.PAGE.read_text() == support.page()


def test_the_tables_are_true() -> None:
    """Every verb of Cinder is in them, native is what the driver defines, and each test exists."""
    assert support.faults() == []


def test_a_lie_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb that is left out, called native and not defined, defined and not native, or without its test."""
    tables = {
        "Volumes": {
            "create_volume": support.generic("it is not"),
            "failover": support.native("driver/test_stats.py::test_the_figures_are_the_sans"),
            "delete_volume": support.native("driver/test_stats.py::test_that_nobody_wrote"),
            "extend_volume": support.native(),
            "fly": support.not_yet("one day"),
        }
    }
    monkeypatch.setattr(support, "VERBS", tables)
    found = "\n".join(support.faults())
    for said in (
        "create_snapshot: Cinder has it",
        "create_volume: called generic",
        "failover: called native",
        "delete_volume: there is no test driver/test_stats.py::test_that_nobody_wrote",
        "extend_volume: no test shows it",
        "fly: Cinder has no such verb",
    ):
        assert said in found


def test_capabilities_are_what_the_scheduler_is_told(driver: ZolderDriver) -> None:
    """Each is a key of the pool's stats, and true of this back end or of one of the other kind."""
    [pool] = driver.get_volume_stats(refresh=True)["pools"]
    for name in support.CAPABILITIES:
        assert pool[name] or name == "thick_provisioning_support"


def test_a_test_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is gone has no test either."""
    assert support.line_of("driver/test_support.py::test_a_test_that_is_not_there")
    monkeypatch.setattr(support, "ROOT", tmp_path)
    assert support.line_of("driver/test_support.py::test_a_test_that_is_not_there") is None
