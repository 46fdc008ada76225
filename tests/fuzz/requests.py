"""Fuzz target for the agent's loop: whatever a client sends, up to the storage behind the policy's check.

The loop, the decoders and the policy are the real ones; behind them stands the model in memory, and between
them a border that holds each argument to the independent predicates and to the policy's own words.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Container
from dataclasses import fields
from typing import Any, Final, get_type_hints

from tests.contract.ground import CAPACITY_BYTES, PARENT, PORTALS, PREFIX, prepare_fake
from tests.fuzz.checked_names import check_checked
from tests.fuzz.predicates import PREDICATES
from zolder.api import CONTENTS_METHODS, METHODS, ContentsRequests, Storage
from zolder.errors import ProtocolError
from zolder.fake import FakeStorage
from zolder.model import ZvolCopy
from zolder.names import Identity
from zolder.properties import ZvolProperties
from zolder.san.agent import Agent
from zolder.san.audit import Record, format_line
from zolder.san.channel import Channel
from zolder.san.operation import Operation
from zolder.san.policy import GIB, Policy
from zolder.san.serve import Service, serve
from zolder.wire import Failure, Progress, Reply, Request, decode_reply

ID: Final = "3f0c1b6e-5a52-4c1e-9a0b-0123456789ab"
HELLO: Final = b'{"protocols":[1],"version":"0"}'
WRITER: Final = Policy(Identity("lab"), (PARENT,), PORTALS, (PREFIX,), max_volume_gib=1)
READER: Final = Policy(Identity("reader"), (PARENT,), role="read-only")
# Written out: the policy decides by how a method's name begins.
_LOOKING: Final = {
    "find_zvol",
    "list_found_snapshots",
    "list_found_zvols",
    "get_figures",
    "get_guid",
    "get_zvol",
    "list_attachments",
    "list_exports",
    "list_put_aside",
    "list_snapshots",
    "list_views",
    "list_zvols",
}
_HINTS: Final = {
    **{method: get_type_hints(getattr(Storage, method)) for method in METHODS},
    **{method: get_type_hints(getattr(ContentsRequests, method)) for method in CONTENTS_METHODS},
}


class Border:
    """What stands behind the policy: it checks once more whatever came through, then asks the model."""

    def __init__(self, policy: Policy) -> None:
        """Begin with a model that nobody has used."""
        self._policy = policy
        self._storage = FakeStorage((PARENT,), capacity_bytes=CAPACITY_BYTES)
        self._faults: list[str] = []
        prepare_fake(self._storage)

    def __call__(self, operation: Operation) -> Any:  # noqa: ANN401 - it answers to each of Storage's names
        """Take an operation, as the loop asks of whatever makes a storage."""
        assert operation.remaining_seconds <= 24 * 3600
        return self

    def __getattr__(self, method: str) -> Any:  # noqa: ANN401 - as above
        """Return the checked form of one of Storage's methods."""

        def carried(parent: Any, zvol: Any, ends: Any) -> Any:  # noqa: ANN401 - what came over the channel
            self._check(method, {"parent": parent, "zvol": zvol})
            return getattr(self._storage, method)(parent, zvol, ends)

        def checked(**arguments: Any) -> Any:  # noqa: ANN401 - what the method declares
            try:
                self._check(method, arguments)
            except AssertionError as err:
                # The loop answers a fault of the storage as an internal error, which `record` refuses.
                self._faults.append(f"{method}: {err}")
                raise
            return getattr(self._storage, method)(**arguments)

        return carried if method in CONTENTS_METHODS else checked

    def record(self, request: Request, outcome: str, seconds: float) -> None:
        """Write the line of a request, and refuse an internal error, which no client may cause."""
        line = format_line(self._policy.identity, "192.0.2.9", request, outcome, seconds)
        assert line.isascii()
        assert line.isprintable()
        assert outcome != "internal", self._faults or f"an internal error in {request.method}"

    def _check(self, method: str, arguments: dict[str, Any]) -> None:
        assert method in {*METHODS, *CONTENTS_METHODS}
        assert self._policy.role == "volumes" or method in _LOOKING, "beyond the role"
        declared = _HINTS[method].keys() - {"return", "resumed"}
        assert arguments.keys() <= declared, "not the parameters that are declared"
        assert declared - arguments.keys() <= {"properties", "volblocksize", "former"}, "too few"
        for value in arguments.values():
            _check_value(value)
        assert arguments["parent"] == arguments.get("to", PARENT) == PARENT
        assert not method.startswith("adopt"), "its policy names no place to adopt from"
        if "route" in arguments:
            route = arguments["route"]
            assert set(route.portals) == set(PORTALS)
            assert len(route.portals) == len(PORTALS)
            assert route.prefix == PREFIX
        if properties := arguments.get("properties"):
            _check_daring(properties)
        assert all(member.parent == PARENT for member in arguments.get("members", ()))
        for copy in arguments.get("copies", ()):
            _check_copy(copy)
        assert 0 < arguments.get("volsize_bytes", 1) <= GIB


