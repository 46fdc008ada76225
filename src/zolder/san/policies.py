"""The policies of all identities: /etc/zolder/san.toml, read and checked whole.

The file is the administrator's alone: it is refused unless root owns it and nobody else can write it. The
identity comes from the forced command, never from the client. Nothing is done here but reading that file.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Any, Final

from zolder.errors import InvalidRequest
from zolder.names import DatasetName, Identity, Name, Portal, TargetPrefix
from zolder.properties import Daring
from zolder.san.policy import ROLES, Policy

POLICY_FILE: Final = Path("/etc/zolder/san.toml")

ROLE, SHARED, ADOPT = "role", "shared_parents", "adopt_from"
_LISTS: Final[Mapping[str, type[Name]]] = {
    "parents": DatasetName,
    SHARED: DatasetName,
    ADOPT: DatasetName,
    "portals": Portal,
    "target_prefixes": TargetPrefix,
    "daring_properties": Daring,
}
_LIMITS: Final = ("max_volume_gib", "max_volumes", "max_total_gib", "max_channels")
_NEEDED: Final = {
    "volumes": {"parents", "portals", "target_prefixes"},
    "read-only": {"parents"},
    "replication-receive": {"parents"},
}


class PolicyError(Exception):
    """The policy file is missing, unsafe or wrong; the message names file, line and reason."""


class CurrentPolicy:
    """One identity's policy as the file says it now; read again when the file has changed."""

    def __init__(self, identity: Identity, path: Path = POLICY_FILE, *, owner: int = 0) -> None:
        """Read nothing yet; see ``load_policy``."""
        self._identity = identity
        self._path = path
        self._owner = owner
        self._stamp: tuple[int, ...] = ()
        self._policy: Policy | None = None

    def __call__(self) -> Policy:
        """Return the policy.

        :raises PolicyError: as ``load_policy``.
        """
        stamp = self._look()
        if self._policy is None or stamp != self._stamp:
            self._policy = load_policy(self._identity, self._path, owner=self._owner)
            self._stamp = stamp
        return self._policy

    def _look(self) -> tuple[int, ...]:
        try:
            status = self._path.stat()
        except OSError:
            return ()  # reading it says why
        return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def load_policy(identity: Identity, path: Path = POLICY_FILE, *, owner: int = 0) -> Policy:
    """Read one identity's policy; a mistake in another's is refused, too.

    :param owner: the user whose file it must be; root, but in tests.
    :raises PolicyError: the file is missing, not root's alone, wrong, or does not list the identity.
    """
    try:
        with path.open("rb") as file:
            _check_owner(path, os.fstat(file.fileno()), owner)
            text = file.read().decode()
        table = tomllib.loads(text)
    except FileNotFoundError as err:
        message = f"{path} does not exist: write this SAN's policy there (docs/quickstart.md)"
        raise PolicyError(message) from err
    except (OSError, ValueError, RecursionError) as err:  # not each is a TOMLDecodeError
        message = f"{path}: {err}"
        raise PolicyError(message) from err
    unknown = table.keys() - {"identity"}
    if unknown or not isinstance(table.get("identity"), dict):
        message = f"{path}: the file has [identity.NAME] tables and nothing else {sorted(unknown)}"
        raise PolicyError(message)
    policies = {name: _Table(path, text, name, entry).policy() for name, entry in table["identity"].items()}
    if identity not in policies:
        message = f"{path}: there is no table [identity.{identity}]"
        raise PolicyError(message)
    _check_apart(path, policies)
    return policies[identity]


def _check_owner(path: Path, status: os.stat_result, owner: int) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_uid != owner or status.st_mode & 0o022:
        message = f"{path} must be a file that root owns and only root can write"
        raise PolicyError(message)


