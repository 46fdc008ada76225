from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from zolder import __version__
from zolder.errors import BackendError, Busy, DeadlineExceeded, NotPermitted, RemoteProtocolError
from zolder.model import Chap, Export
from zolder.names import LIO, DatasetName, Identity, InitiatorName, OperationId, Portal, ZvolName
from zolder.san.asking import Asking, HelperLine
from zolder.san.operation import Operation
from zolder.san.privileged import VERBS, Held
from zolder.shapes import Json
from zolder.wire import (
    MAX_ANSWER_BYTES,
    MAX_DEADLINE_MS,
    Answer,
    Failure,
    Notice,
    Reply,
    Request,
    decode_request,
    encode_reply,
)

ID = OperationId("00000000-0000-4000-8000-000000000001")
IDENTITY = Identity("lab")
PARENT = DatasetName("data/volumes")
ZVOL = ZvolName("volume-1")
INITIATOR = InitiatorName("iqn.2004-10.org.zolder:compute")
TARGET = "iqn.2010-10.org.openstack:volume-1"
PORTALS = (Portal("192.0.2.1:3260"), Portal("[2001:db8::1]:3260"))
EXPORT = Export(ZVOL, LIO, TARGET, PORTALS, 0, (INITIATOR,))
EXPORT_JSON: Json = {
    "zvol": "volume-1",
    "exporter": "lio",
    "target": TARGET,
    "portals": list(PORTALS),
    "lun": 0,
    "initiators": [INITIATOR],
}


class Peer:
    """The helper's end of one connection."""

    def __init__(self, connection: socket.socket, seen: list[Request]) -> None:
        """Write down what is asked in ``seen``."""
        self._socket = connection
        self._incoming = connection.makefile("rb")
        self._seen = seen

    def request(self) -> Request | None:
        """Return the next request; None where the agent has hung up."""
        line = self._incoming.readline()
        if not line:
            return None
        request = decode_request(line)
        self._seen.append(request)
        return request

    def send(self, *replies: Reply | bytes) -> None:
        """Send replies, or bytes as they are."""
        for reply in replies:
            self._socket.sendall(reply if isinstance(reply, bytes) else encode_reply(reply))

    def close(self) -> None:
        """Hang up."""
        self._incoming.close()
        self._socket.close()


Behaviour: TypeAlias = Callable[[Peer], None]
Reaction: TypeAlias = Callable[[Request], Sequence[Reply | bytes]]


def silent(_: Peer) -> None:
    """Hang up at once."""


def reacting(*reactions: Reaction) -> Behaviour:
    """Greet, then react to one request after the other, and hang up behind the last."""

    def behave(peer: Peer) -> None:
        for react in (lambda hello: [Answer(hello.id, __version__)], *reactions):
            request = peer.request()
            if request is None:
                return
            peer.send(*react(request))

    return behave


def answering(*values: Json) -> Behaviour:
    """Greet, then answer each request with one of the values."""
    return reacting(*(lambda request, value=value: [Answer(request.id, value)] for value in values))


def going_away(_: Request) -> Sequence[Reply]:
    """Answer nothing; as the last reaction it means that the helper goes away."""
    return []


class Server:
    """A helper that does what a test wrote down, one connection after the other."""

    def __init__(self, path: Path) -> None:
        """Listen at ``path``."""
        self.path = path
        self.seen: list[Request] = []
        self.ended = threading.Semaphore(0)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()

    def run(self, behaviours: Sequence[Behaviour]) -> None:
        """Behave so, connection for connection."""
        for behave in behaviours:
            connection, _ = self._listening.accept()
            peer = Peer(connection, self.seen)
            try:
                behave(peer)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the agent hung up, as it may
            finally:
                peer.close()
                self.ended.release()

    def close(self) -> None:
        """Listen no more."""
        self._listening.close()

    @property
    def methods(self) -> list[str]:
        """What was asked, in its order."""
        return [request.method for request in self.seen]


@contextmanager
def serving(folder: Path, *behaviours: Behaviour) -> Iterator[tuple[Server, HelperLine]]:
    """Serve so many connections and no more; each must have come."""
    server = Server(folder / "helper.socket")
    line = HelperLine(IDENTITY, server.path)
    thread = threading.Thread(target=server.run, args=(behaviours,), daemon=True)
    thread.start()
    try:
        yield server, line
    finally:
        line.close()
        thread.join(timeout=10)
        server.close()
        assert not thread.is_alive(), "a connection that was expected never came"


