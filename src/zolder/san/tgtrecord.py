"""What Zolder writes on a target of its own in tgtd, so that one request about one target tells all of it.

tgtd shows LUNs, accounts and ACLs of all targets at once or of none (0.2 ms a target, measured under
emulation), but of one target it shows the redirect address: free text, which redirects nobody while no reason
goes with it (target_redirected() in usr/iscsi/target.c of tgt 1.0.85). It dies with the target, as all of
tgtd's state does with tgtd. A record is written before what it says is done, so it never says less than there
is. It holds no secret, only 32 bits of a digest that tell whether one was changed. No I/O.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from zolder.errors import InvalidRequest
from zolder.model import Chap
from zolder.names import InitiatorName

# NI_MAXHOST, the most that tgtd keeps of a redirect address (it cuts off the rest without a word).
LONGEST_BYTES: Final = 1025
_MARK: Final = "zolder"
_NONE: Final = "-"
_DIGEST_CHARACTERS: Final = 8
_ADDRESS = re.compile(r"^RedirectAddress=(.*)$", re.MULTILINE)
_HEAD: Final = 7
_LOGIN: Final = 3


class Progress(StrEnum):
    """How far a target has come."""

    BARE = "bare"  # its LUN may be absent or another than the record says
    BUSY = "busy"  # its LUN is there; who may log in is being changed
    WHOLE = "whole"  # all is as the record says


@dataclass(frozen=True, slots=True)
class Login:
    """Who may log in, and with which account. No digest: that is not finished, or is being undone."""

    initiator: InitiatorName
    user: str | None
    digest: str | None

    @classmethod
    def of(cls, target: str, initiator: InitiatorName, chap: Chap | None) -> Self:
        """Return the finished login of an initiator."""
        text = f"{target} {initiator} {chap.user} {chap.secret}" if chap else ""
        digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]
        return cls(initiator, chap.user if chap else None, digest)

    def pending(self) -> Self:
        """Return it as one that is not finished."""
        return replace(self, digest=None)


@dataclass(frozen=True, slots=True)
class Record:
    """All that Zolder knows of one of its targets. Each text is a word without commas."""

    progress: Progress
    target: str
    dataset: str
    device: Path
    serial: str
    read_only: bool
    logins: tuple[Login, ...]

    @property
    def initiators(self) -> tuple[InitiatorName, ...]:
        """Who may log in, sorted."""
        return tuple(sorted(login.initiator for login in self.logins))

    @property
    def users(self) -> tuple[str, ...]:
        """Its accounts, in the order in which they were bound."""
        return tuple(login.user for login in self.logins if login.user is not None)

    def login_of(self, initiator: InitiatorName) -> Login | None:
        """Return an initiator's login, if it has one."""
        return next((login for login in self.logins if login.initiator == initiator), None)

    def allows(self, login: Login) -> bool:
        """Whether all is done for a login."""
        return self.progress is Progress.WHOLE and login in self.logins

    def having(self, login: Login) -> Self:
        """Return it with a login in its place, or behind the others: accounts keep their order."""
        if self.login_of(login.initiator) is None:
            return replace(self, logins=(*self.logins, login))
        logins = (login if held.initiator == login.initiator else held for held in self.logins)
        return replace(self, logins=tuple(logins))

    def without(self, initiator: InitiatorName) -> Self:
        """Return it without an initiator's login."""
        return replace(self, logins=tuple(login for login in self.logins if login.initiator != initiator))

    def encode(self) -> str:
        """Return it as one line.

        :raises InvalidRequest: it is longer than tgtd keeps.
        """
        logins = [f"{login.initiator},{login.user or _NONE},{login.digest or _NONE}" for login in self.logins]
        mode = "ro" if self.read_only else "rw"
        words = (
            _MARK,
            self.progress,
            self.target,
            self.dataset,
            str(self.device),
            self.serial,
            mode,
            *logins,
        )
        text = " ".join(words)
        if len(text.encode()) > LONGEST_BYTES:
            message = (
                f"tgt cannot keep {len(logins)} initiators of {self.target}; use lio for so many at once"
            )
            raise InvalidRequest(message, target=self.target)
        return text


def parse_record(shown: str) -> Record | None:
    """Return the record in what tgtd shows of one target; None where the target bears none of ours."""
    found = _ADDRESS.search(shown)
    words = found[1].split(" ") if found else []
    if len(words) < _HEAD or words[0] != _MARK:
        return None
    try:
        return Record(
            progress=Progress(words[1]),
            target=words[2],
            dataset=words[3],
            device=Path(words[4]),
            serial=words[5],
            read_only=words[6] == "ro",
            logins=tuple(_parse_login(word) for word in words[_HEAD:]),
        )
    except (ValueError, InvalidRequest):
        return None  # somebody wrote over it, so it is no longer ours to change


def _parse_login(word: str) -> Login:
    parts = word.split(",")
    if len(parts) != _LOGIN:
        message = "a login is an initiator, a user and a digest"
        raise ValueError(message)
    initiator, user, digest = parts
    return Login(
        InitiatorName(initiator), None if user == _NONE else user, None if digest == _NONE else digest
    )
