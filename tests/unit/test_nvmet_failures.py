"""An export over NVMe that is killed, refused or has no device: it ends whole or leaves nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit import nvmet_export
from tests.unit.kernel_tree import Killed
from tests.unit.nvmet_export import ALICE, BOB, PREFIX, SECRET, SUBJECT, make_root, seen_in, steps_of_export
from tests.unit.nvmet_tree import NvmetTree
from zolder.errors import BackendError, Busy
from zolder.san import nvmet as nvmet_module
from zolder.san import nvmet_subsystem
from zolder.san.nvmet import Nvmet
from zolder.san.run import Finished

root, dev = nvmet_export.root, nvmet_export.dev
ensure, nvmet = nvmet_export.ensure, nvmet_export.nvmet


@pytest.mark.parametrize("whole_export", [False, True])
def test_an_export_killed_at_any_step_is_completed_by_the_next(
    tmp_path: Path,
    dev: Path,
    ensure: Callable[..., bool],
    whole_export: bool,  # noqa: FBT001 - pytest gives it by name
) -> None:
    """After a kill at every single step, asking again gives the tree of an undisturbed export."""
    root = make_root(tmp_path / "undisturbed")
    pristine = seen_in(root)
    ensure(tree=NvmetTree(root), chap=SECRET)
    whole = seen_in(root)
    for step in range(steps_of_export(ensure, tmp_path)):
        root = make_root(tmp_path / f"killed-{step}")
        nvmet = Nvmet(dev=dev, tree=NvmetTree(root))
        with pytest.raises(Killed):
            ensure(tree=NvmetTree(root, kill_at=step), chap=SECRET)
        assert ensure(tree=NvmetTree(root), chap=SECRET) is True, f"killed at step {step}"
        assert seen_in(root) == whole, f"killed at step {step}"
        if whole_export:
            assert nvmet.remove_export(SUBJECT) is True
        else:
            assert nvmet.remove_initiator(SUBJECT, ALICE) is True
        assert seen_in(root) == pristine, f"killed at step {step}"


@pytest.mark.parametrize("whole_export", [False, True])
def test_an_export_killed_at_any_step_is_removed_whole(
    tmp_path: Path,
    dev: Path,
    ensure: Callable[..., bool],
    whole_export: bool,  # noqa: FBT001 - pytest gives it by name
) -> None:
    """After a kill at every single step, removing leaves nothing but perhaps ports that are shut."""
    pristine = seen_in(make_root(tmp_path / "pristine"))
    for step in range(steps_of_export(ensure, tmp_path)):
        root = make_root(tmp_path / f"killed-{step}")
        with pytest.raises(Killed):
            ensure(tree=NvmetTree(root, kill_at=step), chap=SECRET)
        nvmet = Nvmet(dev=dev, tree=NvmetTree(root))
        if whole_export:
            nvmet.remove_export(SUBJECT)
        else:
            nvmet.remove_initiator(SUBJECT, ALICE)
        left = seen_in(root)
        assert seen_in(root) == pristine, f"killed at step {step}"
        assert not [name for name, text in left.items() if text.startswith("->")]
        ensure(tree=NvmetTree(root))
        assert nvmet.remove_export(SUBJECT) is True
        assert seen_in(root) == pristine, f"killed at step {step}"


def test_a_removal_killed_at_any_step_is_completed_by_the_next(
    root: Path, dev: Path, nvmet: Nvmet, ensure: Callable[..., bool]
) -> None:
    """After a kill at every single step of a removal, removing again or exporting again ends well."""
    pristine = seen_in(root)
    ensure(chap=SECRET)
    whole = seen_in(root)
    removals: tuple[Callable[[Nvmet], bool], ...] = (
        lambda exporter: exporter.remove_export(SUBJECT),
        lambda exporter: exporter.remove_initiator(SUBJECT, ALICE),
    )
    for remove in removals:
        ensure(chap=SECRET)
        tree = NvmetTree(root)
        remove(Nvmet(dev=dev, tree=tree))
        assert seen_in(root) == pristine
        for step in range(len(tree.steps)):
            for ending in (pristine, whole):
                ensure(chap=SECRET)
                with pytest.raises(Killed):
                    remove(Nvmet(dev=dev, tree=NvmetTree(root, kill_at=step)))
                if ending is whole:
                    ensure(chap=SECRET)
                    assert seen_in(root) == whole, f"killed at step {step}"
                else:
                    remove(nvmet)
                    assert seen_in(root) == pristine, f"killed at step {step}"
            ensure(chap=SECRET)
            nvmet.remove_export(SUBJECT)
            assert seen_in(root) == pristine


def test_an_export_refused_at_any_step_leaves_nothing(tmp_path: Path, ensure: Callable[..., bool]) -> None:
    """Whichever step the kernel refuses, what this call made is taken back."""
    pristine = seen_in(make_root(tmp_path / "pristine"))
    for step in range(steps_of_export(ensure, tmp_path)):
        root = make_root(tmp_path / f"refused-{step}")
        with pytest.raises(BackendError, match="ENOMEM"):
            ensure(tree=NvmetTree(root, refuse_at=step), chap=SECRET)
        assert seen_in(root) == pristine, f"refused at step {step}"


def test_a_second_initiator_refused_leaves_the_first(
    root: Path, nvmet: Nvmet, ensure: Callable[..., bool]
) -> None:
    """A failure for one more initiator takes back its subsystem and nothing of the export that stood."""
    ensure()
    whole = seen_in(root)
    count = NvmetTree(root)
    ensure(tree=count, initiator=BOB)
    assert nvmet.remove_initiator(SUBJECT, BOB) is True
    assert seen_in(root) == whole
    for step in range(len(count.steps)):
        with pytest.raises(BackendError, match="ENOMEM"):
            ensure(tree=NvmetTree(root, refuse_at=step), initiator=BOB)
        assert seen_in(root) == whole, f"refused at step {step}"


def test_a_claimed_device_is_busy(
    root: Path, dev: Path, ensure: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that somebody else claims raises Busy, since nvmet itself would not mind; nothing is left."""
    pristine = seen_in(root)
    really_open = os.open

    def claimed(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_EXCL and path == dev / "zd16":
            raise OSError(errno.EBUSY, "claimed")
        return really_open(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", claimed)
    with pytest.raises(Busy, match="zd16 is claimed by somebody else"):
        ensure()
    assert seen_in(root) == pristine


def test_a_device_that_is_not_there_is_named(root: Path, dev: Path, ensure: Callable[..., bool]) -> None:
    """A device that cannot be opened is an error with its path, and nothing is left."""
    pristine = seen_in(root)
    with pytest.raises(BackendError, match=r"cannot open .*/zd64: No such file"):
        ensure(device=dev / "zd64")
    assert seen_in(root) == pristine


def test_a_read_only_device_is_named(root: Path, dev: Path, ensure: Callable[..., bool]) -> None:
    """The kernel exports no read-only device; the error says so, and nothing is left."""
    pristine = seen_in(root)
    tree = NvmetTree(root)
    tree.read_only.add(str(dev / "zd16"))
    with pytest.raises(BackendError, match="zd16 is read-only, and nvmet exports no such device"):
        ensure(tree=tree)
    assert seen_in(root) == pristine


def test_a_device_that_does_not_tell_its_zvol_is_an_error(
    nvmet: Nvmet, ensure: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be told is never taken for closed or for somebody else's."""
    ensure()

    def refuse(descriptor: int) -> str:
        raise OSError(errno.EIO, f"descriptor {descriptor}")

    monkeypatch.setattr(nvmet_subsystem, "read_zvol_name", refuse)
    with pytest.raises(BackendError, match="cannot tell which zvol"):
        nvmet.is_open(SUBJECT)
    with pytest.raises(BackendError, match="cannot tell which zvol"):
        nvmet.remove_export(SUBJECT)


def test_a_kernel_without_nvmet_is_told_what_to_load(
    tmp_path: Path, ensure: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where configfs has no nvmet folder the modules are asked for once, and the error names them."""
    asked = []

    def modprobe(argv: list[str]) -> Finished:
        asked.append(argv)
        return Finished(tuple(argv), 1, "", "modprobe: FATAL: Module nvmet not found")

    monkeypatch.setattr(nvmet_module, "run", modprobe)
    with pytest.raises(BackendError, match="modprobe -a nvmet nvmet-tcp"):
        ensure(tree=NvmetTree(tmp_path / "nothing"))
    assert asked == [["modprobe", "-a", "nvmet", "nvmet-tcp"]]


def test_where_nvmet_is_not_loaded_nothing_is_exported(tmp_path: Path, dev: Path) -> None:
    """Without nvmet in the kernel every question has its empty answer."""
    nvmet = Nvmet(dev=dev, tree=NvmetTree(tmp_path / "nothing"))
    assert nvmet.remove_initiator(SUBJECT, ALICE) is False
    assert nvmet.remove_export(SUBJECT) is False
    assert nvmet.initiators_of(SUBJECT) == ()
    assert nvmet.list_exports(PREFIX) == ()
    assert not nvmet.is_open(SUBJECT)