def ask(line: HelperLine, method: str = "read_holders", seconds: float = 5) -> Json:
    """Ask for anything."""
    return line.ask(ID, seconds, method, {"parent": str(PARENT)})


def asking(line: HelperLine) -> Asking:
    """Return root's verbs for one operation."""
    return Asking(line, Operation(ID, seconds=5, peer_is_there=lambda: True, notify=lambda _: None))


def test_no_socket(tmp_path: Path) -> None:
    """Where there is no socket, the sentence says which one and what root runs."""
    line = HelperLine(IDENTITY, tmp_path / "helper.socket")
    with pytest.raises(BackendError, match="zolder-san install") as caught:
        ask(line)
    assert str(tmp_path / "helper.socket") in caught.value.message
    assert "No such file" in caught.value.message


def test_nobody_listens(tmp_path: Path) -> None:
    """A socket that nobody listens at is told as one that does not answer."""
    server = Server(tmp_path / "helper.socket")
    server.close()
    with pytest.raises(BackendError, match=r"Connection refused.*zolder-san install"):
        ask(HelperLine(IDENTITY, server.path))


def test_no_permission(tmp_path: Path) -> None:
    """A socket that is closed to this user is told so."""
    with socket.socket(socket.AF_UNIX) as listening, ExitStack() as undo:
        listening.bind(str(tmp_path / "helper.socket"))
        listening.listen()
        undo.callback(os.seteuid, 0)
        os.seteuid(65534)
        with pytest.raises(BackendError, match=r"Permission denied.*zolder-san install"):
            ask(HelperLine(IDENTITY, tmp_path / "helper.socket"))


def test_a_full_queue(tmp_path: Path) -> None:
    """A helper with a full queue of others that wait is told as one that does not answer."""
    path = tmp_path / "helper.socket"
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as waiting:
        listening.bind(str(path))
        listening.listen(0)
        waiting.connect(str(path))
        with pytest.raises(BackendError, match="does not answer"):
            ask(HelperLine(IDENTITY, path))


def test_hello_comes_first(tmp_path: Path) -> None:
    """The first request opens the connection and says who asks; the next use it, each with its number."""
    with serving(tmp_path, answering(1, 2)) as (server, line):
        assert [ask(line), ask(line)] == [1, 2]
    assert server.methods == ["hello", "read_holders", "read_holders"]
    assert server.seen[0].params == {"identity": "lab", "version": __version__}
    assert len({request.id for request in server.seen}) == 3
    assert {request.operation for request in server.seen} == {ID}


@pytest.mark.parametrize(
    ("seconds", "deadline_ms"), [(5, 5000), (-3, 1), (0.0001, 1), (10**9, MAX_DEADLINE_MS)]
)
def test_deadlines(tmp_path: Path, seconds: float, deadline_ms: int) -> None:
    """A deadline that has passed or is too far off is sent as the nearest that the protocol has."""
    with serving(tmp_path, answering(None)) as (server, line):
        ask(line, seconds=seconds)
    assert server.seen[1].deadline_ms == deadline_ms


def test_a_helper_that_was_started_anew(tmp_path: Path) -> None:
    """A connection that ended between two requests is opened again, unnoticed."""
    with serving(tmp_path, answering(1), answering(2)) as (server, line):
        assert ask(line) == 1
        assert server.ended.acquire(timeout=5)
        assert ask(line) == 2
    assert server.methods == ["hello", "read_holders"] * 2


@pytest.mark.parametrize("first", [silent, reacting(), reacting(going_away)])
def test_a_helper_that_goes_away_once(tmp_path: Path, first: Behaviour) -> None:
    """A helper that goes away, at whatever point, is asked once more."""
    with serving(tmp_path, first, answering("there")) as (server, line):
        assert ask(line) == "there"
    assert server.methods[-2:] == ["hello", "read_holders"]


@pytest.mark.parametrize("first", [silent, reacting(going_away)])
@pytest.mark.parametrize("second", [silent, reacting(), reacting(going_away)])
def test_a_helper_that_goes_away_twice(tmp_path: Path, first: Behaviour, second: Behaviour) -> None:
    """A helper that goes away twice is an error with the verb in it, and the next request begins anew."""
    with serving(tmp_path, first, second, answering("there")) as (_, line):
        with pytest.raises(BackendError, match=r"went away at read_holders: .*journalctl"):
            ask(line)
        assert ask(line) == "there"


