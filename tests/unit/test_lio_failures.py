"""An export over LIO that is killed, refused or cannot listen: it ends whole or leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit import lio_export
from tests.unit.kernel_tree import Killed, picture
from tests.unit.lio_export import (
    BOB,
    DEVICE,
    HBA,
    PORTALS,
    STORE,
    SUBJECT,
    TPG,
    ensure,
    exported,
    steps_of_export,
)
from tests.unit.target_tree import TargetTree
from zolder.errors import BackendError, Busy
from zolder.san import lio as lio_module
from zolder.san.lio import Lio
from zolder.san.run import Finished

root = lio_export.root


def test_an_export_killed_at_any_step_is_completed_by_the_next(tmp_path: Path, root: Path) -> None:
    """After a kill at every single step, asking again gives the tree of an undisturbed export."""
    pristine = picture(root)
    ensure(root)
    whole = picture(root)
    Lio(tree=TargetTree(root)).remove_export(SUBJECT)
    for step in range(steps_of_export(tmp_path)):
        with pytest.raises(Killed):
            ensure(root, tree=TargetTree(root, kill_at=step))
        assert ensure(root) is True, f"killed at step {step}"
        assert picture(root) == whole, f"killed at step {step}"
        Lio(tree=TargetTree(root)).remove_export(SUBJECT)
        assert picture(root) == pristine, f"killed at step {step}"


def test_an_export_killed_at_any_step_is_removed_whole(tmp_path: Path, root: Path) -> None:
    """After a kill at every single step, removing the export leaves nothing of it."""
    pristine = picture(root)
    for step in range(steps_of_export(tmp_path)):
        with pytest.raises(Killed):
            ensure(root, tree=TargetTree(root, kill_at=step))
        Lio(tree=TargetTree(root)).remove_export(SUBJECT)
        assert picture(root) == pristine, f"killed at step {step}"


def test_a_removal_killed_at_any_step_is_completed_by_the_next(root: Path) -> None:
    """After a kill at every single step of a removal, removing again or exporting again ends well."""
    pristine = picture(root)
    ensure(root)
    whole = picture(root)
    tree = TargetTree(root)
    Lio(tree=tree).remove_export(SUBJECT)
    for step in range(len(tree.steps)):
        for ending in (pristine, whole):
            ensure(root)
            with pytest.raises(Killed):
                Lio(tree=TargetTree(root, kill_at=step)).remove_export(SUBJECT)
            if ending is whole:
                ensure(root)
            else:
                Lio(tree=TargetTree(root)).remove_export(SUBJECT)
            assert picture(root) == ending, f"killed at step {step}"


def test_an_export_refused_at_any_step_takes_back_what_it_made(tmp_path: Path, root: Path) -> None:
    """Whichever step the kernel refuses, the tree is afterwards as it was before."""
    pristine = picture(root)
    for step in range(steps_of_export(tmp_path)):
        with pytest.raises(BackendError, match="ENOMEM"):
            ensure(root, tree=TargetTree(root, refuse_at=step))
        assert picture(root) == pristine, f"refused at step {step}"


def test_a_second_initiator_refused_leaves_the_first(root: Path) -> None:
    """A failure for one more initiator takes back its ACL and nothing of the export that stood."""
    ensure(root)
    whole = picture(root)
    count = TargetTree(root)
    ensure(root, tree=count, initiator=BOB)
    Lio(tree=TargetTree(root)).remove_initiator(SUBJECT, BOB)
    for step in range(len(count.steps)):
        with pytest.raises(BackendError, match="ENOMEM"):
            ensure(root, tree=TargetTree(root, refuse_at=step), initiator=BOB)
        assert picture(root) == whole, f"refused at step {step}"


def test_an_error_on_the_way_back_is_logged_and_hides_nothing(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When undoing fails as well, the caller gets the first error and the log names what is left."""
    tree = TargetTree(root)

    def refuse(path: str) -> bool:
        message = f"configfs: cannot remove {path}: still in use"
        raise BackendError(message)

    monkeypatch.setattr(tree, "remove_folder", refuse)
    tree.claimed.add(str(DEVICE))
    with pytest.raises(Busy):
        ensure(root, tree=tree)
    assert f"left behind after a failure: configfs: cannot remove {HBA}/{STORE}" in caplog.text


def test_a_claimed_device_is_busy(root: Path) -> None:
    """A device that somebody else claims raises Busy, and leaves nothing behind."""
    pristine = picture(root)
    tree = TargetTree(root)
    tree.claimed.add(str(DEVICE))
    with pytest.raises(Busy, match="/dev/zd16 is claimed by somebody else"):
        ensure(root, tree=tree)
    assert picture(root) == pristine


def test_a_portal_that_is_still_closing_is_asked_for_again(root: Path) -> None:
    """While the last target at a portal goes, the kernel refuses the next one there for a moment."""
    tree = TargetTree(root)
    tree.closing[PORTALS[0]] = 3
    assert ensure(root, tree=tree) is True
    export = exported(root)
    assert export is not None
    assert export.portals == PORTALS


def test_a_portal_that_cannot_be_had_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A portal that stays refused is named, and who may hold it."""
    monkeypatch.setattr(lio_module, "_LONGEST_PAUSE_SECONDS", 0.01)
    pristine = picture(root)
    tree = TargetTree(root)
    tree.closing[PORTALS[1]] = 99
    says = r"LIO cannot listen at \[2001:db8::1\]:3260: another program, such as tgtd, holds"
    with pytest.raises(BackendError, match=says) as caught:
        ensure(root, tree=tree)
    assert caught.value.details["portal"] == PORTALS[1]
    assert tree.steps.count(f"mkdir {TPG}/np/{PORTALS[1]}") == 3
    assert picture(root) == pristine


def test_a_kernel_without_lio_is_told_what_to_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where configfs has no target folder the modules are asked for once, and the error names them."""
    asked = []

    def modprobe(argv: list[str]) -> Finished:
        asked.append(argv)
        return Finished(tuple(argv), 1, "", "modprobe: FATAL: Module target_core_mod not found")

    monkeypatch.setattr(lio_module, "run", modprobe)
    with pytest.raises(BackendError, match="modprobe -a target_core_mod iscsi_target_mod"):
        ensure(tmp_path / "nothing", tree=TargetTree(tmp_path / "nothing"))
    assert asked == [["modprobe", "-a", "target_core_mod", "iscsi_target_mod"]]
