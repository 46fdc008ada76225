from __future__ import annotations

import itertools
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.strategies import integers, json_values, texts
from zolder.errors import Busy, Error, LocalProtocolError, RemoteProtocolError, _tree, error_of
from zolder.names import OperationId
from zolder.wire import (
    MAX_ANSWER_BYTES,
    MAX_DEADLINE_MS,
    MAX_REQUEST_BYTES,
    Answer,
    Failure,
    LineReader,
    Notice,
    Reply,
    Request,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)

OPERATION = OperationId("3f0c1b6e-5a52-4c1e-9a0b-0123456789ab")
FRAME = {"id": 1, "operation": OPERATION, "method": "get_zvol", "deadline_ms": 1000, "params": {}}

requests = st.builds(
    Request,
    id=integers,
    operation=st.uuids().map(lambda value: OperationId(str(value))),
    method=texts,
    deadline_ms=st.integers(1, MAX_DEADLINE_MS),
    params=st.dictionaries(texts, json_values, max_size=4),
)
# Whatever a tool may have said, control characters and lone surrogates too.
raw_texts = st.text(max_size=60)
details = st.dictionaries(raw_texts, raw_texts | integers | st.lists(raw_texts, max_size=3), max_size=3)
failures = st.builds(
    Failure,
    id=integers,
    error=st.builds(error_of, code=st.sampled_from(sorted(_tree(Error))), message=raw_texts, details=details),
)
garbage = st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode())


@given(request=requests)
def test_request_round_trip(request: Request) -> None:
    """A request that goes out as one line comes in equal."""
    line = encode_request(request)
    assert line.index(b"\n") == len(line) - 1
    assert decode_request(line) == request


@given(reply=st.builds(Answer, id=integers, value=json_values) | st.builds(Notice, id=integers, text=texts))
def test_reply_round_trip(reply: Reply) -> None:
    """An answer or a notice that goes out as one line comes in equal."""
    line = encode_reply(reply)
    assert line.index(b"\n") == len(line) - 1
    assert decode_reply(line) == reply


@given(failure=failures)
@example(Failure(1, Busy("zfs said:\nbusy\n" * 1000, holders=["a\0b"], message="x\n")))
def test_failure_round_trip(failure: Failure) -> None:
    """An error keeps its class across the wire, and whatever a tool said arrives in a printable form."""
    line = encode_reply(failure)
    back = decode_reply(line)
    assert isinstance(back, Failure)
    assert type(back.error) is type(failure.error)
    assert back.error.message.isprintable()
    assert encode_reply(back) == line


def refusal(decode: Callable[[bytes], object], line: bytes) -> str:
    """Return why a line was refused; empty where it was not."""
    try:
        decode(line)
    except RemoteProtocolError as err:
        return err.message
    return ""


@given(line=garbage)
@example(b"")
@example(b"\n")
@example(b"\xff\n")
@example(b"\xef\xbb\xbf{}\n")
@example(b"[" * 200_000)
@example(b'{"a":' * 100_000)
@example(b'{"id":1,"id":2}')
@example(b"NaN")
@example(b"1" * 100_000)
def test_garbage(line: bytes) -> None:
    """Bytes that are no frame raise RemoteProtocolError in one printable line, and nothing else."""
    assert refusal(decode_request, line).isprintable()
    assert refusal(decode_reply, line).isprintable()


@pytest.mark.parametrize(
    "change",
    [
        {"id": None},
        {"id": True},
        {"id": "1"},
        {"id": 2**63},
        {"id": 10**30},
        {"id": 1.0},
        {"operation": "1"},
        {"operation": "../../etc/passwd"},
        {"method": 7},
        {"method": "a\nb"},
        {"deadline_ms": 0},
        {"deadline_ms": -1},
        {"deadline_ms": MAX_DEADLINE_MS + 1},
        {"params": []},
        {"params": None},
        {"params": {"size": 1.5}},
        {"params": {"size": float("inf")}},
        {"shell": "reboot"},
    ],
)
def test_wrong_request(change: dict[str, Any]) -> None:
    """A request with a wrong, missing or unknown field is refused as a whole."""
    decode_request(json.dumps(FRAME).encode())
    with pytest.raises(RemoteProtocolError):
        decode_request(json.dumps(FRAME | change).encode())


