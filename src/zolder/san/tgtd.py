"""The management socket of tgtd, the iSCSI target daemon: one request, one answer, one connection.

Spoken instead of running tgtadm, which takes CHAP secrets in its argv and costs a process each time. What a
request means is for the caller (zolder.san.tgt). tgtd has one thread, so the wait for an answer is bounded,
and it answers root alone. Parameters may hold secrets: they appear in no error, no log and no repr. A Tgtd is
a value without state and may be shared by threads.
Sources: usr/tgtadm.h, usr/tgtadm_error.h and usr/mgmt.c of tgt 1.0.85.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Final

from zolder.errors import BackendError

SOCKET: Final = Path("/var/run/tgtd/socket.0")
ANSWER_SECONDS: Final = 10

# struct tgtadm_req: mode, op, lld, len, tid, sid, lun, cid, host_no, device_type, ac_dir, pack, force.
# Nothing is padded, for 80 bytes stand before its first 64-bit field.
REQUEST: Final = struct.Struct("=ii64sIiQQIIIIII")
# struct tgtadm_rsp: err, len (its own 8 bytes included); the text follows.
ANSWER: Final = struct.Struct("=II")
_TIMEVAL: Final = struct.Struct("@ll")
_DRIVER: Final = b"iscsi"
# MAX_MGT_BUFSIZE in usr/mgmt.c; tgtd hangs up on more.
_LONGEST_PARAMETERS: Final = 8192
_RECEIVE_BYTES: Final = 65536


class Mode(IntEnum):
    """What a request is about (enum tgtadm_mode)."""

    TARGET = 1
    DEVICE = 2
    PORTAL = 3
    CONNECTION = 6
    ACCOUNT = 7


class Op(IntEnum):
    """What is to be done with it (enum tgtadm_op)."""

    NEW = 0
    DELETE = 1
    SHOW = 2
    BIND = 3
    UNBIND = 4
    UPDATE = 5


class Refusal(IntEnum):
    """What tgtd answers (enum tgtadm_errno); the names are its own."""

    SUCCESS = 0
    UNKNOWN_ERR = 1
    NOMEM = 2
    NO_DRIVER = 3
    NO_TARGET = 4
    NO_LUN = 5
    NO_SESSION = 6
    NO_CONNECTION = 7
    NO_BINDING = 8
    TARGET_EXIST = 9
    LUN_EXIST = 10
    BINDING_EXIST = 11
    ACL_EXIST = 12
    ACL_NOEXIST = 13
    USER_EXIST = 14
    NO_USER = 15
    TOO_MANY_USER = 16
    INVALID_REQUEST = 17
    OUTACCOUNT_EXIST = 18
    TARGET_ACTIVE = 19
    LUN_ACTIVE = 20
    DRIVER_ACTIVE = 21
    UNSUPPORTED_OPERATION = 22
    UNKNOWN_PARAM = 23
    PREVENT_REMOVAL = 24


class TgtdAbsent(BackendError):
    """No tgtd runs here, so nothing is exported by one. Raised as any BackendError to those who need one."""


@dataclass(frozen=True, slots=True)
class Request:
    """One thing asked of tgtd. ``tid`` -1 means all targets where the request allows it."""

    mode: Mode
    op: Op
    tid: int = 0
    sid: int = 0
    lun: int = 0
    cid: int = 0
    parameters: str = field(default="", repr=False)

    @property
    def title(self) -> str:
        """What an error may show of it: never its parameters."""
        return f"{self.op.name.lower()} {self.mode.name.lower()} (tid {self.tid})"

    def encode(self) -> bytes:
        """Return it as tgtd reads it.

        :raises BackendError: it is longer than tgtd takes.
        """
        # tgtd reads the parameters as a C string of exactly the length that is announced.
        text = self.parameters.encode() + b"\0" if self.parameters else b""
        if len(text) > _LONGEST_PARAMETERS or b"\0" in text[:-1]:
            message = f"tgtd: {self.title}: its parameters are too long or hold a NUL"
            raise BackendError(message)
        length = REQUEST.size + len(text)
        numbers = (length, self.tid, self.sid, self.lun, self.cid)
        # Behind these: host_no, device_type (0 is a disk), ac_dir (0 is incoming), pack, force.
        return REQUEST.pack(self.mode, self.op, _DRIVER, *numbers, 0, 0, 0, 0, 0) + text


@dataclass(frozen=True, slots=True)
class Answer:
    """What tgtd said: done, or one of the refusals that the caller expected; and its text."""

    refusal: Refusal
    text: str

    @property
    def done(self) -> bool:
        """Whether it did what it was asked."""
        return self.refusal is Refusal.SUCCESS


class Tgtd:
    """The daemon behind one socket."""

    def __init__(self, path: Path = SOCKET, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        """Speak to the daemon at ``path``, which need not run yet."""
        self._path = path
        self._answer_seconds = answer_seconds

    def ask(self, request: Request, *expected: Refusal) -> Answer:
        """Send a request and return the answer.

        :param expected: refusals that are an answer to this caller.
        :raises TgtdAbsent: tgtd does not run.
        :raises BackendError: it is silent, or refuses for another reason.
        """
        error, text = _decode(self._exchange(request), request)
        try:
            refusal = Refusal(error)
        except ValueError:
            refusal = Refusal.UNKNOWN_ERR
        if refusal is Refusal.SUCCESS or refusal in expected:
            return Answer(refusal, text)
        message = f"tgtd refuses to {request.title}: {refusal.name} ({error})"
        raise BackendError(message, tgtd_error=error)

    def _exchange(self, request: Request) -> bytes:
        encoded = request.encode()
        received = bytearray()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                # Not settimeout(): with it a connect(2) to a busy daemon fails at once with EAGAIN.
                for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
                    connection.setsockopt(socket.SOL_SOCKET, option, self._timeval())
                connection.connect(str(self._path))
                connection.sendall(encoded)
                while piece := connection.recv(_RECEIVE_BYTES):
                    received += piece
        except (FileNotFoundError, ConnectionRefusedError) as err:
            message = "tgtd is not running: install tgt if it is absent, then `systemctl start tgt`"
            raise TgtdAbsent(message, path=str(self._path)) from err
        except BlockingIOError as err:
            message = f"tgtd did not answer within {self._answer_seconds:g} s: {request.title}"
            raise BackendError(message) from err
        except OSError as err:
            message = f"tgtd: cannot {request.title}: {err.strerror}"
            raise BackendError(message, errno=err.errno or 0) from err
        return bytes(received)

    def _timeval(self) -> bytes:
        whole = int(self._answer_seconds)
        return _TIMEVAL.pack(whole, int((self._answer_seconds - whole) * 1_000_000))


def _decode(received: bytes, request: Request) -> tuple[int, str]:
    """Return the number and the text of an answer."""
    if len(received) >= ANSWER.size:
        error, length = ANSWER.unpack_from(received)
        if len(received) == length:
            return error, received[ANSWER.size :].rstrip(b"\0").decode(errors="replace")
    message = (
        f"tgtd hung up before its answer was whole: {request.title}; it died, or it does not run"
        " as the user and the group that ask (root)"
    )
    raise BackendError(message)
