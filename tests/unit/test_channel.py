"""One channel to a real child process, whatever that child does."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import agent
from tests.support.waiting import wait_until
from zolder.client.channel import Channel, new_operation
from zolder.client.child import STDERR_TAIL_BYTES, Child
from zolder.client.deadline import Deadline
from zolder.client.diagnosis import ConnectDenied
from zolder.client.local import LocalAgent
from zolder.errors import (
    BackendError,
    Busy,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    Error,
    LocalProtocolError,
    RemoteProtocolError,
    VersionMismatch,
)
from zolder.shapes import Json
from zolder.wire import MAX_REQUEST_BYTES


def route(*words: object) -> LocalAgent:
    """Return the way to the test's own agent. -S and -E: it needs nothing but the standard library."""
    return LocalAgent((sys.executable, "-S", "-E", agent.__file__, *map(str, words)))


def soon() -> Deadline:
    """Return a deadline that no healthy child misses."""
    return Deadline.after(20)


def ask(channel: Channel, deadline: Deadline | None = None) -> Json:
    """Exchange some request."""
    return channel.exchange("get_zvol", new_operation(), {"zvol": "volume-1"}, deadline or soon())


def open_descriptors() -> set[Path]:
    """Return the descriptors that this process has open."""
    return set(Path("/proc/self/fd").iterdir())


def children() -> set[int]:
    """Return the processes that this one has started and not reaped."""
    found = set()
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the thread may have ended meanwhile
            found |= {int(pid) for pid in (thread / "children").read_text().split()}
    return found


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """No test leaves a process, a zombie or a descriptor behind."""
    descriptors, processes = open_descriptors(), children()
    yield
    wait_until(lambda: children() <= processes, 10, "all child processes are reaped")
    wait_until(lambda: len(open_descriptors()) <= len(descriptors), 10, "all descriptors are closed")


def test_a_request_is_answered() -> None:
    """The answer's value comes back, and the channel serves on."""
    channel = Channel.open(route("none"), soon())
    operation = new_operation()
    value = channel.exchange("grow_zvol", operation, {"volsize_bytes": 2**40}, soon())
    assert isinstance(value, dict)
    assert (value["method"], value["operation"], value["params"]) == (
        "grow_zvol",
        operation,
        {"volsize_bytes": 2**40},
    )
    assert channel.welcome.identity == "test"
    assert channel.is_usable
    assert ask(channel)
    channel.close()


def test_the_agent_is_told_of_less_time_than_there_is() -> None:
    """Its own word about the deadline must arrive before the client gives up."""
    channel = Channel.open(route("none"), soon())
    value = ask(channel, Deadline.after(10))
    assert isinstance(value, dict)
    assert isinstance(value["deadline_ms"], int)
    assert 8_000 < value["deadline_ms"] <= 9_000
    channel.close()


def test_a_failure_is_raised_as_its_type() -> None:
    """An error of the agent keeps its type, message and details, and the channel stays usable."""
    channel = Channel.open(route("failure"), soon())
    with pytest.raises(Busy, match="held by a test") as raised:
        ask(channel)
    assert raised.value.details == {"holders": ["a", "b"]}
    channel.close()


