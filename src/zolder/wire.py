"""The protocol between client and agent, without I/O: frames of JSON, one a line (docs/protocol.md).

A client sends a ``Request`` and waits: the agent answers with any number of ``Notice`` and then one
``Answer`` or ``Failure``. The first request on a channel is ``hello``. There are no floats, no duplicate
keys and no integers beyond 64 bits; a line has a limit, so neither side's memory depends on the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeAlias

from zolder.errors import Details, Error, InvalidRequest, LocalProtocolError, RemoteProtocolError, error_of
from zolder.names import Identity, OperationId
from zolder.shapes import MAX_INTEGER, MAX_TEXT, Json, decode

PROTOCOLS: Final = (1,)
# The exporters that this agent knows, whether what it exports comes back by itself, that it knows a volume
# type's properties, that it reverts and keeps what clones need, snapshots groups, adopts what others made,
# that zvols' contents go over a channel, and that it moves zvols between its parents.
FEATURES: Final = (
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
)

# A request names a few objects; an answer may list 10,000 zvols at some 200 bytes each.
MAX_REQUEST_BYTES: Final = 256 * 1024
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
MAX_DEADLINE_MS: Final = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Request:
    """One operation. ``deadline_ms`` counts from the moment the agent reads it: clocks may differ."""

    id: int
    operation: OperationId
    method: str
    deadline_ms: int
    params: dict[str, Json]


@dataclass(frozen=True, slots=True)
class Answer:
    """The value that a request's method returned, in its JSON form."""

    id: int
    value: Json


@dataclass(frozen=True, slots=True)
class Failure:
    """The error that a request ended with. ``id`` is 0 where no request could be read."""

    id: int
    error: Error


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence about a request that is still under way, for the log."""

    id: int
    text: str


@dataclass(frozen=True, slots=True)
class Progress:
    """That contents may be sent, at first with 0, and then how far those written lie safe in the zvol."""

    id: int
    safe_bytes: int


Reply: TypeAlias = Answer | Failure | Notice | Progress


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a client says of itself in ``hello``."""

    protocols: tuple[int, ...]
    version: str


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the agent answers to ``hello``."""

    protocol: int
    version: str
    features: tuple[str, ...]
    identity: Identity
    zfs_version: str


def encode_request(request: Request) -> bytes:
    """Return a request as one line.

    :raises LocalProtocolError: it is larger than the agent accepts.
    """
    line = _line(
        {
            "id": request.id,
            "operation": str(request.operation),
            "method": request.method,
            "deadline_ms": request.deadline_ms,
            "params": request.params,
        }
    )
    if len(line) > MAX_REQUEST_BYTES:
        message = f"a request of {len(line)} bytes is larger than {MAX_REQUEST_BYTES}"
        raise LocalProtocolError(message)
    return line


def encode_reply(reply: Reply) -> bytes:
    """Return a reply as one line; an answer beyond the limit becomes a failure that says so."""
    if isinstance(reply, Answer):
        line = _line({"id": reply.id, "value": reply.value})
        if len(line) <= MAX_ANSWER_BYTES:
            return line
        message = f"the answer of {len(line)} bytes is larger than {MAX_ANSWER_BYTES}"
        return encode_reply(Failure(reply.id, LocalProtocolError(message)))
    if isinstance(reply, Notice):
        return _line({"id": reply.id, "notice": _printable(reply.text)})
    if isinstance(reply, Progress):
        return _line({"id": reply.id, "safe_bytes": reply.safe_bytes})
    error: dict[str, Json] = {
        "code": reply.error.code,
        "message": _printable(reply.error.message),
        "details": {_printable(name): _detail_text(item) for name, item in reply.error.details.items()},
    }
    return _line({"id": reply.id, "error": error})


def decode_request(line: bytes) -> Request:
    """Read a request.

    :raises RemoteProtocolError: the line is no frame, so its id cannot be trusted.
    """
    frame = _object(line)
    try:
        if frame.keys() != {"id", "operation", "method", "deadline_ms", "params"}:
            message = "a request has exactly id, operation, method, deadline_ms and params"
            raise InvalidRequest(message)
        params = frame["params"]
        if not isinstance(params, dict):
            message = "params must be an object"
            raise InvalidRequest(message)
        deadline_ms = decode(int, frame["deadline_ms"])
        if not 0 < deadline_ms <= MAX_DEADLINE_MS:
            message = f"deadline_ms must be from 1 to {MAX_DEADLINE_MS}"
            raise InvalidRequest(message)
        return Request(
            id=decode(int, frame["id"]),
            operation=decode(OperationId, frame["operation"]),
            method=decode(str, frame["method"]),
            deadline_ms=deadline_ms,
            params=params,
        )
    except InvalidRequest as err:
        raise RemoteProtocolError(err.message) from err


def decode_reply(line: bytes) -> Reply:
    """Read a reply.

    :raises RemoteProtocolError: the line is no reply.
    """
    frame = _object(line)
    try:
        number = decode(int, frame.get("id"))
        if frame.keys() == {"id", "value"}:
            return Answer(number, frame["value"])
        if frame.keys() == {"id", "notice"}:
            return Notice(number, decode(str, frame["notice"]))
        if frame.keys() == {"id", "safe_bytes"}:
            return Progress(number, decode(int, frame["safe_bytes"]))
        if frame.keys() == {"id", "error"}:
            return Failure(number, _error(frame["error"]))
    except InvalidRequest as err:
        raise RemoteProtocolError(err.message) from err
    message = "a reply has an id and one of value, notice, safe_bytes and error"
    raise RemoteProtocolError(message)


class LineReader:
    """Cut a stream of bytes into lines that are never longer than a limit."""

    def __init__(self, limit_bytes: int) -> None:
        """Start empty; ``limit_bytes`` includes the newline."""
        self._limit = limit_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add what was read and yield each line that is now whole.

        :raises RemoteProtocolError: a line grew beyond the limit; the stream is of no use any more.
        """
        new = len(self._buffer)  # what came before holds no newline
        self._buffer += data
        while (end := self._buffer.find(b"\n", new) + 1) > 0:
            if end > self._limit:
                break
            line = bytes(self._buffer[:end])
            del self._buffer[:end]
            new = 0
            yield line
        if len(self._buffer) >= self._limit:
            message = f"a line is longer than {self._limit} bytes"
            raise RemoteProtocolError(message)

    @property
    def pending(self) -> bytes:
        """The beginning of a line that has not ended yet."""
        return bytes(self._buffer)


