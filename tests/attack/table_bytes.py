"""Attacks by raw bytes, before and after hello: whatever is no frame ends the channel and nothing else."""

from __future__ import annotations

import json
import struct
from typing import Any, Final

from tests.attack.ground import PARENT
from tests.attack.model import ENDED, HELLO, Attack, Bytes, frame, line
from tests.attack.table_requests import RIGHT

BROKEN: Final = frozenset({"remote_protocol"})
CLOSED: Final = frozenset({"closed"})
DELETE: Final = line("delete_zvol", RIGHT["delete_zvol"])
# Of what nobody may reach.
READ: Final = line("read_zvol", {"parent": PARENT, "zvol": "volume-taken"})
MAX_REQUEST_BYTES: Final = 256 * 1024
# Of contents: as much data as its head can say, as far behind as it can say.
FRAME: Final = struct.pack(">4sIQ", b"DATA", 2**32 - 1, 2**64 - 1)


def _with(**fields: Any) -> bytes:  # noqa: ANN401 - hostile JSON is any JSON
    return json.dumps({**frame("delete_zvol", RIGHT["delete_zvol"]), **fields}).encode() + b"\n"


def _without(field: str) -> bytes:
    whole = frame("delete_zvol", RIGHT["delete_zvol"])
    del whole[field]
    return json.dumps(whole).encode() + b"\n"


def _text(old: str, new: str) -> bytes:
    return DELETE.replace(old.encode(), new.encode())


# On a greeted channel: each is a deletion of our own volume but for one thing, and deletes nothing.
_AFTER: Final[dict[str, bytes]] = {
    "a-request-without-an-operation": _without("operation"),
    "a-request-with-a-field-more": _with(identity="other"),
    "a-request-with-a-truth-as-its-id": _with(id=True),
    "a-request-with-an-id-beyond-64-bits": _with(id=2**63),
    "a-request-with-a-number-of-5000-digits": _text('"id": 1', f'"id": {"9" * 5000}'),
    "a-request-with-a-fraction-as-its-id": _text('"id": 1', '"id": 1.0'),
    "a-request-with-a-deadline-of-zero": _with(deadline_ms=0),
    "a-request-with-a-deadline-next-year": _with(deadline_ms=365 * 24 * 3600 * 1000),
    "a-request-with-an-operation-that-is-a-path": _with(operation="../../etc/passwd"),
    "a-request-with-a-nul-in-its-method": _with(method="delete_zvol\0"),
    "a-request-with-its-method-twice": _text('"id": 1', '"id": 1, "method": "get_zvol"'),
    "a-request-with-a-key-twice-by-an-escape": _text('"zvol":', '"z\\u0076ol": "volume-taken", "zvol":'),
    "two-requests-on-a-line": DELETE[:-1] + DELETE,
    "a-request-behind-a-byte-order-mark": b"\xef\xbb\xbf" + DELETE,
    "a-request-with-an-overlong-slash": DELETE.replace(b"data/volumes", b"data\xc0\xafvolumes"),
    "a-request-with-a-nul-behind-it": DELETE[:-1] + b"\0\n",
    "ten-thousand-lists-in-each-other": b"[" * 10_000 + b"]" * 10_000 + b"\n",
    "parameters-as-deep-as-a-line-allows": _text('"volume-own"', "[" * 60_000 + "]" * 60_000),
    "a-line-one-byte-too-long": b"x" * MAX_REQUEST_BYTES + b"\n",
    "a-line-without-an-end": b"x" * (2 * MAX_REQUEST_BYTES),
    "garbage": bytes(range(256)) * 4 + b"\n",
    "an-answer-instead-of-a-request": b'{"id":1,"value":{"changed":true,"value":null}}\n',
    "a-request-of-http": b"GET / HTTP/1.1\r\nHost: san\r\n\r\n",
    "a-request-behind-garbage": b"garbage\n" + DELETE,
    "a-deletion-behind-a-request-for-contents": READ + DELETE,
}
_HALF: Final[dict[str, bytes]] = {
    "half-a-request-and-the-end": DELETE[: len(DELETE) // 2],
    "a-request-but-for-its-newline": DELETE[:-1],
    "nothing-and-the-end": b"",
}
_BEFORE: Final[dict[str, bytes]] = {
    "a-request-before-hello": DELETE,
    "a-request-before-hello-and-hello-behind-it": DELETE + HELLO,
    "hello-with-a-protocol-of-tomorrow": line("hello", {"protocols": [2, 99], "version": "9"}),
    "hello-with-a-protocol-beyond-64-bits": line("hello", {"protocols": [2**64], "version": "9"}),
    "hello-with-a-newline-in-its-version": line("hello", {"protocols": [1], "version": "0\nx"}),
    "hello-with-a-version-of-100-kB": line("hello", {"protocols": [1], "version": "9" * 100_000}),
    "half-a-hello-and-the-end": HELLO[:20],
}

ATTACKS: Final = (
    *(Attack(f"send-{name}", "bytes", Bytes(data), BROKEN) for name, data in _AFTER.items()),
    *(Attack(f"send-{name}", "half", Bytes(data), CLOSED) for name, data in _HALF.items()),
    *(
        Attack(f"send-{name}", "greeting", Bytes(data, greeted=False), ENDED)
        for name, data in _BEFORE.items()
    ),
    Attack(
        "send-a-frame-behind-a-request-for-contents",
        "bytes",
        Bytes(READ + FRAME),
        # Whichever is seen first: that it came too soon, or that nothing more comes.
        BROKEN | {"connection_lost"},
    ),
    Attack(
        "send-a-mutation-and-hang-up-before-the-answer-of-a-refusal",
        "half",
        Bytes(line("delete_zvol", {"parent": PARENT, "zvol": "foreign"})),
        frozenset({"not_permitted", "connection_lost", "closed"}),
    ),
)
