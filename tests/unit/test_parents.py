from __future__ import annotations

import threading
from pathlib import Path

import pytest

from zolder.errors import NotFound, PoolSuspended, PoolUnavailable
from zolder.names import DatasetName
from zolder.san.parents import (
    Site,
    import_stamp,
    record_parent,
    recorded_guid,
    require_active,
    require_recorded,
)

PARENT = DatasetName("data/volumes")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A SAN whose kernel says that zpool data is online."""
    made = Site(state=tmp_path / "state", run=tmp_path / "run", kernel_statistics=tmp_path / "kstat")
    (made.kernel_statistics / "data").mkdir(parents=True)
    (made.kernel_statistics / "data" / "state").write_text("ONLINE\n")
    return made


def test_active(site: Site) -> None:
    """A zpool that is online or degraded can be asked."""
    require_active(site, "data")
    (site.kernel_statistics / "data" / "state").write_text("DEGRADED\n")
    require_active(site, "data")


def test_suspended(site: Site) -> None:
    """A suspended zpool is told from the kernel's statistics, with what to do."""
    (site.kernel_statistics / "data" / "state").write_text("SUSPENDED\n")
    with pytest.raises(PoolSuspended, match="zpool clear data"):
        require_active(site, "data")


@pytest.mark.parametrize("state", ["FAULTED", "UNAVAIL", ""])
def test_unavailable(site: Site, state: str) -> None:
    """A zpool in any other state is unavailable."""
    (site.kernel_statistics / "data" / "state").write_text(state)
    with pytest.raises(PoolUnavailable):
        require_active(site, "data")


def test_reopened(site: Site) -> None:
    """A zpool whose devices are just being reopened is waited for."""
    state = site.kernel_statistics / "data" / "state"
    state.write_text("OFFLINE\n")
    threading.Timer(0.1, lambda: state.write_text("ONLINE\n")).start()
    require_active(site, "data")


def test_not_imported(site: Site) -> None:
    """A zpool that is not imported is unavailable, never absent."""
    with pytest.raises(PoolUnavailable, match="zpool import"):
        require_active(site, "tank")


def test_set_up(site: Site) -> None:
    """The first set-up records the guid; it holds from then on."""
    with pytest.raises(PoolUnavailable, match="never set up"):
        require_recorded(site, PARENT, 7)
    record_parent(site, PARENT, 7)
    assert recorded_guid(site, PARENT) == 7
    record_parent(site, PARENT, 7)
    require_recorded(site, PARENT, 7)


def test_missing_at_set_up(site: Site) -> None:
    """A parent that was never there is named with the command that makes it."""
    with pytest.raises(NotFound, match="zfs create -p data/volumes"):
        record_parent(site, PARENT, None)


@pytest.mark.parametrize("guid", [8, None])
def test_another_parent(site: Site, guid: int | None) -> None:
    """Once set up, another dataset of that name or none at all means unavailable, not absent."""
    record_parent(site, PARENT, 7)
    with pytest.raises(PoolUnavailable, match="guid 7"):
        require_recorded(site, PARENT, guid)
    with pytest.raises(PoolUnavailable):
        record_parent(site, PARENT, guid)
    assert recorded_guid(site, PARENT) == 7


def test_an_import_is_told_from_the_next(site: Site) -> None:
    """By when its statistics were made, not by their figures; a kernel without them tells nothing."""
    statistics = site.kernel_statistics / "data" / "iostats"
    assert import_stamp(site, "data") is None
    statistics.write_text("31 1 0x01 26 7072 66502950725 81847121281\nname type data\n")
    first = import_stamp(site, "data")
    statistics.write_text("31 1 0x01 26 7072 66502950725 91847121281\nname type data\n")
    assert import_stamp(site, "data") == first
    statistics.write_text("31 1 0x01 26 7072 76502950725 91847121281\nname type data\n")
    assert import_stamp(site, "data") != first
    statistics.write_text("")
    assert import_stamp(site, "data") is None
