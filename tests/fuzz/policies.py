"""Fuzz target for zolder.san.policies: any text as the policy file."""

from __future__ import annotations

import os
import tempfile
import tomllib
from contextlib import suppress
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Final

from tests.fuzz.checked_names import check_checked
from zolder.errors import InvalidRequest
from zolder.names import Identity
from zolder.san.policies import PolicyError, load_policy
from zolder.san.policy import ROLES, Policy

LONGEST_MESSAGE: Final = 2000


def check_policy(data: bytes) -> None:
    """A text is refused with a PolicyError that names the file, or all its identities keep apart."""
    path = _file()
    path.write_bytes(data)
    policies = {identity: policy for identity in _identities(data) if (policy := _load(identity, path, data))}
    for policy in policies.values():
        _check(policy)
    for one, other in combinations(policies.values(), 2):
        check_apart(one, other)


def _load(identity: Identity, path: Path, data: bytes) -> Policy | None:
    try:
        return load_policy(identity, path, owner=os.getuid())
    except PolicyError as err:
        refused = str(err)
    assert str(path) in refused
    # Each character of a text may stand there as an escape of ten characters.
    assert len(refused) < LONGEST_MESSAGE + 10 * len(data), "a message that grows beyond the input"
    return None


def check_apart(one: Policy, other: Policy) -> None:
    """Hold two policies to this: no dataset is, or lies in, one of the other's, but where both share it."""
    for mine in one.parents:
        for theirs in other.parents:
            depth = min(mine.count("/"), theirs.count("/")) + 1
            if mine.split("/")[:depth] == theirs.split("/")[:depth]:
                assert mine in one.shared_parents, f"{mine} overlaps {theirs} and is not shared"
                assert theirs in other.shared_parents, f"{theirs} overlaps {mine} and is not shared"


def _check(policy: Policy) -> None:
    assert policy.role in ROLES
    assert policy.parents
    names = (*policy.parents, *policy.shared_parents, *policy.portals, *policy.target_prefixes)
    for name in (policy.identity, *names):
        check_checked(type(name).__name__, name)
    assert set(policy.shared_parents) <= set(policy.parents)
    if policy.role == "volumes":
        assert policy.portals
        assert policy.target_prefixes
    limits = (policy.max_volume_gib, policy.max_volumes, policy.max_total_gib, policy.max_channels)
    for limit in limits:
        assert limit is None or (type(limit) is int and limit >= 0)


def _identities(data: bytes) -> list[Identity]:
    """Return the first identities of a text; ours alone where it names none."""
    identities = []
    # What is found here is only who to ask for: bytes that are no policy at all are asked for all the same.
    with suppress(ValueError, RecursionError):
        tables = tomllib.loads(data.decode()).get("identity")
        for name in list(tables)[:4] if isinstance(tables, dict) else ():
            with suppress(InvalidRequest):
                identities.append(Identity(name))
    return identities or [Identity("lab")]


@cache
def _file() -> Path:
    """Return a file of ours alone, the same for the whole process: its name stands in every message."""
    folder = tempfile.TemporaryDirectory(prefix="zolder-fuzz-")
    _KEPT.append(folder)
    path = Path(folder.name) / "san.toml"
    path.touch(mode=0o600)
    return path


_KEPT: list[tempfile.TemporaryDirectory[str]] = []