@pytest.mark.parametrize("missing", FRAME)
def test_missing_field(missing: str) -> None:
    """Every field of a request must be there."""
    frame = {key: value for key, value in FRAME.items() if key != missing}
    with pytest.raises(RemoteProtocolError):
        decode_request(json.dumps(frame).encode())


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":1}',
        b'{"id":1,"value":1,"notice":"both"}',
        b'{"value":1}',
        b'{"id":1,"error":"busy"}',
        b'{"id":1,"error":{"code":"busy","message":"m"}}',
        b'{"id":1,"error":{"code":"busy","message":"m","details":[]}}',
        b'{"id":1,"error":{"code":"busy","message":"m","details":{"n":null}}}',
        b'{"id":1,"error":{"code":"busy","message":"m","details":{"n":true}}}',
        b'{"id":1,"error":{"code":7,"message":"m","details":{}}}',
        b'{"id":1,"notice":7}',
        b'{"id":1,"id":1,"value":2}',
    ],
)
def test_wrong_reply(line: bytes) -> None:
    """A reply that is not exactly one of the three kinds is refused."""
    with pytest.raises(RemoteProtocolError):
        decode_reply(line)


def test_request_too_large() -> None:
    """A request beyond the agent's limit is not even sent."""
    request = Request(1, OPERATION, "get_zvol", 1000, {"parent": "x" * MAX_REQUEST_BYTES})
    with pytest.raises(LocalProtocolError):
        encode_request(request)


def test_answer_too_large() -> None:
    """An answer beyond the client's limit goes out as a failure that says so."""
    back = decode_reply(encode_reply(Answer(7, "x" * MAX_ANSWER_BYTES)))
    assert isinstance(back, Failure)
    assert back.id == 7
    assert "larger than" in back.error.message


def test_other_languages_arrive() -> None:
    """A name in any script arrives as it is, while the line itself is ASCII."""
    line = encode_reply(Notice(1, "výkon, 性能"))
    assert line.isascii()
    assert decode_reply(line) == Notice(1, "výkon, 性能")


@given(
    lines=st.lists(st.binary(max_size=30).map(lambda data: data.replace(b"\n", b"")), max_size=8),
    rest=st.binary(max_size=10).map(lambda data: data.replace(b"\n", b"")),
    sizes=st.lists(st.integers(1, 9), min_size=1),
)
def test_lines_in_pieces(lines: list[bytes], rest: bytes, sizes: list[int]) -> None:
    """However a stream is cut into reads, the same lines come out in order, and what is begun is kept."""
    stream = b"".join(line + b"\n" for line in lines) + rest
    reader = LineReader(64)
    found: list[bytes] = []
    at = 0
    while at < len(stream):
        size = sizes[at % len(sizes)]
        found += reader.feed(stream[at : at + size])
        at += size
    assert found == [line + b"\n" for line in lines]
    assert reader.pending == rest


@pytest.mark.parametrize(("length", "fits"), [(63, True), (64, False)])
def test_line_limit(length: int, *, fits: bool) -> None:
    """A line may be as long as the limit with its newline, and not a byte longer."""
    reader = LineReader(64)
    data = b"x" * length + b"\n"
    if fits:
        assert list(reader.feed(data)) == [data]
    else:
        with pytest.raises(RemoteProtocolError):
            list(reader.feed(data))


def test_whole_lines_before_a_long_one() -> None:
    """What arrived whole before a line that is too long is still handed out."""
    reader = LineReader(8)
    lines = reader.feed(b"a\nb\n" + b"x" * 20)
    assert next(lines) == b"a\n"
    assert next(lines) == b"b\n"
    with pytest.raises(RemoteProtocolError):
        next(lines)


def test_memory_has_a_limit() -> None:
    """A peer that never ends its line costs the limit and one read, however much it sends."""
    reader = LineReader(MAX_REQUEST_BYTES)
    endless = itertools.repeat(b"x" * 65536)
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            list(itertools.chain.from_iterable(map(reader.feed, endless)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MAX_REQUEST_BYTES


def test_limits_hold_what_is_promised() -> None:
    """A list of 10,000 zvols fits an answer, with the longest names that there are."""
    zvol = {
        "parent": "p" * 61,
        "name": "z" * 96,
        "volume_id": OPERATION,
        "volsize_bytes": 2**60,
        "sparse": True,
        "origin": "o" * 255,
    }
    back = decode_reply(encode_reply(Answer(1, [zvol] * 10_000)))  # type: ignore[list-item]  # dict is invariant
    assert isinstance(back, Answer)
