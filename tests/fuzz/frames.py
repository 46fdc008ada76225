"""Fuzz targets for zolder.wire: single frames in both directions, and a stream in arbitrary cuts."""

from __future__ import annotations

from contextlib import suppress

from zolder.errors import LocalProtocolError, RemoteProtocolError
from zolder.shapes import MAX_INTEGER, Json
from zolder.wire import (
    MAX_REQUEST_BYTES,
    Failure,
    LineReader,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)


def check_request(line: bytes) -> None:
    """A line is a request that goes there and back unchanged, or a RemoteProtocolError."""
    try:
        request = decode_request(line)
    except RemoteProtocolError:
        return
    assert type(request.id) is type(request.deadline_ms) is int, "a bool is no integer"
    _check_values(request.params)
    # Escapes make a line longer, so one that was just short enough may not go out again.
    with suppress(LocalProtocolError):
        again = encode_request(request)
        assert len(again) <= MAX_REQUEST_BYTES
        assert again.isascii()
        assert again.count(b"\n") == 1
        assert decode_request(again) == request


def check_reply(line: bytes) -> None:
    """A line is a reply that goes there and back unchanged, or a RemoteProtocolError."""
    try:
        reply = decode_reply(line)
    except RemoteProtocolError:
        return
    again = encode_reply(reply)
    back = decode_reply(again)
    assert encode_reply(back) == again
    assert again.isascii()
    if not isinstance(reply, Failure):
        assert back == reply
        return
    assert isinstance(back, Failure)
    assert type(back.error) is type(reply.error)
    assert (back.id, back.error.message) == (reply.id, reply.error.message)
    assert back.error.details == reply.error.details


def check_stream(data: bytes) -> None:
    """However a stream is cut, the same lines come out, none beyond the limit, and what waits is below it.

    The first byte is the limit, the second the number of cuts, then come their sizes and the stream.
    """
    if len(data) < 2:  # nothing to say where the stream begins
        return
    limit_bytes, sizes, stream = data[0] + 1, data[2 : 2 + data[1] % 32] or b"\xff", data[2 + data[1] % 32 :]
    wanted, refused = _cut(stream, limit_bytes)
    reader = LineReader(limit_bytes)
    found: list[bytes] = []
    failed = False
    at = turn = 0
    while at < len(stream) and not failed:
        piece = stream[at : at + sizes[turn % len(sizes)] + 1]
        at, turn = at + len(piece), turn + 1
        try:
            found.extend(reader.feed(piece))
        except RemoteProtocolError:
            failed = True
        else:
            assert len(reader.pending) < limit_bytes
    assert (found, failed) == (wanted, refused)
    assert failed or b"".join(found) + reader.pending == stream


def _cut(stream: bytes, limit_bytes: int) -> tuple[list[bytes], bool]:
    """Return the lines of a stream that is there as a whole, and whether one of them is too long."""
    *whole, rest = stream.split(b"\n")
    lines: list[bytes] = []
    for line in whole:
        if len(line) >= limit_bytes:
            return lines, True
        lines.append(line + b"\n")
    return lines, len(rest) >= limit_bytes


def _check_values(value: Json) -> None:
    """Make sure that there is nothing in a frame that the protocol does not know."""
    if isinstance(value, dict):
        for item in value.values():
            _check_values(item)
    elif isinstance(value, list):
        for item in value:
            _check_values(item)
    elif isinstance(value, int):
        assert -MAX_INTEGER <= value <= MAX_INTEGER, "an integer beyond 64 bits"
    else:
        assert value is None or isinstance(value, str)
