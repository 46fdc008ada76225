"""What each identity may do: read from /etc/zolder/san.toml, checked before every request.

The file is the administrator's alone: it is refused unless root owns it and nobody else can write it. The
identity comes from the forced command, never from the client. Pure but for reading that file.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from zolder.api import check_volsize
from zolder.errors import InvalidRequest, NotPermitted
from zolder.names import DatasetName, Identity, Name, Portal, TargetPrefix

N = TypeVar("N", bound=Name)

POLICY_FILE: Final = Path("/etc/zolder/san.toml")


class PolicyError(Exception):
    """The policy file is missing, unsafe or wrong; the message names file, place and reason."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One identity's rights."""

    identity: Identity
    parents: tuple[DatasetName, ...]
    portals: tuple[Portal, ...]
    target_prefixes: tuple[TargetPrefix, ...]

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Check the typed arguments of a request against this identity's rights.

        :raises NotPermitted: a parent, portal or prefix is not this identity's.
        :raises InvalidRequest: a size that no zvol can have, or an export without a portal.
        """
        self._check_listed("parent", [arguments["parent"]], self.parents)
        self._check_listed("portal", arguments.get("portals", ()), self.portals)
        if "prefix" in arguments:
            self._check_listed("target prefix", [arguments["prefix"]], self.target_prefixes)
        if "portals" in arguments and not arguments["portals"]:
            message = "an export needs at least one portal"
            raise InvalidRequest(message)
        if "volsize_bytes" in arguments:
            check_volsize(arguments["volsize_bytes"])

    def _check_listed(self, what: str, asked: Any, listed: tuple[Name, ...]) -> None:  # noqa: ANN401 - names
        for name in asked:
            if name not in listed:
                message = f"{what} {name} is not among those of identity {self.identity} in this SAN's policy"
                raise NotPermitted(message)


def load_policy(identity: Identity, path: Path = POLICY_FILE, *, owner: int = 0) -> Policy:
    """Read one identity's policy.

    :param owner: the user whose file it must be; root, but in tests.
    :raises PolicyError: the file is missing, not root's alone, no TOML, or does not list the identity.
    """
    try:
        with path.open("rb") as file:
            _check_owner(path, os.fstat(file.fileno()), owner)
            table = tomllib.load(file)
    except FileNotFoundError as err:
        message = f"{path} does not exist: write this SAN's policy there (docs/quickstart.md)"
        raise PolicyError(message) from err
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        message = f"{path}: {err}"
        raise PolicyError(message) from err
    unknown = table.keys() - {"identity"}
    if unknown or not isinstance(table.get("identity"), dict):
        message = f"{path}: the file has [identity.NAME] tables and nothing else {sorted(unknown)}"
        raise PolicyError(message)
    policies = {name: _policy_of(path, name, entry) for name, entry in table["identity"].items()}
    if identity not in policies:
        message = f"{path}: there is no table [identity.{identity}]"
        raise PolicyError(message)
    return policies[identity]


def _check_owner(path: Path, status: os.stat_result, owner: int) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_uid != owner or status.st_mode & 0o022:
        message = f"{path} must be a file that root owns and only root can write"
        raise PolicyError(message)


_KEYS: Final = {"parents", "portals", "target_prefixes"}


def _policy_of(path: Path, name: str, entry: object) -> Policy:
    where = f"{path}: [identity.{name}]"
    if not isinstance(entry, dict) or entry.keys() != _KEYS:
        message = f"{where} must have exactly {', '.join(sorted(_KEYS))}"
        raise PolicyError(message)
    try:
        return Policy(
            Identity(name),
            parents=_listed(DatasetName, entry["parents"]),
            portals=_listed(Portal, entry["portals"]),
            target_prefixes=_listed(TargetPrefix, entry["target_prefixes"]),
        )
    except InvalidRequest as err:
        message = f"{where} {err}"
        raise PolicyError(message) from err


def _listed(kind: type[N], items: object) -> tuple[N, ...]:
    # A string would do as a list of its letters.
    if not isinstance(items, list) or not items:
        message = f"{kind.what}: a list with one or more is needed, not {items!r:.80}"
        raise InvalidRequest(message)
    return tuple(kind(item) for item in items)