def test_notices_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A notice reaches the log with its operation and is no answer."""
    channel = Channel.open(route("notices"), soon())
    with caplog.at_level(logging.INFO, "zolder"):
        assert ask(channel)
    assert "the zvol is busy; waiting" in caplog.text
    channel.close()


@pytest.mark.parametrize("fault", ["crumbs", "much_stderr"])
def test_what_is_merely_odd_is_borne(fault: str) -> None:
    """Replies in single bytes, or a megabyte on standard error, disturb nothing."""
    channel = Channel.open(route(fault), soon())
    assert ask(channel)
    assert channel.is_usable
    channel.close()


def test_the_end_of_standard_error_is_kept() -> None:
    """Of a megabyte on standard error the last 4 KiB stay for the message."""
    child = Child(
        (sys.executable, "-S", "-c", "import sys; sys.stderr.write('z' * 10**6 + 'the end\\0')"), {}
    )
    tail = child.hear_last_words()
    assert tail.endswith("the end?")
    assert len(tail) == STDERR_TAIL_BYTES
    child.close()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("cut", ConnectionLost),
        ("hang", DeadlineExceeded),
        ("endless_line", RemoteProtocolError),
        ("endless_stderr", DeadlineExceeded),
        ("other_id", RemoteProtocolError),
    ],
)
def test_a_broken_exchange_ends_the_channel(fault: str, expected: type[Error]) -> None:
    """Whatever breaks an exchange is named by type, in time, and the channel is of no use afterwards."""
    channel = Channel.open(route(fault), soon())
    began = time.monotonic()
    with pytest.raises(expected):
        ask(channel, Deadline.after(1 if expected is DeadlineExceeded else 20))
    assert time.monotonic() - began < 10
    assert not channel.is_usable
    channel._child.kill()


def test_the_cut_line_carries_the_last_words() -> None:
    """ConnectionLost has what the child said before it went."""
    channel = Channel.open(route("cut"), soon())
    with pytest.raises(ConnectionLost) as raised:
        ask(channel)
    assert raised.value.details["stderr"] == "killed by a test"
    channel.close()


def test_a_request_beyond_the_limit_is_not_sent() -> None:
    """The client refuses it itself, and the channel stays usable."""
    channel = Channel.open(route("none"), soon())
    with pytest.raises(LocalProtocolError):
        channel.exchange("get_zvol", new_operation(), {"zvol": "x" * MAX_REQUEST_BYTES}, soon())
    assert channel.is_usable
    channel.close()


def test_a_large_request_to_one_that_does_not_read_keeps_its_deadline() -> None:
    """Sending is bounded as receiving is."""
    child = Child(("sleep", "60"), {})
    with pytest.raises(DeadlineExceeded):
        child.send(b"x" * 2**24, Deadline.after(0.3))
    child.kill()


def test_a_dead_child_is_noticed_between_requests() -> None:
    """An agent that went away while idle makes the channel unusable without a request."""
    channel = Channel.open(route("none"), soon())
    os.kill(channel._child.pid, 9)
    wait_until(lambda: not channel.is_usable, 10, "the channel notices")
    with pytest.raises(ConnectionLost):
        ask(channel)
    channel.close()


def test_closing_lets_the_agent_finish(tmp_path: Path) -> None:
    """The end of its input, no signal, is what tells an agent to go."""
    channel = Channel.open(route("stays_a_second", tmp_path), soon())
    pid = channel._child.pid
    with pytest.raises(DeadlineExceeded):
        ask(channel, Deadline.after(0.2))
    began = time.monotonic()
    channel.close()
    channel.close()
    assert time.monotonic() - began < 0.5, "closing does not wait"
    assert pid in children()
    wait_until(lambda: pid not in children(), 10, "the agent ended by itself and was reaped")


@pytest.mark.parametrize(
    ("fault", "expected", "sentence"),
    [
        ("garbage", ConnectDenied, "is not zolder-san but says 'Welcome to Ubuntu 12.04 LTS'"),
        ("nothing", ConnectDenied, "ended with status 1 before it spoke; .* no table"),
        ("mute", ConnectFailed, "did not answer the greeting within 1 s"),
        ("refuses_all", BackendError, "There is no policy"),
        ("other_protocol", VersionMismatch, "zolder-san 9.0.0 .* upgrade zolder on this control node"),
        ("no_common_protocol", VersionMismatch, "zolder-san 0.0.9 .* upgrade zolder-san on the SAN"),
        ("other_welcome", VersionMismatch, "upgrade the older of the two"),
    ],
)
def test_an_agent_that_cannot_be_used_is_explained(fault: str, expected: type[Error], sentence: str) -> None:
    """Each way in which a greeting fails has a type and one sentence that says what to do."""
    with pytest.raises(expected, match=sentence):
        Channel.open(route(fault), Deadline.after(1) if fault == "mute" else soon())


def test_a_missing_program_is_explained() -> None:
    """The program that leads to the agent may not be installed at all."""
    with pytest.raises(ConnectDenied, match="/no/such/ssh is not installed"):
        Channel.open(LocalAgent(("/no/such/ssh",)), soon())


def test_descriptors_do_not_leak_into_children() -> None:
    """A second agent inherits nothing of the first's line, so each line ends when it should."""
    first = Channel.open(route("none"), soon())
    second = Channel.open(route("none"), soon())
    inherited = {link.readlink() for link in Path(f"/proc/{second._child.pid}/fd").iterdir()}
    ends = (first._child._stdin, first._child._stdout)
    ours = {Path(f"/proc/self/fd/{end.fileno()}").readlink() for end in ends}
    assert not inherited & ours
    first.close()
    second.close()
