"""An initiator's key over NVMe, and the host entry that has it, which all its subsystems share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit import nvmet_export
from tests.unit.nvmet_export import (
    ALICE,
    HOST,
    OTHER_SECRET,
    PREFIX,
    SECRET,
    SUBJECT,
    SUBSYSTEM,
    key_of,
    make_root,
    seen_in,
    steps_of_export,
)
from tests.unit.nvmet_tree import NvmetTree
from zolder.errors import AlreadyExists, BackendError, InvalidRequest
from zolder.model import Chap
from zolder.names import ZvolName, subsystem_name
from zolder.san.exporter import Subject
from zolder.san.locks import Locks
from zolder.san.nvmet import Nvmet

root, dev = nvmet_export.root, nvmet_export.dev
ensure, nvmet = nvmet_export.ensure, nvmet_export.nvmet


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "a-good-secret-12",
        "DHHC-1:00:bad:",
        "DHHC-1:04:" + SECRET.secret.partition(":00:")[2],
        SECRET.secret[:-1],
        SECRET.secret + "\n",
        SECRET.secret.replace("M", "N", 1),
        key_of(b"too short"),
        key_of(b"0123456789abcdef0123456789abcdef", "02"),
    ],
)
def test_what_is_no_whole_key_is_refused(root: Path, ensure: Callable[..., bool], secret: str) -> None:
    """A secret without the form, length and checksum of a key is refused unseen, before anything is made."""
    before = seen_in(root)
    with pytest.raises(InvalidRequest, match="nvme gen-dhchap-key") as caught:
        ensure(chap=Chap("unused", secret))
    assert not secret or secret not in f"{caught.value!r} {caught.value.details}"
    assert seen_in(root) == before


@pytest.mark.parametrize(("kind", "length"), [("00", 48), ("01", 32), ("02", 48), ("03", 64)])
def test_keys_of_every_kind_are_taken(
    root: Path, ensure: Callable[..., bool], kind: str, length: int
) -> None:
    """Each hash's own length of key reaches the kernel unchanged."""
    key = key_of(bytes(range(length)), kind)
    ensure(chap=Chap("unused", key))
    assert NvmetTree(root).read(f"{HOST}/dhchap_key") == key


