"""When secrets that a SAN lacks are sent again, and when not."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass, field

from tests.driver.conftest import PARENT
from tests.support.waiting import wait_until
from zolder.cinder.missing_secrets import MissingSecrets
from zolder.cinder.reconciliation import Sent

# A process of its own: eventlet's monkey-patching cannot be taken back.
GREEN = """
import eventlet
eventlet.monkey_patch()
import threading
from zolder.cinder.missing_secrets import MissingSecrets
from zolder.cinder.reconciliation import Sent
from zolder.names import DatasetName
going_on, ended = threading.Event(), threading.Event()
def send():
    assert going_on.wait(10)
    ended.set()
    return Sent(1, complete=True)
MissingSecrets("zolder", DatasetName("data/volumes"), send).notice(1, 0.0)
assert not ended.is_set()
going_on.set()
assert ended.wait(10)
"""


@dataclass
class Rounds:
    """Rounds of sending that are counted, on a clock that is turned by hand."""

    complete: bool = True
    seconds: float = 0.0
    count: int = 0
    going_on: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Let rounds end at once."""
        self.going_on.set()
        self.secrets = MissingSecrets("zolder", PARENT, self._send, clock=lambda: self.seconds)

    def report(self, missing: int, *, asked: float | None = None) -> int:
        """Tell what is missing, a minute later, and return how many rounds there have been."""
        self.seconds += 60
        self.secrets.notice(missing, self.seconds if asked is None else asked)
        if self.going_on.is_set():
            wait_until(lambda: not self.secrets._sending, 10, "the round ended")
        return self.count

    def _send(self) -> Sent:
        self.count += 1
        assert self.going_on.wait(10)
        return Sent(1, complete=self.complete)


def test_nothing_missing_nothing_sent() -> None:
    """Cinder's database is not asked while no secret is missing."""
    assert Rounds().report(0) == 0


def test_what_nobody_has_is_sent_for_again_after_ten_minutes() -> None:
    """A round that left nothing out is followed by none for ten minutes, while as many are missing."""
    rounds = Rounds()
    assert [rounds.report(3) for _ in range(23)] == [1] * 10 + [2] * 10 + [3] * 3


def test_another_number_is_sent_for_at_once() -> None:
    """More are missing, or fewer, or again after none were: the SAN has changed."""
    rounds = Rounds()
    assert [rounds.report(missing) for missing in (3, 3, 4, 4, 2, 2, 0, 2)] == [1, 1, 2, 2, 3, 3, 3, 4]


def test_what_failed_is_sent_again_at_once() -> None:
    """A round of which the SAN took a part only is followed by the next a minute later."""
    rounds = Rounds(complete=False)
    assert [rounds.report(3) for _ in range(3)] == [1, 2, 3]


def test_one_round_at_a_time() -> None:
    """What is reported while a round lasts begins no second one."""
    rounds = Rounds()
    rounds.going_on.clear()
    rounds.report(3)
    wait_until(lambda: rounds.count, 10, "the round began")
    assert [rounds.report(missing) for missing in (3, 5, 0)] == [1, 1, 1]
    rounds.going_on.set()
    wait_until(lambda: not rounds.secrets._sending, 10, "the round ended")


def test_a_figure_from_before_the_rounds_end_does_not_count() -> None:
    """What the SAN was asked while secrets were on their way says nothing of what is missing now."""
    rounds = Rounds(complete=False)
    rounds.report(3)
    assert rounds.report(3, asked=rounds.seconds - 1) == 1
    assert rounds.report(3) == 2


def test_rounds_are_green_under_eventlet() -> None:
    """Where Cinder runs under eventlet a round goes on beside the report, too, and ends."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", GREEN], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