def _check_copy(copy: ZvolCopy) -> None:
    assert copy.parent == PARENT
    assert 0 < copy.volsize_bytes <= GIB
    _check_daring(copy.properties)


def _check_daring(properties: ZvolProperties) -> None:
    assert properties.copies in {None, "1"}, "a daring property"
    assert properties.dedup in {None, "off"}, "a daring property"
    assert properties.sync != "disabled", "a daring property"
    assert properties.checksum != "off", "a daring property"


def _check_value(value: Any) -> None:  # noqa: ANN401 - whatever a parameter may be
    """Hold a name to its predicate, and what is made of others to theirs, one by one."""
    kind = type(value).__name__
    if kind in PREDICATES:
        check_checked(kind, value)
    elif kind == "tuple":
        for item in value:
            _check_value(item)
    elif kind in {"Route", "Access", "ZvolCopy", "ZvolProperties", "ZvolSnapshot"}:
        for field in fields(value):
            _check_value(getattr(value, field.name))
    elif kind == "Chap":
        pairs = (value.user, value.secret, value.target_user, value.target_secret)
        assert all(text is None or text.isprintable() for text in pairs)
    else:
        assert kind in {"int", "bool", "NoneType"}, f"{kind} is not checked"


def check_channel(data: bytes) -> None:
    """Whatever a client sends is answered in frames, without a fault and within the policy.

    The first byte is the role. A line ``METHOD PARAMETERS`` stands for a request, any other for itself.
    """
    policy = READER if data[:1] == b"r" else WRITER
    border = Border(policy)
    agent = Agent(
        lambda: policy, storage_for=lambda _, operation: border(operation), zfs_version=lambda: "fake"
    )
    converse(agent, spelled(data[1:], {*METHODS, *CONTENTS_METHODS}, HELLO), record=border.record)


def spelled(data: bytes, methods: Container[str], hello: bytes) -> list[bytes]:
    """Return the lines of a channel: each ``METHOD PARAMETERS`` as the request that it stands for.

    :param hello: the parameters of a ``hello`` that has none.
    """
    return [_spelled(number, line, methods, hello) for number, line in enumerate(data.split(b"\n"))]


def converse(service: Service, lines: list[bytes], *, record: Record) -> list[Reply]:
    """Serve a client that sends these lines at once, and hold what it is answered to the protocol.

    :return: what it is answered.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())  # a channel's own process may end with some blocked
    incoming, outgoing = os.memfd_create("incoming"), os.memfd_create("outgoing")
    try:
        os.write(incoming, b"\n".join(lines))
        os.lseek(incoming, 0, os.SEEK_SET)
        serve(Channel(incoming, outgoing), service, record=record)
        os.lseek(outgoing, 0, os.SEEK_SET)
        with os.fdopen(os.dup(outgoing), "rb") as stream:
            heard = [decode_reply(line) for line in stream]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(incoming)
        os.close(outgoing)
    # Who is told that contents may go has sent nothing more, and so the request ends there.
    replies: list[Reply] = [reply for reply in heard if not isinstance(reply, Progress)]
    assert len(replies) <= len(lines)
    assert len(heard) <= len(replies) + 1
    for reply in replies[:-1]:
        # Whoever broke the protocol is answered once, and then no more.
        assert not isinstance(reply, Failure) or not isinstance(reply.error, ProtocolError)
    return replies


def _spelled(number: int, line: bytes, methods: Container[str], hello: bytes) -> bytes:
    method, _, parameters = line.partition(b" ")
    name = method.decode("ascii", "replace")
    if name not in methods and name != "hello":
        return line
    head = f'{{"id":{number},"operation":"{ID}","method":"{name}","deadline_ms":1000,"params":'
    return head.encode() + (parameters or hello) + b"}"
