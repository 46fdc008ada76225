"""The record of every request, in this SAN's system log; zolder.san.journal reads it back.

One line of JSON a request, in ASCII: whatever a client sends stands quoted in one field and can neither split
a line nor pass for another. CHAP is never in it. Who wrote a line, and when, is the system log's to say.
"""

from __future__ import annotations

import json
import os
import syslog
from collections.abc import Callable, Mapping
from typing import Final

from zolder.names import Identity
from zolder.shapes import Json
from zolder.wire import Request

TAG: Final = "zolder-san"
# What says which object a request is about; nothing else of its parameters is recorded.
_OBJECT: Final = (
    "parent", "zvol", "snapshot", "source", "view_id", "initiator", "attachment", "volsize_bytes",
)  # fmt: skip
# A dataset's name has 255 at most.
_LONGEST_TEXT: Final = 260

Record = Callable[[Request, str, float], None]


def recorder(identity: Identity, environment: Mapping[str, str] = os.environ) -> Record:
    """Return what writes the line of one request of an identity: request, outcome, seconds.

    :param environment: where sshd says who the peer is; a forced command's client cannot change that.
    """
    syslog.openlog(TAG, 0, syslog.LOG_USER)
    peer = (environment.get("SSH_CONNECTION") or "local").split()[0]

    def record(request: Request, outcome: str, seconds: float) -> None:
        line = format_line(identity, peer, request, outcome, seconds)
        syslog.syslog(syslog.LOG_AUTHPRIV | syslog.LOG_INFO, line)

    return record


def format_line(identity: Identity, peer: str, request: Request, outcome: str, seconds: float) -> str:
    """Return the line of one request."""
    entry = {
        "identity": str(identity),
        "peer": peer,
        "method": request.method[:_LONGEST_TEXT],
        "object": {name: _short(request.params[name]) for name in _OBJECT if name in request.params},
        "outcome": outcome,
        "ms": round(seconds * 1000),
        "operation": str(request.operation),
    }
    return json.dumps(entry, ensure_ascii=True)


def outcome_of(value: Json) -> str:
    """Return the outcome of a request that was answered with a value."""
    if isinstance(value, Mapping) and isinstance(value.get("changed"), bool):
        return "changed" if value["changed"] else "unchanged"
    return "answered"


def _short(value: Json) -> str | int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    return value[:_LONGEST_TEXT] if isinstance(value, str) else f"a {type(value).__name__}"