def test_a_helper_that_goes_away_and_then_has_no_time(tmp_path: Path) -> None:
    """What the first may have begun, the second does not make unbegun by coming too late."""
    late = reacting(lambda request: [Failure(request.id, DeadlineExceeded("the deadline passed"))])
    with (
        serving(tmp_path, reacting(going_away), late) as (_, line),
        pytest.raises(BackendError, match="went away at read_holders"),
    ):
        ask(line)


def test_half_an_answer(tmp_path: Path) -> None:
    """What stood on a connection that broke in the middle of an answer is not read into the next."""
    with serving(
        tmp_path, reacting(lambda request: [b'{"id":%d,"value":' % request.id]), answering("whole")
    ) as (
        _,
        line,
    ):
        assert ask(line) == "whole"


def test_refused(tmp_path: Path) -> None:
    """A refusal at the door, which ends the connection, is heard and not asked for again."""

    def refuse(peer: Peer) -> None:
        peer.send(Failure(0, Busy("256 connections", holders=[])))

    with serving(tmp_path, refuse) as (_, line), pytest.raises(Busy, match="256 connections"):
        ask(line)


def test_refused_before_it_was_asked(tmp_path: Path) -> None:
    """What the helper said before it hung up is heard even where nothing can be sent any more."""
    answered = threading.Event()

    def behave(peer: Peer) -> None:
        answering(1)(peer)
        assert answered.wait(5)
        peer.send(Failure(0, NotPermitted("no more")))

    with serving(tmp_path, behave) as (server, line):
        assert ask(line) == 1
        answered.set()
        assert server.ended.acquire(timeout=5)
        with pytest.raises(NotPermitted, match="no more"):
            ask(line)


def test_an_error_of_the_helper(tmp_path: Path) -> None:
    """What the helper fails with arrives as the same error, and the connection goes on."""
    failure = NotPermitted("data/other is not among the parents", dataset="data/other")
    behaviour = reacting(
        lambda request: [Failure(request.id, failure)], lambda request: [Answer(request.id, "next")]
    )
    with serving(tmp_path, behaviour) as (_, line):
        with pytest.raises(NotPermitted) as caught:
            ask(line)
        assert (caught.value.message, caught.value.details) == (failure.message, failure.details)
        assert ask(line) == "next"


@pytest.mark.parametrize(
    "react",
    [
        pytest.param(lambda request: [Answer(request.id + 1, 1), Answer(request.id, 2)], id="another's"),
        pytest.param(lambda request: [Answer(request.id - 1, 1), Answer(request.id, 2)], id="an-older"),
        pytest.param(lambda _: [b"garbage\n"], id="garbage"),
        pytest.param(lambda _: [b"\xff\n"], id="no-text"),
        pytest.param(lambda _: [b"[]\n"], id="no-object"),
        pytest.param(lambda request: [b'{"id":%d,"value":1.5}\n' % request.id], id="a-float"),
        pytest.param(lambda request: [b'{"id":%d}\n' % request.id], id="no-value"),
        pytest.param(lambda request: [b'{"id":%d,"value":1,"more":2}\n' % request.id], id="more"),
        pytest.param(lambda _: [b"x" * (MAX_ANSWER_BYTES + 1)], id="endless"),
    ],
)
def test_what_is_no_answer(tmp_path: Path, react: Reaction) -> None:
    """An answer to nothing is refused, and so is its connection: the next request opens a new one."""

    def behave(peer: Peer) -> None:
        reacting(react)(peer)
        assert peer.request() is None, "the agent stayed"

    with serving(tmp_path, behave, answering("next")) as (_, line):
        with pytest.raises(RemoteProtocolError):
            ask(line)
        assert ask(line) == "next"


