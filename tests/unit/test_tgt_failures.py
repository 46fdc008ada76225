"""An export over tgt that is killed or refused half-way, or whose daemon restarts: a repeat mends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit import tgt_san
from tests.unit.kernel_tree import Killed
from tests.unit.tgt_daemon import Daemon
from tests.unit.tgt_san import ALICE, BOB, CAROL, SUBJECT, TARGET, San, chap_of
from zolder.errors import BackendError
from zolder.san.tgt import Tgt
from zolder.san.tgtd import Answer, Refusal, Request, Tgtd

san = tgt_san.san


class Flaky(Tgtd):
    """A way to tgtd on which one request meets what it must not."""

    def __init__(self, path: Path, at: int, failure: Callable[[], BaseException]) -> None:
        """Fail at the request of that number, counted from 0."""
        super().__init__(path)
        self._left = at
        self._failure = failure

    def ask(self, request: Request, *expected: Refusal) -> Answer:
        self._left -= 1
        if self._left == -1:
            raise self._failure()
        return super().ask(request, *expected)


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
    "growth": lambda san, tgt: tgt.grow_export(SUBJECT, device=san.device),
}


def prepare(san: San, act: str) -> None:
    """Remove what there is, and export to two initiators unless the act is the first export."""
    san.tgt.remove_export(SUBJECT)
    assert (san.daemon.targets, san.daemon.accounts) == ({}, {})
    if act != "first export":
        san.ensure(ALICE)
        san.ensure(BOB)


@pytest.mark.parametrize("act", list(ACTS))
def test_what_was_killed_at_any_step_is_completed_by_a_repeat(san: San, act: str) -> None:
    """After a kill at every single request, nobody gets in who must not, and a repeat ends as if whole."""
    prepare(san, act)
    steps = steps_of(san, lambda tgt: ACTS[act](san, tgt))
    whole = san.picture()
    assert steps > 5
    for step in range(steps):
        prepare(san, act)
        with pytest.raises(Killed):
            ACTS[act](san, san.over(Flaky(san.socket, step, Killed)))
        assert no_gap(san.daemon), f"killed at step {step}"
        assert san.daemon.log_in(TARGET, ALICE) != "in", f"killed at step {step}: in without a secret"
        ACTS[act](san, san.tgt)
        assert san.picture() == whole, f"killed at step {step}"


@pytest.mark.parametrize("act", list(ACTS))
def test_what_was_killed_at_any_step_is_removed_whole(san: San, act: str) -> None:
    """After a kill at every single request, removing the export leaves nothing of it."""
    prepare(san, act)
    steps = steps_of(san, lambda tgt: ACTS[act](san, tgt))
    for step in range(steps):
        prepare(san, act)
        with pytest.raises(Killed):
            ACTS[act](san, san.over(Flaky(san.socket, step, Killed)))
        san.tgt.remove_export(SUBJECT)
        assert (san.daemon.targets, san.daemon.accounts) == ({}, {}), f"killed at step {step}"


@pytest.mark.parametrize("act", ["first export", "further export"])
def test_what_fails_at_any_step_is_taken_back(san: San, act: str) -> None:
    """After a failure of every single request of an export, all is as it was before."""
    prepare(san, act)
    before = san.picture()
    steps = steps_of(san, lambda tgt: ACTS[act](san, tgt))
    for step in range(steps):
        prepare(san, act)
        with pytest.raises(BackendError, match="refused"):
            ACTS[act](san, san.over(Flaky(san.socket, step, lambda: BackendError("refused"))))
        assert san.picture() == before, f"failed at step {step}"


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
