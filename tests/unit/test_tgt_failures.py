"""An export over tgt that is killed or refused half-way, or whose daemon restarts: a repeat mends it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit import tgt_san
from tests.unit.kernel_tree import Killed
from tests.unit.tgt_daemon import Daemon
from tests.unit.tgt_san import ALICE, BOB, CAROL, SUBJECT, TARGET, San, chap_of
from zolder.errors import BackendError, Busy
from zolder.san.tgt import Tgt
from zolder.san.tgtd import Answer, Refusal, Request, Tgtd

san = tgt_san.san


class Flaky(Tgtd):
    """A way to tgtd on which one request, or each from there on, meets what it must not."""

    def __init__(
        self, path: Path, at: int, failure: Callable[[], BaseException], *, lasting: bool = False
    ) -> None:
        """Fail at the request of that number, counted from 0."""
        super().__init__(path)
        self._left = at
        self._failure = failure
        self._lasting = lasting

    def ask(self, request: Request, *expected: Refusal) -> Answer:
        self._left -= 1
        if self._left == -1 or (self._left < 0 and self._lasting):
            raise self._failure()
        return super().ask(request, *expected)


def refused() -> BackendError:
    """Return what tgtd's refusal raises."""
    return BackendError("refused")


def no_gap(daemon: Daemon) -> bool:
    """Whether listing all targets leaves the daemon alive."""
    return all(None not in target.accounts[: target.account_count] for target in daemon.targets.values())


def steps_of(san: San, act: Callable[[Tgt], object]) -> int:
    """Return how many requests something takes."""
    before = len(san.daemon.asked)
    act(san.tgt)
    return len(san.daemon.asked) - before


ACTS: dict[str, Callable[[San, Tgt], object]] = {
    "first export": lambda san, tgt: san.ensure(CAROL, tgt=tgt),
    "further export": lambda san, tgt: san.ensure(CAROL, tgt=tgt),
    "new secret": lambda san, tgt: san.ensure(BOB, tgt=tgt, chap=replace(chap_of(BOB), secret="new")),
    "shut out": lambda _, tgt: tgt.remove_initiator(SUBJECT, ALICE),
    "removal": lambda _, tgt: tgt.remove_export(SUBJECT),
    "growth": lambda san, tgt: san.grow(tgt),
}


def prepare(san: San, act: str) -> None:
    """Remove what there is, and export to two initiators unless the act is the first export."""
    san.tgt.remove_export(SUBJECT)
    assert (san.daemon.targets, san.daemon.accounts) == ({}, {})
    if act != "first export":
        san.ensure(ALICE)
        san.ensure(BOB)


@pytest.mark.parametrize("failure", [Killed, refused])
@pytest.mark.parametrize("act", list(ACTS))
def test_what_ended_at_any_step_is_completed_by_a_repeat(
    san: San, act: str, failure: Callable[[], BaseException]
) -> None:
    """Killed or refused from any request on, it lets in nobody who must not, a repeat ends as if whole."""
    prepare(san, act)
    steps = steps_of(san, lambda tgt: ACTS[act](san, tgt))
    whole = san.picture()
    assert steps > 5
    for step in range(steps):
        prepare(san, act)
        with pytest.raises(type(failure())):
            ACTS[act](san, san.over(Flaky(san.socket, step, failure, lasting=True)))
        assert no_gap(san.daemon), f"ended at step {step}"
        assert san.daemon.log_in(TARGET, ALICE) != "in", f"ended at step {step}: in without a secret"
        ACTS[act](san, san.tgt)
        assert san.picture() == whole, f"ended at step {step}"


@pytest.mark.parametrize("act", list(ACTS))
def test_what_was_killed_at_any_step_is_removed_whole(san: San, act: str) -> None:
    """After a kill at every single request, removing the export leaves nothing of it."""
    prepare(san, act)
    steps = steps_of(san, lambda tgt: ACTS[act](san, tgt))
    for step in range(steps):
        prepare(san, act)
        with pytest.raises(Killed):
            ACTS[act](san, san.over(Flaky(san.socket, step, Killed, lasting=True)))
        san.tgt.remove_export(SUBJECT)
        assert (san.daemon.targets, san.daemon.accounts) == ({}, {}), f"killed at step {step}"


@pytest.mark.parametrize("act", ["first export", "further export", "growth"])
def test_what_fails_at_any_step_is_taken_back(san: San, act: str) -> None:
    """After a failure of every single request of an export or its growth, all is as it was before."""
    prepare(san, act)
    before = san.picture()
    steps = steps_of(san, lambda tgt: ACTS[act](san, tgt))
    for step in range(steps):
        prepare(san, act)
        with pytest.raises(BackendError, match="refused"):
            ACTS[act](san, san.over(Flaky(san.socket, step, refused)))
        assert san.picture() == before, f"failed at step {step}"


@pytest.mark.parametrize("lasting", ["sessions", "I/O"])
def test_growth_that_nothing_makes_way_for_leaves_the_export_as_it_was(san: San, lasting: str) -> None:
    """Where sessions or I/O go on, growth ends in its time, and the former LUN takes logins again."""
    san.ensure()
    before = san.picture()
    assert san.log_in(ALICE) == "in"
    target = san.daemon.target_of(TARGET)
    target.keeps_sessions = lasting == "sessions"
    target.luns[1].active = 0 if target.keeps_sessions else 10**6
    san.device.write_bytes(bytes(8192))
    with pytest.raises(BackendError, match=r"its sessions and their I/O did not end within 0\.1 s"):
        san.grow(seconds=0.1)
    target.luns[1].active = 0
    target.sessions.clear()
    target.stalled.clear()
    target.keeps_sessions = False
    assert san.picture() == before
    assert san.log_in(ALICE) == "in"
    assert san.ensure() is False


def test_a_claimed_device_is_not_grown(san: San, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that somebody else claims raises Busy before a session or a record is touched."""
    san.ensure()
    san.log_in(ALICE)
    before = san.picture()
    really_open = os.open

    def claimed(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_EXCL and path == san.device:
            raise OSError(errno.EBUSY, "claimed")
        return really_open(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", claimed)
    with pytest.raises(Busy, match="zd16 is claimed by somebody else"):
        san.grow()
    assert san.picture() == before


def test_a_restarted_daemon_is_filled_again(san: San) -> None:
    """After tgtd has forgotten everything, the same requests make the same target."""
    san.ensure()
    san.ensure(BOB)
    whole = san.picture()
    san.daemon.targets.clear()
    san.daemon.accounts.clear()
    san.ensure()
    san.ensure(BOB)
    assert san.picture() == whole
