"""The pool of channels: reuse, limits, replacement, and what it does when nothing can be opened."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from tests.support import agent
from tests.support.waiting import wait_until
from zolder.client.channel import new_operation
from zolder.client.deadline import Deadline
from zolder.client.diagnosis import ConnectDenied
from zolder.client.local import LocalAgent
from zolder.client.pool import Pool
from zolder.client.ssh import SshTarget
from zolder.errors import ConnectFailed, DeadlineExceeded, Error
from zolder.shapes import Json


@contextmanager
def pool_of(fault: str, *words: object, min_channels: int = 1, max_channels: int = 4) -> Iterator[Pool]:
    """Yield a pool of the test's own agents, and see that it counts rightly at the end."""
    argv = (sys.executable, "-S", "-E", agent.__file__, fault, *map(str, words))
    pool = Pool(LocalAgent(argv), min_channels=min_channels, max_channels=max_channels, open_seconds=5)
    yield pool
    pool.close()
    assert pool._count == 0, "every channel that was counted has been given back"


def ask(pool: Pool, seconds: float = 20) -> Json:
    """Exchange some request."""
    return pool.exchange("get_zvol", new_operation(), {}, Deadline.after(seconds))


def test_one_channel_serves_many_requests() -> None:
    """Requests that follow each other share a connection."""
    with pool_of("none") as pool:
        for _ in range(50):
            ask(pool)
        assert (pool.requests, pool.connections) == (50, 1)


def test_a_request_over_an_open_channel_takes_no_time() -> None:
    """It costs well below a millisecond here; ten leave room for a loaded machine."""
    with pool_of("none") as pool:
        ask(pool)
        began = time.monotonic()
        for _ in range(200):
            ask(pool)
        assert (time.monotonic() - began) / 200 < 0.010


def test_the_greeting_is_no_request() -> None:
    """Asking who the agent is opens a channel and keeps it."""
    with pool_of("none") as pool:
        assert pool.greet(Deadline.after(20)).zfs_version == "2.3.9"
        ask(pool)
        assert (pool.requests, pool.connections) == (1, 1)


def test_twenty_threads_share_four_channels(tmp_path: Path) -> None:
    """All are answered, each with its own answer, over no more channels than allowed."""
    with pool_of("none", tmp_path, max_channels=4) as pool, ThreadPoolExecutor(20) as threads:
        operations = [new_operation() for _ in range(400)]

        def one(number: int) -> Json:
            return pool.exchange("get_zvol", operations[number], {"n": number}, Deadline.after(60))

        for number, value in enumerate(threads.map(one, range(400))):
            assert isinstance(value, dict)
            assert value["params"] == {"n": number}
            assert value["operation"] == operations[number]
        assert pool.connections <= 4
    assert len(list(tmp_path.glob("asked-*"))) <= 4


def test_a_full_pool_waits_until_the_deadline() -> None:
    """Who gets no channel in time is told how many there are."""
    with pool_of("hang", max_channels=1) as pool, ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(ask, pool, 3)
        wait_until(lambda: pool.requests == 1, 10, "the first request is under way")
        with pytest.raises(DeadlineExceeded, match=r"All 1 channels to .* were in use"):
            ask(pool, 0.2)
        with pytest.raises(DeadlineExceeded, match="did not answer get_zvol in time"):
            hanging.result()


def test_a_channel_found_dead_is_replaced(tmp_path: Path) -> None:
    """An idle agent that went away costs a new connection and no error."""
    with pool_of("none", tmp_path) as pool:
        ask(pool)
        channel = pool._idle[0].channel
        channel._child._signal(signal.SIGKILL)
        wait_until(lambda: not channel.is_usable, 10, "the agent is gone")
        ask(pool)
        assert pool.connections == 2


def test_after_a_broken_line_no_idle_channel_is_trusted() -> None:
    """One line that died without a word makes the others suspect: none is used again."""
    with pool_of("none") as pool:
        threads = [threading.Thread(target=ask, args=(pool,)) for _ in range(3)]
        with pool._channel(Deadline.after(20)) as first, pool._channel(Deadline.after(20)) as second:
            assert first is not second
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(pool._idle) >= 2
        with pool._channel(Deadline.after(20)) as channel:
            channel._in_order = False  # as an exchange leaves it that was broken off
        assert not pool._idle


def test_spare_channels_are_closed_when_they_are_old() -> None:
    """What was not used for a minute goes, down to the minimum."""
    with pool_of("none", min_channels=2, max_channels=4) as pool:
        taken = [pool._take(Deadline.after(20)) for _ in range(4)]
        for channel in taken:
            pool._give_back(channel)
        assert len(pool._idle) == 4
        later = time.monotonic() + 61
        with mock.patch("zolder.client.pool.time.monotonic", return_value=later):
            channel = pool._take(Deadline.after(20))
            pool._give_back(channel)
        assert len(pool._idle) == 2
        assert channel.is_usable


def test_what_cannot_work_is_not_tried_again(tmp_path: Path) -> None:
    """A fault that a person must mend is reported at once."""
    with pool_of("not_installed", tmp_path) as pool:
        began = time.monotonic()
        with pytest.raises(ConnectDenied):
            ask(pool)
        assert time.monotonic() - began < 2


def test_a_burst_that_sshd_drops_is_tried_again(tmp_path: Path) -> None:
    """MaxStartups closes connections before the login; another attempt passes."""
    # It plays ssh: the first two runs end as a dropped one does, the third becomes the agent.
    script = tmp_path / "ssh"
    script.write_text(
        "#!/bin/sh\n"
        f'for n in 1 2; do mkdir "{tmp_path}/$n" 2>/dev/null &&'
        " echo 'kex_exchange_identification: Connection closed by remote host' >&2 && exit 255; done\n"
        f'exec "{sys.executable}" -S -E "{agent.__file__}" none\n'
    )
    script.chmod(0o755)
    with mock.patch.dict("os.environ", {"PATH": f"{tmp_path}:/usr/bin:/bin"}):
        pool = Pool(SshTarget("192.0.2.1", "zolder"))
        assert ask(pool)
        assert pool.connections == 1
        pool.close()


def test_failing_to_connect_ends_with_the_deadline() -> None:
    """The last failure is what is reported, and no pause goes beyond the deadline."""
    with pool_of("mute") as pool:
        began = time.monotonic()
        with pytest.raises(ConnectFailed):
            ask(pool, 1)
        assert time.monotonic() - began < 2


def test_a_failed_opening_frees_its_place() -> None:
    """After as many failures as there are places the pool still tries."""
    with pool_of("not_installed", max_channels=2) as pool:
        for _ in range(5):
            with pytest.raises(ConnectDenied):
                ask(pool)


def test_a_closed_pool_says_so() -> None:
    """No request is begun behind the end."""
    with pool_of("none") as pool:
        ask(pool)
        pool.close()
        with pytest.raises(Error, match="is closed"):
            ask(pool)
