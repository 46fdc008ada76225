"""The storage contract over a line that breaks: what is asked again, and that it is the same operation."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import agent, fake_agent
from zolder import api
from zolder.client.channel import Channel
from zolder.client.deadline import Deadline
from zolder.client.local import LocalAgent
from zolder.client.pool import Pool
from zolder.client.remote import RemoteStorage
from zolder.errors import ConnectFailed, ConnectionLost, DeadlineExceeded, NotFound, RemoteProtocolError
from zolder.names import DatasetName, ZvolName

PARENT = DatasetName("data/volumes")
ZVOL = ZvolName("volume-1")


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[..., RemoteStorage]]:
    """A function that connects to the test's own agent with a fault; it notes in ``tmp_path``."""
    pools = []

    def connect_to(fault: str, *, deadline_seconds: float = 20) -> RemoteStorage:
        argv = (sys.executable, "-S", "-E", agent.__file__, fault, str(tmp_path))
        pools.append(Pool(LocalAgent(argv)))
        return RemoteStorage(pools[-1], deadline_seconds=deadline_seconds)

    yield connect_to
    for pool in pools:
        pool.close()


def asked(folder: Path) -> Counter[tuple[str, str]]:
    """Return how often each (operation, method) was asked, over all processes."""
    lines = [line for file in folder.glob("asked-*") for line in file.read_text().splitlines()]
    return Counter((line.split()[0], line.split()[1]) for line in lines)


def test_a_cut_line_is_asked_again_as_the_same_operation(
    connect: Callable[..., RemoteStorage], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After a line was lost the request goes out once more with its operation id, and the log says so."""
    with caplog.at_level(logging.WARNING, "zolder"), pytest.raises(RemoteProtocolError, match="get_zvol"):
        # The agent answers with the request itself, which is no zvol: the client checks what comes back.
        connect("cut_once").get_zvol(PARENT, ZVOL)
    [(_, method)] = asked(tmp_path)
    assert method == "get_zvol"
    assert list(asked(tmp_path).values()) == [2]
    assert caplog.text.count("Asking again") == 1


def test_a_line_that_is_always_cut_is_reported(connect: Callable[..., RemoteStorage], tmp_path: Path) -> None:
    """A few attempts are enough to know that it is the operation that cuts the line."""
    with pytest.raises(ConnectionLost, match="was cut before the answer"):
        connect("cut").delete_zvol(PARENT, ZVOL)
    assert list(asked(tmp_path).values()) == [3]


def test_a_silent_agent_is_given_up_at_the_deadline(
    connect: Callable[..., RemoteStorage], tmp_path: Path
) -> None:
    """A deadline is not asked again: the caller decides."""
    with pytest.raises(DeadlineExceeded, match="did not answer delete_zvol in time"):
        connect("hang", deadline_seconds=0.5).delete_zvol(PARENT, ZVOL)
    assert list(asked(tmp_path).values()) == [1]


def test_an_answer_that_was_lost_is_not_called_unsent(
    connect: Callable[..., RemoteStorage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that may have been carried out stays lost, even where asking again cannot connect."""
    remote = connect("cut")
    connect_once = Channel.open

    def refuse_later(route: LocalAgent, deadline: Deadline) -> Channel:
        if asked(tmp_path):
            message = "refused"
            raise ConnectFailed(message)
        return connect_once(route, deadline)

    monkeypatch.setattr(Channel, "open", refuse_later)
    with pytest.raises(ConnectionLost, match="Asking again was in vain"):
        remote.delete_zvol(PARENT, ZVOL)
    assert list(asked(tmp_path).values()) == [1]


def test_every_method_of_the_contract_is_carried() -> None:
    """Each is overridden here, none inherited abstract, none forgotten."""
    assert not RemoteStorage.__abstractmethods__
    assert set(api.METHODS) <= set(vars(RemoteStorage))


def test_threads_share_one_agent_of_the_model() -> None:
    """Twenty threads over one channel, and over four, get typed answers and typed errors."""
    for channels in (1, 4):
        pool = Pool(LocalAgent((sys.executable, "-m", fake_agent.__name__)), max_channels=channels)
        storage = RemoteStorage(pool, deadline_seconds=60)

        def one(number: int, storage: RemoteStorage = storage) -> int:
            with pytest.raises(NotFound):
                storage.get_zvol(PARENT, ZvolName(f"volume-{number}"))
            return storage.get_figures(PARENT).zvol_count

        with ThreadPoolExecutor(20) as threads:
            assert set(threads.map(one, range(100))) == {1}
        assert pool.connections <= channels
        assert pool.requests == 200
        pool.close()


@pytest.mark.parametrize("fault", ["none", "slow", "cut", "hang", "dead", "noisy"])
def test_it_works_under_eventlet(fault: str, tmp_path: Path) -> None:
    """With everything monkey-patched twenty green threads are served, and none ever stops the others."""
    program = Path(__file__).parent.parent / "support" / "green.py"
    done = subprocess.run(
        [sys.executable, str(program), fault, agent.__file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (
        report["outcomes"]
        == {
            "none": {"answered": 20},
            "slow": {"answered": 20},
            "cut": {"ConnectionLost": 20},
            "hang": {"DeadlineExceeded": 4},
            "dead": {"answered": 20},
            "noisy": {"answered": 20},
        }[fault]
    )
    assert report["connections"] >= 1
    assert report["longest_pause_seconds"] < 1, "no green thread held up the others"
