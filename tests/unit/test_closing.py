"""Closing where one of the exporters fails: all others are closed, and the failure is told at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.kept_san import (
    ALICE,
    BOB,
    DATASET,
    FAST,
    ID,
    PARENT,
    POLICY,
    PORTALS,
    PREFIX,
    ROUTE,
    SNAPSHOT,
    VIEW_ID,
    ZVOL,
    KeptSan,
    Standing,
    access,
)
from zolder.errors import AlreadyExists, BackendError, Error
from zolder.model import Change
from zolder.names import LIO, NVMET, TGT, ExporterName, InitiatorName, snapshot_dataset, view_name
from zolder.san.attachments import Attachments
from zolder.san.exports import ZvolExport
from zolder.san.lzc import ZfsError
from zolder.san.root import Root

NQN = InitiatorName("nqn.2014-08.org.nvmexpress:uuid:1")
SILENT = BackendError("tgtd did not answer within 10 s", waited=10)
FOREIGN = AlreadyExists("target exists and is not Zolder's")


@pytest.fixture
def san(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeptSan:
    """A SAN with one zvol that nobody may reach."""
    kept = KeptSan(tmp_path)
    kept.install(monkeypatch)
    return kept


def break_exporter(san: KeptSan, name: ExporterName, error: Error) -> list[str]:
    """Have an exporter answer every question with an error; return what it was asked."""
    asked: list[str] = []

    def failing(question: str) -> Callable[..., Any]:
        def fail(*_: object) -> None:
            asked.append(question)
            raise error

        return fail

    for question in ("remove_export", "remove_initiator", "is_open"):
        setattr(san.exporters[name], question, failing(question))
    return asked


def open_everywhere() -> None:
    """Have the zvol exported by all three, over NVMe under the second prefix."""
    for exporter, initiator, prefix in ((LIO, ALICE, PREFIX), (TGT, ALICE, PREFIX), (NVMET, NQN, FAST)):
        route = replace(ROUTE, exporter=exporter, prefix=prefix)
        ZvolExport(POLICY, PARENT, ZVOL).ensure(
            ID, initiator, route=route, chap=None, read_only=False, seconds=5
        )


def attachments(san: KeptSan, privileged: Root | None = None) -> Attachments:
    """Return those of the zvol, for one request."""
    return Attachments(POLICY, san.zpool(privileged), ZVOL)


@pytest.mark.parametrize("error", [SILENT, FOREIGN])
@pytest.mark.parametrize("failing", [LIO, TGT, NVMET])
def test_a_failing_exporter_keeps_no_other_from_being_closed(
    san: KeptSan, failing: ExporterName, error: Error
) -> None:
    """Whichever fails, the two others are closed, and it is told which may still export the zvol."""
    open_everywhere()
    break_exporter(san, failing, error)
    with pytest.raises(type(error), match=error.message) as caught:
        ZvolExport(POLICY, PARENT, ZVOL).withdraw_all(None)
    assert [name for name, kept in san.exporters.items() if kept.standing] == [failing]
    if error is SILENT:
        assert caught.value.message.startswith(f"{DATASET} may still be exported by {failing}: ")
        assert caught.value.details == error.details


@pytest.mark.parametrize("failing", [LIO, TGT])
def test_a_failing_exporter_keeps_no_other_from_shutting_out(san: KeptSan, failing: ExporterName) -> None:
    """One initiator is shut out wherever that can be done, before the failure is told."""
    open_everywhere()
    break_exporter(san, failing, SILENT)
    with pytest.raises(BackendError, match="tgtd did not answer"):
        ZvolExport(POLICY, PARENT, ZVOL).withdraw(ALICE, None)
    assert [name for name, kept in san.exporters.items() if kept.standing] == [
        name for name in san.exporters if name in {failing, NVMET}
    ]


def test_of_several_failures_the_first_is_told(san: KeptSan, caplog: pytest.LogCaptureFixture) -> None:
    """The caller hears of one failure, and the log has the others."""
    break_exporter(san, LIO, FOREIGN)
    break_exporter(san, TGT, SILENT)
    with pytest.raises(AlreadyExists):
        ZvolExport(POLICY, PARENT, ZVOL).withdraw_all(None)
    assert f"tgt may still export {DATASET}: tgtd did not answer" in caplog.text


def test_a_daemon_that_is_silent_is_waited_for_once(san: KeptSan) -> None:
    """Whatever the number of prefixes, who does not answer is asked one question."""
    asked = break_exporter(san, TGT, SILENT)
    with pytest.raises(BackendError):
        ZvolExport(POLICY, PARENT, ZVOL).withdraw_all(TGT)
    assert asked == ["remove_export"]


def test_a_foreign_target_under_one_prefix_keeps_none_of_ours(san: KeptSan) -> None:
    """What is ours under the next prefix is closed, and the foreign target is told and left."""
    open_everywhere()
    ZvolExport(POLICY, PARENT, ZVOL).ensure(
        ID, BOB, route=replace(ROUTE, prefix=FAST), chap=None, read_only=False, seconds=5
    )
    san.lio.standing[f"{PREFIX}{ZVOL}"] = Standing("data/other/volume-1", ID, PORTALS, read_only=False)
    with pytest.raises(AlreadyExists, match="somebody else's"):
        ZvolExport(POLICY, PARENT, ZVOL).withdraw_all(None)
    assert san.reached_by() == {"data/other/volume-1": ()}


@pytest.mark.parametrize("error", [SILENT, FOREIGN])
def test_a_force_detach_while_tgtd_is_silent(san: KeptSan, error: Error) -> None:
    """An initiator of another exporter is shut out, though nobody knows whether tgt lets one in."""
    attachments(san).open(access(NQN), replace(ROUTE, exporter=NVMET))
    break_exporter(san, TGT, error)
    with pytest.raises(type(error), match=error.message):
        attachments(san).close_all()
    assert (san.record(), san.reached_by()) == (None, {})


def test_a_detach_behind_a_record_that_is_cleared(san: KeptSan) -> None:
    """What stands without a record is closed by a detach, whoever else does not answer."""
    attachments(san).open(access(NQN), replace(ROUTE, exporter=NVMET))
    record = san.zfs.datasets[DATASET].pop("zolder:export")
    break_exporter(san, TGT, SILENT)
    with pytest.raises(BackendError, match="may still be exported by tgt"):
        attachments(san).close(access(NQN))
    assert record
    assert san.reached_by() == {}


@pytest.mark.parametrize("fails", [False, True])
def test_the_exporter_on_record_is_closed_first(san: KeptSan, *, fails: bool) -> None:
    """It waits for no other, and the others are closed whatever came of it."""
    asked: list[ExporterName | None] = []

    class Noting(Root):
        def close_export(self, *args: object, exporter: ExporterName | None) -> bool:
            asked.append(exporter)
            return super().close_export(*args, exporter=exporter)  # type: ignore[arg-type]  # as asked

    attachments(san).open(access(), replace(ROUTE, exporter=TGT))
    if fails:
        break_exporter(san, TGT, SILENT)
    root = san.root()
    root.__class__ = Noting
    try:
        closed = attachments(san, root).close_all()
    except BackendError:
        assert fails
    else:
        assert closed == Change(changed=True, value=())
    assert asked == [TGT, None]


def test_a_record_that_cannot_be_cleared_closes_nothing(san: KeptSan) -> None:
    """The record comes first: what it names stays open until it is gone."""
    attachments(san).open(access(), ROUTE)
    san.steps.start(refuse_at=0)
    with pytest.raises((BackendError, ZfsError)):
        attachments(san).close_all()
    assert san.agrees()
    assert san.reached_by() == {DATASET: (ALICE,)}


def test_a_volume_is_deleted_while_tgtd_is_silent(san: KeptSan) -> None:
    """What ZFS destroys nobody has open, so tgt is not asked for a volume that was never with it."""
    attachments(san).open(access(), ROUTE)
    asked = break_exporter(san, TGT, SILENT)
    assert san.storage().delete_zvol(PARENT, ZVOL).changed
    assert DATASET not in san.zfs.datasets
    assert (san.reached_by(), asked) == ({}, [])


def test_a_volume_that_is_held_is_not_deleted_while_tgtd_is_silent(san: KeptSan) -> None:
    """Where somebody has it open, whoever cannot be asked may be the one."""
    attachments(san).open(access(), ROUTE)
    del san.zfs.datasets[snapshot_dataset(PARENT, ZVOL, SNAPSHOT)]
    san.zfs.busy.add(DATASET)
    break_exporter(san, TGT, SILENT)
    with pytest.raises(BackendError, match="may still be exported by tgt"):
        san.storage().delete_zvol(PARENT, ZVOL)
    assert DATASET in san.zfs.datasets


def test_a_snapshot_is_let_go_while_tgtd_is_silent(san: KeptSan) -> None:
    """A view that is destroyed was open nowhere, and tgt is not asked for it."""
    san.storage().export_snapshot(
        PARENT, ZVOL, SNAPSHOT, ALICE, view_id=VIEW_ID, route=ROUTE, attachment=None, chap=None
    )
    asked = break_exporter(san, TGT, SILENT)
    assert san.storage().withdraw_snapshot(PARENT, VIEW_ID, None, attachment=None).changed
    assert f"{PARENT}/{view_name(VIEW_ID)}" not in san.zfs.datasets
    assert (san.reached_by(), asked) == ({}, [])