def _printable(text: str) -> str:
    """Return text in the form that the other side accepts: a tool's output may hold anything."""
    return "".join(char if char.isprintable() else " " for char in text[:MAX_TEXT])


def _detail_text(item: str | int | list[str]) -> Json:
    if isinstance(item, list):
        return [_printable(text) for text in item]
    return _printable(item) if isinstance(item, str) else item


def _line(frame: dict[str, Json]) -> bytes:
    return json.dumps(frame, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def _object(line: bytes) -> dict[str, Json]:
    try:
        frame = json.loads(
            line.decode("utf-8"),
            object_pairs_hook=_no_duplicates,
            parse_float=_no_number,
            parse_constant=_no_number,
            parse_int=_integer,
        )
    except (ValueError, RecursionError) as err:
        message = f"a line is no frame: {type(err).__name__}"
        raise RemoteProtocolError(message) from err
    if not isinstance(frame, dict):
        message = "a frame is an object"
        raise RemoteProtocolError(message)
    return frame


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        message = "an object has a key twice"
        raise ValueError(message)
    return found


def _no_number(text: str) -> NoReturn:
    message = f"not a number of this protocol: {text[:20]}"
    raise ValueError(message)


def _integer(text: str) -> int:
    if len(text) > len(str(MAX_INTEGER)) + 1 or abs(int(text)) > MAX_INTEGER:
        message = "an integer beyond 64 bits"
        raise ValueError(message)
    return int(text)


def _error(frame: Json) -> Error:
    if not isinstance(frame, dict) or frame.keys() != {"code", "message", "details"}:
        message = "an error has exactly code, message and details"
        raise InvalidRequest(message)
    details = frame["details"]
    if not isinstance(details, dict):
        message = "details must be an object"
        raise InvalidRequest(message)
    checked: Details = {decode(str, name): _detail(item) for name, item in details.items()}
    return error_of(decode(str, frame["code"]), decode(str, frame["message"]), checked)


def _detail(item: Json) -> str | int | list[str]:
    if isinstance(item, list):
        return list(decode(tuple[str, ...], item))
    checked: str | int = decode(int, item) if isinstance(item, int) else decode(str, item)
    return checked
