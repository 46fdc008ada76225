from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.contract.ground import OTHER_PARENT, PARENT, PORTALS, PREFIX
from tests.support.fake_agent import nobody
from zolder import __version__
from zolder.api import METHODS
from zolder.errors import BackendError, ConnectionLost, DeadlineExceeded
from zolder.fake import FakeStorage
from zolder.model import PoolFigures
from zolder.names import DatasetName, Identity
from zolder.san.agent import Agent
from zolder.san.audit import Record
from zolder.san.channel import Channel
from zolder.san.operation import Operation
from zolder.san.policy import Policy
from zolder.san.serve import serve
from zolder.wire import Request

POLICY = Policy(Identity("lab"), parents=(PARENT,), portals=PORTALS, target_prefixes=(PREFIX,))


class Client:
    """The client's end of a channel, in raw lines."""

    def __init__(self, outgoing: int, incoming: int) -> None:
        """Use two descriptors."""
        self.outgoing = outgoing
        self._incoming = os.fdopen(incoming, "rb")

    def send(self, line: bytes) -> None:
        """Send bytes as they are."""
        os.write(self.outgoing, line)

    def send_for_ever(self, data: bytes) -> None:
        """Send until the agent hangs up."""
        while True:
            self.send(data)

    def ask(self, method: str, params: dict[str, Any], *, deadline_ms: int = 5000) -> dict[str, Any]:
        """Send a request and return the reply's frame."""
        frame = {
            "id": 1,
            "operation": str(uuid.uuid4()),
            "method": method,
            "deadline_ms": deadline_ms,
            "params": params,
        }
        self.send(json.dumps(frame).encode() + b"\n")
        return self.reply()

    def hello(self) -> dict[str, Any]:
        """Greet as a client of this version does."""
        return self.ask("hello", {"protocols": [1], "version": "0"})

    def reply(self) -> dict[str, Any]:
        """Return the next frame; an empty one at the end of the stream."""
        line = self._incoming.readline()
        frame: dict[str, Any] = json.loads(line) if line else {}
        return frame

    def close(self) -> None:
        """Close both directions."""
        os.close(self.outgoing)
        self._incoming.close()


@contextmanager
def serving(
    storage: Any = None,  # noqa: ANN401 - what serve takes, here and below
    zfs_version: Any = lambda: "fake",  # noqa: ANN401
    record: Record = nobody,
) -> Iterator[Client]:
    """Serve a storage (or a function from an operation to one) on two pipes, in a thread."""
    storage = storage or FakeStorage((PARENT,))
    storage_for = (lambda _, operation: storage(operation)) if callable(storage) else lambda _, __: storage
    to_agent, from_agent = os.pipe(), os.pipe()

    def run() -> None:
        try:
            agent = Agent(lambda: POLICY, storage_for=storage_for, zfs_version=zfs_version)
            serve(Channel(to_agent[0], from_agent[1]), agent, record=record)
        finally:
            os.close(from_agent[1])
            os.close(to_agent[0])

    thread = threading.Thread(target=run)
    thread.start()
    client = Client(to_agent[1], from_agent[0])
    try:
        yield client
    finally:
        client.close()
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_hello() -> None:
    """The agent says who it takes the client for and what it is itself."""
    with serving() as client:
        assert client.hello()["value"] == {
            "protocol": 1,
            "version": __version__,
            "features": [
                "lio",
                "nvmet",
                "tgt",
                "attachments",
                "properties",
                "revert",
                "groups",
                "adoption",
                "contents",
                "moves",
            ],
            "identity": "lab",
            "zfs_version": "fake",
        }


def test_hello_comes_first() -> None:
    """A request before hello ends the channel."""
    with serving() as client:
        assert client.ask("get_figures", {"parent": PARENT})["error"]["code"] == "remote_protocol"
        assert client.reply() == {}


def test_no_common_protocol() -> None:
    """A client without a common protocol is told both versions and what to do."""
    with serving() as client:
        error = client.ask("hello", {"protocols": [7, 9], "version": "9.9"})["error"]
        assert error["code"] == "version_mismatch"
        assert "9.9" in error["message"]
        assert __version__ in error["message"]
        assert "upgrade" in error["message"]


def test_no_zfs() -> None:
    """Where there is no OpenZFS, hello says so."""

    def missing() -> str:
        message = "this SAN has no OpenZFS library"
        raise BackendError(message)

    with serving(zfs_version=missing) as client:
        assert client.hello()["error"]["message"] == "this SAN has no OpenZFS library"


@pytest.mark.parametrize(
    "line",
    [
        b"garbage\n",
        b"{}\n",
        b"[1]\n",
        b'{"id":1}\n',
        b'{"id":1,"id":2,"operation":"x","method":"hello","deadline_ms":1,"params":{}}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b'{"id":1e400}\n',
        b'{"id":NaN}\n',
    ],
)
def test_no_frame(line: bytes) -> None:
    """What is no frame is answered with id 0 and ends the channel."""
    with serving() as client:
        client.hello()
        client.send(line)
        reply = client.reply()
        assert (reply["id"], reply["error"]["code"]) == (0, "remote_protocol")
        assert client.reply() == {}


def test_endless_line() -> None:
    """A line without an end is refused at the limit, not kept."""
    with serving() as client:
        client.hello()
        with pytest.raises(BrokenPipeError):
            client.send_for_ever(b"x" * 65536)
        assert client.reply()["error"]["code"] == "remote_protocol"


