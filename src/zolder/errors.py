"""Every error that crosses a border of Zolder, named by what the caller may do next.

::

    Error
    +-- RequestError     never retry           InvalidRequest, NotPermitted, UnknownMethod
    +-- StateError       something must change NotFound, AlreadyExists, Busy, NoSpace,
    |                                          PoolUnavailable, PoolSuspended
    +-- BackendError     the SAN's tools or kernel said something that nobody recognised
    +-- TransportError   ConnectFailed (nothing was sent); ConnectionLost, DeadlineExceeded
    +-- ProtocolError    LocalProtocolError, RemoteProtocolError, VersionMismatch

On the wire an error is its ``code``, ``message`` and ``details``: never a class name or a traceback,
never a secret. ``NotFound`` is raised only where the SAN proved the object absent (docs/design.md, 5).
"""

from __future__ import annotations

from typing import ClassVar, TypeAlias

Details: TypeAlias = dict[str, "str | int | list[str]"]


class Error(Exception):
    """The base of all errors; ``code`` is its name on the wire."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, /, **details: str | int | list[str]) -> None:
        """Keep one sentence for people and the figures or names behind it for programs."""
        super().__init__(message)
        self.message = message
        self.details: Details = details


class RequestError(Error):
    """The request itself is wrong: asking again can never help."""

    code = "request"


class InvalidRequest(RequestError):
    """A name, size or identifier that can never be right."""

    code = "invalid_request"


class NotPermitted(RequestError):
    """Well formed, but this identity's policy or the object's missing mark forbids it."""

    code = "not_permitted"


class UnknownMethod(RequestError):
    """The agent has no such request."""

    code = "unknown_method"


class StateError(Error):
    """The SAN's state forbids it now; once that changes the same request may pass."""

    code = "state"


class NotFound(StateError):
    """The object is proven absent: the zpool is active and its parent is the one we know."""

    code = "not_found"


class AlreadyExists(StateError):
    """Something of that name exists and is not what was asked for."""

    code = "already_exists"


class Busy(StateError):
    """Somebody holds it; ``details["holders"]`` names who."""

    code = "busy"


class NoSpace(StateError):
    """It does not fit; ``details`` carries ``needed_bytes`` and ``available_bytes`` where known."""

    code = "no_space"


class PoolUnavailable(StateError):
    """The zpool is not imported, or the parent is not the dataset recorded at set-up."""

    code = "pool_unavailable"


class PoolSuspended(StateError):
    """The zpool has suspended all I/O; nothing was attempted."""

    code = "pool_suspended"


class BackendError(Error):
    """A failure that nobody recognised; ``details`` carries what ran and what it said."""

    code = "backend"


class TransportError(Error):
    """The request may not have reached the SAN, or its answer did not come back."""

    code = "transport"


class ConnectFailed(TransportError):
    """No channel could be opened; nothing was sent."""

    code = "connect_failed"


class ConnectionLost(TransportError):
    """The channel ended before the answer; the request may have been carried out."""

    code = "connection_lost"


class DeadlineExceeded(TransportError):
    """The time for this operation ran out; the SAN does not begin it any more."""

    code = "deadline_exceeded"


class ProtocolError(Error):
    """One of the two sides broke the protocol."""

    code = "protocol"


class LocalProtocolError(ProtocolError):
    """This side tried to send what the protocol does not allow."""

    code = "local_protocol"


class RemoteProtocolError(ProtocolError):
    """The other side sent what the protocol does not allow."""

    code = "remote_protocol"


class VersionMismatch(ProtocolError):
    """The two sides share no version of the protocol."""

    code = "version_mismatch"


def _tree(base: type[Error]) -> dict[str, type[Error]]:
    found = {base.code: base}
    for child in base.__subclasses__():
        found |= _tree(child)
    return found


_BY_CODE = _tree(Error)


def error_of(code: str, message: str, details: Details) -> Error:
    """Build the error that a code from the wire names; an unknown code becomes a BackendError."""
    return _BY_CODE.get(code, BackendError)(message, **details)