# What is asked for each verb, what is sent for it, what comes back, and what that is.
ROUNDS: dict[str, tuple[Callable[[Asking], Any], dict[str, Json], Json, Any]] = {
    "read_holders": (
        lambda root: root.read_holders(PARENT, ZVOL),
        {"zvol": "volume-1"},
        ["process 812 (qemu-img)"],
        ("process 812 (qemu-img)",),
    ),
    "list_holders": (
        lambda root: root.list_holders(PARENT),
        {},
        [{"zvol": "volume-1", "holders": ["process 812 (qemu-img)"]}],
        (Held(ZVOL, ("process 812 (qemu-img)",)),),
    ),
    "open_export": (
        lambda root: root.open_export(PARENT, ZVOL, INITIATOR, chap=Chap("u", "s3cr3t")),
        {
            "zvol": "volume-1",
            "initiator": INITIATOR,
            "chap": {"user": "u", "secret": "s3cr3t", "target_user": None, "target_secret": None},
        },
        True,
        True,
    ),
    "close_export": (
        lambda root: root.close_export(PARENT, ZVOL, None, exporter=LIO),
        {"zvol": "volume-1", "initiator": None, "exporter": "lio"},
        False,
        False,
    ),
    "grow_export": (
        lambda root: root.grow_export(PARENT, ZVOL),
        {"zvol": "volume-1"},
        None,
        None,
    ),
    "list_exports": (
        lambda root: root.list_exports(PARENT),
        {},
        [EXPORT_JSON],
        (EXPORT,),
    ),
}


def test_every_verb_has_a_round() -> None:
    """No verb is left out below, but the one whose answer is a descriptor (test_descriptors.py)."""
    assert ROUNDS.keys() == set(VERBS) - {"open_device"}


@pytest.mark.parametrize("verb", ROUNDS)
def test_round(tmp_path: Path, verb: str) -> None:
    """Each verb is sent with its own parameters, and its answer comes back as the declared types."""
    call, params, answer, value = ROUNDS[verb]
    with serving(tmp_path, answering(answer)) as (server, line):
        found = call(asking(line))
    assert found == value
    assert type(found) is type(value)
    assert replace(server.seen[1], id=0, deadline_ms=1) == Request(
        0, ID, verb, 1, {"parent": str(PARENT), **params}
    )
    # What is to be closed is closed, however late.
    least, most = (30_000, 30_000) if verb == "close_export" else (4001, 5000)
    assert least <= server.seen[1].deadline_ms <= most


@pytest.mark.parametrize("answer", [1, "text", [1], {"a": 1}, {"a": {"b": {"value": 1}}}, [None]])
@pytest.mark.parametrize("verb", ROUNDS)
def test_answers_of_the_wrong_shape(tmp_path: Path, verb: str, answer: Json) -> None:
    """An answer that is not what the verb returns is refused with the verb's name, and the line goes on."""
    call, _, right, value = ROUNDS[verb]
    with serving(tmp_path, answering(answer, right)) as (_, line):
        root = asking(line)
        with pytest.raises(RemoteProtocolError, match=f"answer to {verb} is not what it should be"):
            call(root)
        assert call(root) == value


def test_a_helper_that_waits_may_say_so(tmp_path: Path) -> None:
    """A notice before the answer is no answer: another operation holds what this one needs."""

    def waiting(request: Request) -> list[Reply]:
        return [Notice(request.id, "waiting for another operation"), Answer(request.id, True)]

    with serving(tmp_path, reacting(waiting)) as (_, line):
        assert asking(line).close_export(PARENT, ZVOL, None, exporter=None) is True


@pytest.mark.parametrize("notices", [False, True])
def test_a_helper_that_does_not_answer(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    notices: bool,  # noqa: FBT001 - pytest gives it by name
) -> None:
    """It is given up some time behind the deadline, whatever it notes; the next request begins anew."""
    monkeypatch.setattr("zolder.san.asking._MARGIN_SECONDS", 0.2)
    gone = threading.Event()

    def behave(peer: Peer) -> None:
        answering()(peer)
        request = peer.request()
        assert request
        while not gone.wait(0.05):
            if notices:
                peer.send(Notice(request.id, "waiting for another operation"))
        assert peer.request() is None, "the agent stayed"

    with serving(tmp_path, behave, answering("next")) as (server, line):
        with pytest.raises(BackendError, match=r"did not answer read_holders in time: .*zpool status"):
            ask(line, seconds=0.1)
        gone.set()
        assert ask(line) == "next"
    assert server.methods == ["hello", "read_holders"] * 2


def test_an_answer_behind_the_deadline(tmp_path: Path) -> None:
    """The deadline itself cuts nothing short: an answer that comes soon behind it is heard."""
    asked = threading.Event()

    def behave(peer: Peer) -> None:
        answering()(peer)
        request = peer.request()
        assert request
        assert not asked.wait(2 * request.deadline_ms / 1000)
        peer.send(Answer(request.id, "late"))

    with serving(tmp_path, behave) as (_, line):
        assert ask(line, seconds=0.05) == "late"