def test_unknown_method() -> None:
    """An unknown request is named and the channel goes on; Python's own attributes are no requests."""
    with serving() as client:
        client.hello()
        for method in ("destroy_everything", "__init__", "_find", "plant_foreign_zvol"):
            assert client.ask(method, {})["error"]["code"] == "unknown_method"
        assert client.ask("list_zvols", {"parent": PARENT})["value"] == []


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"parent": PARENT, "more": 1},
        {"parent": 1},
        {"parent": None},
        {"parent": "data/../etc"},
        {"parent": "-o"},
        {"parent": f"{PARENT}\n"},
        {"parent": f"{PARENT}@x"},
        {"parent": "d" * 300},
        {"parent": [PARENT]},
    ],
)
def test_bad_params(params: dict[str, Any]) -> None:
    """Parameters that are not a method's own are invalid, whatever the method."""
    with serving() as client:
        client.hello()
        for method in METHODS:
            assert client.ask(method, params)["error"]["code"] == "invalid_request", method


def test_other_parent() -> None:
    """A parent that the policy does not list is refused before any storage is asked."""

    def never(_: Operation) -> FakeStorage:
        raise AssertionError

    with serving(never) as client:
        client.hello()
        assert client.ask("list_zvols", {"parent": OTHER_PARENT})["error"]["code"] == "not_permitted"


def test_internal_error() -> None:
    """A fault of the agent's own is told without its traceback, and the channel goes on."""

    class Faulty(FakeStorage):
        def get_figures(self, parent: DatasetName) -> PoolFigures:
            raise ZeroDivisionError(parent)

    with serving(Faulty((PARENT,))) as client:
        client.hello()
        error = client.ask("get_figures", {"parent": PARENT})["error"]
        assert error["code"] == "backend"
        assert "ZeroDivision" not in json.dumps(error)
        assert client.ask("list_zvols", {"parent": PARENT})["value"] == []


def test_operation_sees_the_line_drop() -> None:
    """An operation that looks again after the client has closed does not act."""
    outcomes: list[BaseException] = []
    started, closed = threading.Event(), threading.Event()

    class Slow(FakeStorage):
        def __init__(self, operation: Operation) -> None:
            super().__init__((PARENT,))
            self.operation = operation

        def get_figures(self, parent: DatasetName) -> PoolFigures:
            started.set()
            closed.wait(5)
            try:
                self.operation.check()
            except ConnectionLost as err:
                outcomes.append(err)
                raise
            return super().get_figures(parent)

    to_agent, from_agent = os.pipe(), os.pipe()
    channel = Channel(to_agent[0], from_agent[1])

    agent = Agent(
        lambda: POLICY, storage_for=lambda _, operation: Slow(operation), zfs_version=lambda: "fake"
    )

    def run() -> None:
        with pytest.raises(BrokenPipeError):
            serve(channel, agent, record=nobody)

    thread = threading.Thread(target=run)
    thread.start()
    client = Client(to_agent[1], from_agent[0])
    client.hello()
    frame = {
        "id": 2,
        "operation": str(uuid.uuid4()),
        "method": "get_figures",
        "deadline_ms": 9000,
        "params": {"parent": PARENT},
    }
    client.send(json.dumps(frame).encode() + b"\n")
    assert started.wait(5)
    client.close()
    closed.set()
    thread.join(timeout=10)
    os.close(to_agent[0])
    os.close(from_agent[1])
    assert len(outcomes) == 1


def test_deadline() -> None:
    """An operation whose deadline has passed does not act."""

    class Late(FakeStorage):
        def __init__(self, operation: Operation) -> None:
            super().__init__((PARENT,))
            self.operation = operation

        def get_figures(self, parent: DatasetName) -> PoolFigures:
            while self.operation.remaining_seconds > 0:
                time.sleep(0.001)
            with pytest.raises(DeadlineExceeded):
                self.operation.check()
            self.operation.check()
            return super().get_figures(parent)

    with serving(Late) as client:
        client.hello()
        error = client.ask("get_figures", {"parent": PARENT}, deadline_ms=20)["error"]
        assert error["code"] == "deadline_exceeded"


def test_what_is_no_request_is_written_down() -> None:
    """A line that is no frame is in the record, under a name that no method has; its content is not."""
    written: list[tuple[str, str, dict[str, Any]]] = []

    def record(request: Request, outcome: str, _: float) -> None:
        written.append((request.method, outcome, dict(request.params)))

    with serving(record=record) as client:
        client.hello()
        client.send(b"a secret that was sent by mistake\n")
        assert client.reply()["error"]["code"] == "remote_protocol"
        assert client.reply() == {}
    assert written[1:] == [("(no frame)", "remote_protocol", {})]


def test_the_policy_counts_as_it_is_now() -> None:
    """A right that was taken away is gone with the next request on the same channel."""
    policies = [POLICY, POLICY, Policy(Identity("lab"), parents=(OTHER_PARENT,))]
    to_agent, from_agent = os.pipe(), os.pipe()
    agent = Agent(
        lambda: policies.pop(0), storage_for=lambda _, __: FakeStorage((PARENT,)), zfs_version=lambda: "fake"
    )
    channel = Channel(to_agent[0], from_agent[1])
    thread = threading.Thread(target=lambda: serve(channel, agent, record=nobody))
    thread.start()
    client = Client(to_agent[1], from_agent[0])
    client.hello()
    assert client.ask("list_zvols", {"parent": PARENT})["value"] == []
    assert client.ask("list_zvols", {"parent": PARENT})["error"]["code"] == "not_permitted"
    client.close()
    thread.join(timeout=10)
    os.close(from_agent[1])
    os.close(to_agent[0])
