"""One zvol whose closing or opening does not come to its end: what it keeps waiting, and what it leaves."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit import kept_san
from tests.unit.kept_san import (
    ALICE,
    DATASET,
    ID,
    PARENT,
    POLICY,
    ROUTE,
    ZVOL,
    KeptSan,
    access,
)
from zolder import wish as wishes
from zolder.errors import Busy, ConnectionLost, DeadlineExceeded
from zolder.names import LIO, NVMET, ExporterName, InitiatorName, ZvolName
from zolder.san.attachments import Attachments
from zolder.san.exporter import Subject
from zolder.san.libzfs import EXPORT_RECORD, VOLUME_MARK, Property
from zolder.san.locks import Locks
from zolder.san.operation import Operation
from zolder.san.root import Root

NQN = InitiatorName("nqn.2014-08.org.nvmexpress:uuid:1")
OTHER = ZvolName("volume-2")


@pytest.fixture
def san(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeptSan:
    """A SAN with two zvols that nobody may reach."""
    kept = KeptSan(tmp_path)
    kept.install(monkeypatch)
    kept.zfs.add(f"{PARENT}/{OTHER}", {"volsize": 1, VOLUME_MARK: ID})
    return kept


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    """Root's locks."""
    return Locks(tmp_path / "locks")


def root_of(san: KeptSan, locks: Locks, *, seconds: float = 20, peer: list[bool] | None = None) -> Root:
    """Return root's verbs for one operation, whose agent may go."""
    there = [True] if peer is None else peer
    operation = Operation(
        kept_san.operation().id, seconds=seconds, peer_is_there=lambda: there[0], notify=lambda _: None
    )
    return Root(POLICY, operation, locks, site=san.site, secrets=san.secrets)


@pytest.mark.parametrize(("exporter", "initiator"), [(NVMET, NQN), (LIO, ALICE)])
def test_a_closing_that_does_not_end_keeps_no_other_zvol(
    san: KeptSan, locks: Locks, exporter: ExporterName, initiator: InitiatorName
) -> None:
    """While the kernel waits for one zvol's I/O, others are opened and closed, by one exporter or all."""
    stuck, go_on = threading.Event(), threading.Event()
    kept = san.exporters[NVMET]
    remove = kept.remove_export

    def wait(subject: Subject) -> bool:
        if subject.zvol == ZVOL:
            stuck.set()
            assert go_on.wait(20)
        return remove(subject)

    kept.remove_export = wait  # type: ignore[method-assign]  # a kernel that waits
    thread = threading.Thread(
        target=lambda: root_of(san, locks).close_export(PARENT, ZVOL, None, exporter=None)
    )
    thread.start()
    try:
        assert stuck.wait(20)
        root = root_of(san, locks, seconds=0.5)
        attachments = Attachments(POLICY, san.zpool(root), OTHER)
        attachments.open(access(initiator, zvol=OTHER), replace(ROUTE, exporter=exporter))
        assert san.reached_by() == {f"{PARENT}/{OTHER}": (initiator,)}
        assert attachments.close_all().changed
        assert san.reached_by() == {}
        with pytest.raises((Busy, DeadlineExceeded)):
            root_of(san, locks, seconds=0.01).close_export(PARENT, ZVOL, None, exporter=None)
    finally:
        go_on.set()
        thread.join(20)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("recorded", [False, True])
def test_an_opening_that_was_given_up_is_held_to_the_record(
    san: KeptSan,
    locks: Locks,
    late: bool,  # noqa: FBT001 - pytest gives it by name
    recorded: bool,  # noqa: FBT001 - pytest gives it by name
) -> None:
    """Who was let in after the agent had gone, or too late, stays in only if the record names it still."""
    there = [True]
    record = Property(wishes.write_wish(wishes.add(None, ROUTE, ALICE, None, chap=False)), DATASET)
    san.zfs.datasets[DATASET][EXPORT_RECORD] = record
    root = root_of(san, locks, peer=there)
    kept = san.lio
    ensure = kept.ensure_export

    def give_up(*args: object, **kwargs: object) -> bool:
        if not recorded:
            del san.zfs.datasets[DATASET][EXPORT_RECORD]
        if late:
            root._operation._deadline = 0
        else:
            there[0] = False
        return ensure(*args, **kwargs)  # type: ignore[arg-type]  # as asked

    kept.ensure_export = give_up  # type: ignore[method-assign]  # a kernel that takes its time
    if recorded:
        assert root.open_export(PARENT, ZVOL, ALICE, chap=None)
    else:
        with pytest.raises(DeadlineExceeded if late else ConnectionLost):
            root.open_export(PARENT, ZVOL, ALICE, chap=None)
    assert san.agrees()
