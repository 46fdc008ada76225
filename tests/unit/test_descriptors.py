"""A zvol's device on its way from root to the agent, as an open descriptor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.test_asking import PARENT, ZVOL, Behaviour, Peer, answering, asking, serving
from zolder.errors import RemoteProtocolError
from zolder.san.channel import Channel
from zolder.san.requestline import RequestLine
from zolder.wire import Answer


def passing(path: Path, count: int) -> Behaviour:
    """Return a helper that passes a file so often before it answers a verb, whatever that is."""

    def behave(peer: Peer) -> None:
        answering()(peer)
        request = peer.request()
        assert request
        number = peer._socket.fileno()
        for _ in range(count):
            with path.open("rb") as file:
                RequestLine(Channel(number, number), request.id).hand_over(file.fileno())
        peer.send(Answer(request.id, [] if request.method == "read_holders" else 99))
        assert peer.request() is None

    return behave


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that stands for a device."""
    path = tmp_path / "device"
    path.write_bytes(b"blocks")
    return path


@contextmanager
def unchanged_descriptors() -> Iterator[None]:
    """Hold that a block leaves no descriptor open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_it_comes_open(tmp_path: Path, file: Path) -> None:
    """The agent has a descriptor of its own of what root opened, and it is closed to programs it starts."""
    with serving(tmp_path, passing(file, 1)) as (server, line):
        descriptor = asking(line).open_device(PARENT, ZVOL, to_write=True)
        assert os.read(descriptor, 100) == b"blocks"
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)
        assert server.seen[1].params == {"parent": str(PARENT), "zvol": str(ZVOL), "to_write": True}


@pytest.mark.parametrize("count", [0, 2, 20])
def test_none_or_many(tmp_path: Path, file: Path, count: int) -> None:
    """Where not exactly one comes the answer is refused, and none of them stays open."""
    with (
        unchanged_descriptors(),
        serving(tmp_path, passing(file, count)) as (_, line),
        pytest.raises(RemoteProtocolError, match=f"passed {count} descriptors"),
    ):
        asking(line).open_device(PARENT, ZVOL, to_write=False)


def test_one_that_nobody_asked_for(tmp_path: Path, file: Path) -> None:
    """One that comes with another verb's answer is closed with the line at the latest."""
    with unchanged_descriptors(), serving(tmp_path, passing(file, 1)) as (_, line):
        assert asking(line).read_holders(PARENT, ZVOL) == ()