def _check_apart(path: Path, policies: Mapping[str, Policy]) -> None:
    """Refuse a parent that is, or lies below, another identity's, unless both say that they share it.

    So with target prefixes: where one begins with another, both could make a target of one name. And nobody
    adopts what is, or may come to be, another's.
    """
    for one, other in permutations(policies.values(), 2):
        if not set(one.shared_parents) & set(other.shared_parents):
            for longer in one.target_prefixes:
                if longer.startswith(other.target_prefixes):
                    message = (
                        f"{path}: target prefix {longer} of identity {one.identity} begins like one of"
                        f" identity {other.identity}: give each its own (--target-prefix), for a target"
                        " belongs to one of them"
                    )
                    raise PolicyError(message)
        for inner in (*one.parents, *one.adopt_from):
            for outer in (*other.parents, *other.adopt_from):
                shared = inner in one.shared_parents and outer in other.shared_parents
                if f"{inner}/".startswith(f"{outer}/") and not shared:
                    message = (
                        f"{path}: {inner} of identity {one.identity} lies in {outer} of identity "
                        f"{other.identity}: part them, or list both under shared_parents"
                    )
                    raise PolicyError(message)


def _shown(value: object) -> str:
    """Return the beginning of what stands in the file, or its kind where Python refuses to spell it out."""
    try:
        return f"{value!r:.80}"
    except (ValueError, RecursionError):  # an integer of thousands of digits, a table thousands deep
        return f"such a {type(value).__name__}"


class _Table:
    """One [identity.NAME] table on its way to a policy."""

    def __init__(self, path: Path, text: str, name: str, entry: object) -> None:
        self._path = path
        self._text = text
        self._name = name
        self._entry = entry

    def policy(self) -> Policy:
        """Return the policy that the table spells.

        :raises PolicyError: it has a key too few or too many, or a value that will not do.
        """
        entry = self._entry
        if not isinstance(entry, dict):
            raise self._error(None, "is no table")
        role = entry.get(ROLE, "volumes")
        if not isinstance(role, str) or role not in ROLES:
            raise self._error(ROLE, f"{ROLE}: one of {', '.join(ROLES)} is needed, not {_shown(role)}")
        for key in entry.keys() - {*_LISTS, *_LIMITS, ROLE}:
            raise self._error(key, f"{key!r:.80} is no key of an identity")
        for key in sorted(_NEEDED[role] - entry.keys()):
            raise self._error(None, f"{key} is missing")
        values: dict[str, Any] = {
            key: self._limit(key, value) if key in _LIMITS else self._list(key, value)
            for key, value in entry.items()
            if key != ROLE
        }
        try:
            policy = Policy(Identity(self._name), role=role, **values)
        except InvalidRequest as err:
            raise self._error(None, err.message) from err
        for place in policy.adopt_from:
            if place not in policy.parents:
                raise self._error(ADOPT, f"{ADOPT}: {place} is not among the parents")
        for parent in policy.shared_parents:
            if parent not in policy.parents:
                raise self._error(SHARED, f"{SHARED}: {parent} is not among the parents")
        return policy

    def _list(self, key: str, items: object) -> tuple[Name, ...]:
        kind = _LISTS[key]
        # A string would do as a list of its letters.
        if not isinstance(items, list) or not items:
            raise self._error(key, f"{key}: a list with one or more is needed, not {_shown(items)}")
        try:
            return tuple(kind(item) for item in items)
        except InvalidRequest as err:
            raise self._error(key, err.message) from err

    def _limit(self, key: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self._error(key, f"{key}: a number that is not negative is needed, not {_shown(value)}")
        return value

    def _error(self, key: str | None, reason: str) -> PolicyError:
        line = self._line_of(key)
        where = f"{self._path}, line {line}" if line else str(self._path)
        return PolicyError(f"{where}: [identity.{self._name}] {reason}")

    def _line_of(self, key: str | None) -> int | None:
        """Return the line of a key, or of the table's head; None where TOML was written in another way."""
        heads = (f"[identity.{self._name}]", f'[identity."{self._name}"]')
        inside = False
        for number, line in enumerate(self._text.split("\n"), start=1):
            if line.lstrip().startswith("["):
                inside = line.partition("#")[0].strip() in heads
                if inside and key is None:
                    return number
            elif inside and key is not None and re.match(rf'\s*"?{re.escape(key)}"?\s*=', line):
                return number
        return None
