"""Exports beside others: many in one moment, and those of a zpool that hangs. Each has a pristine SAN."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.contract.ground import FAST
from tests.support.exported import Volume, make_volume
from tests.support.reach import compute_reach, second_reach
from tests.support.san import connected, suspend_second_zpool
from zolder.errors import Error
from zolder.names import LIO, NVMET, TGT, ExporterName

if TYPE_CHECKING:
    from lab import Lab

AT_ONCE = 8


@pytest.fixture(autouse=True)
def pristine(lab: Lab) -> Iterator[None]:
    """As new before a test and behind it."""
    lab.reset()
    yield
    lab.reset()


def test_many_come_and_go_at_once(lab: Lab, exporter: ExporterName, note: Callable[[str], None]) -> None:
    """Two initiators are let in to many volumes in one moment, the SAN's first, and shut out in another."""
    reaches = (compute_reach(lab, exporter), second_reach(lab, exporter))
    with (
        connected(lab, channels=AT_ONCE, deadline_seconds=120) as storage,
        ThreadPoolExecutor(AT_ONCE) as threads,
    ):
        volumes = list(threads.map(lambda _: make_volume(storage, exporter), range(AT_ONCE)))
        uses = [(volume, reach) for volume in volumes for reach in reaches]
        started = time.monotonic()
        list(threads.map(lambda use: use[0].open(use[1]), uses))
        names = sorted(reach.name for reach in reaches)
        assert [volume.standing() for volume in volumes] == [names] * AT_ONCE
        list(threads.map(lambda use: use[0].close(use[1]), uses))
        note(f"{len(uses)} attachments came and went in {time.monotonic() - started:.1f} s")
        assert [volume.standing() for volume in volumes] == [[]] * AT_ONCE
        list(threads.map(Volume.remove, volumes))


def test_a_suspended_zpool_keeps_no_other_from_its_exports(lab: Lab) -> None:
    """Forced detachments there end in time with an error; elsewhere all exporters go on meanwhile."""
    with connected(lab, deadline_seconds=20) as storage:
        storage.get_figures(FAST)
        held = {exporter: make_volume(storage, exporter, parent=FAST) for exporter in (LIO, NVMET)}
        for exporter, volume in held.items():
            volume.open(compute_reach(lab, exporter))
        suspend_second_zpool(lab)
        with ThreadPoolExecutor(len(held)) as threads:
            forced = [threads.submit(volume.close, None) for volume in held.values()]
            for exporter in (LIO, TGT, NVMET):
                beside = make_volume(storage, exporter)
                beside.open(compute_reach(lab, exporter))
                assert beside.close(compute_reach(lab, exporter)) == ()
                beside.remove()
            for one in forced:
                assert isinstance(one.exception(timeout=120), Error)