def test_a_secret_shows_in_no_error_and_no_log(
    tmp_path: Path, ensure: Callable[..., bool], caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever step fails, neither the error nor the log has the key."""
    caplog.set_level("DEBUG")
    for step in range(steps_of_export(ensure, tmp_path)):
        root = make_root(tmp_path / f"refused-{step}")
        with pytest.raises(BackendError) as caught:
            ensure(tree=NvmetTree(root, refuse_at=step), chap=SECRET)
        assert SECRET.secret not in f"{caught.value!r} {caught.value.details} {caught.value.__cause__!r}"
    assert SECRET.secret not in caplog.text


def test_an_entry_of_ours_keeps_its_key_from_others(root: Path, ensure: Callable[..., bool]) -> None:
    """Only root may look into a host entry that we made."""
    ensure(chap=SECRET)
    assert (root / HOST).stat().st_mode & 0o777 == 0o700


def test_a_new_key_replaces_the_old_while_nothing_else_uses_it(
    root: Path, dev: Path, nvmet: Nvmet, ensure: Callable[..., bool]
) -> None:
    """An initiator's only subsystem may change its key; with a second one the key is fixed."""
    ensure(chap=SECRET)
    assert ensure(chap=OTHER_SECRET) is True
    assert NvmetTree(root).read(f"{HOST}/dhchap_key") == OTHER_SECRET.secret
    second = Subject(SUBJECT.parent, ZvolName("volume-2"), PREFIX)
    (dev / "zd32").write_text(second.dataset)
    ensure(subject=second, device=dev / "zd32", chap=OTHER_SECRET)
    before = seen_in(root)
    for chap, held in ((SECRET, "another"), (None, "one")):
        with pytest.raises(AlreadyExists, match=f"one key for all .* has {held}:") as caught:
            ensure(chap=chap)
        assert OTHER_SECRET.secret not in f"{caught.value!r} {caught.value.details}"
    assert seen_in(root) == before
    nvmet.remove_export(SUBJECT)
    assert NvmetTree(root).read(f"{HOST}/dhchap_key") == OTHER_SECRET.secret


def test_a_key_is_never_asked_of_who_connects_without(
    root: Path, dev: Path, ensure: Callable[..., bool]
) -> None:
    """An entry without a key that another subsystem uses is not given one."""
    second = Subject(SUBJECT.parent, ZvolName("volume-2"), PREFIX)
    (dev / "zd32").write_text(second.dataset)
    ensure(subject=second, device=dev / "zd32")
    before = seen_in(root)
    with pytest.raises(AlreadyExists, match="has none:"):
        ensure(chap=SECRET)
    assert seen_in(root) == before


def test_an_entry_of_ours_that_was_left_with_a_key_is_made_anew(
    root: Path, nvmet: Nvmet, ensure: Callable[..., bool]
) -> None:
    """A key that a killed process left, and that nobody uses, does not bind a request without one."""
    ensure(chap=SECRET)
    NvmetTree(root).remove_link(f"{SUBSYSTEM}/allowed_hosts/{ALICE}")
    assert ensure() is True
    assert NvmetTree(root).read(f"{HOST}/dhchap_key") == ""
    assert nvmet.remove_export(SUBJECT) is True
    assert not (root / HOST).exists()


@pytest.mark.parametrize("linked", [False, True])
def test_an_entry_of_somebody_else_is_used_but_never_changed_or_removed(
    root: Path,
    nvmet: Nvmet,
    ensure: Callable[..., bool],
    linked: bool,  # noqa: FBT001 - pytest gives it by name
) -> None:
    """An administrator's host entry serves where its key is the one asked for, and stays as it was."""
    foreign = NvmetTree(root)
    foreign.make_folder(HOST)
    foreign.write(f"{HOST}/dhchap_key", SECRET.secret)
    if linked:
        foreign.make_folder("subsystems/nqn.2014-08.org.elsewhere:theirs")
        foreign.make_link(f"subsystems/nqn.2014-08.org.elsewhere:theirs/allowed_hosts/{ALICE}", HOST)
    before = seen_in(root)
    for chap in (OTHER_SECRET, None):
        with pytest.raises(AlreadyExists, match=f"hosts/{ALICE}"):
            ensure(chap=chap)
        assert seen_in(root) == before
    assert ensure(chap=SECRET) is True
    assert nvmet.remove_initiator(SUBJECT, ALICE) is True
    assert seen_in(root) == before


def test_an_empty_entry_makes_way_for_a_key(root: Path, ensure: Callable[..., bool]) -> None:
    """What a process left that was killed before it marked its entry, without key and links, is made anew."""
    NvmetTree(root).make_folder(HOST)
    assert ensure(chap=SECRET) is True
    assert (root / HOST).stat().st_mode & 0o777 == 0o700
    assert NvmetTree(root).read(f"{HOST}/dhchap_key") == SECRET.secret


def test_an_entry_that_another_process_removes_meanwhile_is_made_again(
    root: Path, ensure: Callable[..., bool]
) -> None:
    """The entry may go with the last link of another subsystem just before ours: then it is made anew."""
    tree = NvmetTree(root)
    removed: list[str] = []

    def remove_once(step: str) -> None:
        if step.startswith(f"link {SUBSYSTEM}/allowed_hosts") and not removed:
            removed.append(step)
            NvmetTree(root).remove_folder(HOST)

    tree.before = remove_once
    assert ensure(tree=tree, chap=SECRET) is True
    assert removed
    assert tree.read(f"{HOST}/dhchap_key") == SECRET.secret
    assert tree.find_link(f"{SUBSYSTEM}/allowed_hosts/{ALICE}") == HOST


def test_two_that_make_the_same_entry_at_once_agree(
    tmp_path: Path, root: Path, dev: Path, ensure: Callable[..., bool]
) -> None:
    """While one has an entry that is still without its key, another waits; both have the key then."""
    second = Subject(SUBJECT.parent, ZvolName("volume-2"), PREFIX)
    (dev / "zd32").write_text(second.dataset)
    first, other = NvmetTree(root), NvmetTree(root)
    waiting = threading.Event()

    @contextmanager
    def alone(*, ready: threading.Event | None = None) -> Iterator[None]:
        if ready is not None:
            ready.set()
        with Locks(tmp_path / "locks").hold_briefly():
            yield

    thread = threading.Thread(
        target=lambda: ensure(
            tree=other,
            subject=second,
            device=dev / "zd32",
            chap=SECRET,
            hosts_lock=lambda: alone(ready=waiting),
        )
    )
    seen: list[str] = []

    def meanwhile(step: str) -> None:
        if step == f"write {HOST}/dhchap_key":
            thread.start()
            assert waiting.wait(20)
        if step == f"link {SUBSYSTEM}/allowed_hosts/{ALICE}":
            seen.extend(other.steps)

    first.before = meanwhile
    assert ensure(tree=first, chap=SECRET, hosts_lock=alone) is True
    thread.join(20)
    assert seen
    assert not [step for step in seen if "hosts" in step]
    assert NvmetTree(root).read(f"{HOST}/dhchap_key") == SECRET.secret
    for nqn in (SUBSYSTEM, f"subsystems/{subsystem_name(PREFIX, second.zvol, ALICE)}"):
        assert NvmetTree(root).find_link(f"{nqn}/allowed_hosts/{ALICE}") == HOST


def test_only_entries_are_locked(root: Path, dev: Path, ensure: Callable[..., bool]) -> None:
    """What may wait, a device's opening and closing and the end of controllers, is done outside the lock."""
    tree = NvmetTree(root)
    locked: list[str] = []

    @contextmanager
    def alone() -> Iterator[None]:
        begin = len(tree.steps)
        yield
        locked.extend(tree.steps[begin:])

    ensure(tree=tree, chap=SECRET, hosts_lock=alone)
    nvmet = Nvmet(dev=dev, tree=tree, hosts_lock=alone)
    nvmet.remove_initiator(SUBJECT, ALICE)
    ensure(tree=tree, chap=SECRET, hosts_lock=alone)
    nvmet.remove_export(SUBJECT)
    link = f"link {SUBSYSTEM}/allowed_hosts/{ALICE}"
    assert locked == [step for step in tree.steps if step == link or step.partition(" ")[2].startswith(HOST)]
    assert {link, f"mkdir {HOST}", f"write {HOST}/dhchap_key", f"rmdir {HOST}"} == set(locked)


def test_a_kernel_without_keys_refuses_chap(
    root: Path, ensure: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where host entries have no key attribute CHAP is refused by name, and no CHAP goes on working."""
    pristine = seen_in(root)
    tree = NvmetTree(root)
    make_folder = tree.make_folder

    def without_key(path: str) -> bool:
        made = make_folder(path)
        if path == HOST:
            (root / HOST / "dhchap_key").unlink(missing_ok=True)
        return made

    monkeypatch.setattr(tree, "make_folder", without_key)
    with pytest.raises(InvalidRequest, match="CONFIG_NVME_TARGET_AUTH"):
        ensure(tree=tree, chap=SECRET)
    assert seen_in(root) == pristine
    assert ensure(tree=tree) is True
