"""The policy file, and what it names: identities, their parents, portals and prefixes."""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Iterator
from typing import Final

from zolder.errors import InvalidRequest
from zolder.names import DatasetName, Identity, Portal, TargetPrefix
from zolder.san.check.accounts import check_place
from zolder.san.check.finding import Check, Finding, NotChecked
from zolder.san.check.machine import Machine
from zolder.san.policies import PolicyError, load_policy
from zolder.san.policy import Policy

POLICY: Final = Check("policy")
PATH: Final = "/etc/zolder/san.toml"
AUTHORIZE: Final = "sudo zolder-san authorize NAME --key FILE --parent DATASET"
_EDIT: Final = f"sudoedit {PATH}"


def check_policy(machine: Machine) -> Iterator[Finding]:
    """Look at the policy file: root's alone, understood, with at least one identity."""
    yield from check_place(POLICY, machine, PATH, uid=machine.root_uid, mode=0o644, kind=stat.S_IFREG)
    if machine.find_status(PATH) is None:
        return
    try:
        found = _load(machine)
    except PolicyError as err:
        yield POLICY.failure(PATH, f"no request is served: {_shown(machine, str(err))}", _EDIT)
        return
    if not found:
        yield POLICY.note(PATH, "has no identity yet: nobody is served", AUTHORIZE)
    for name, policy in found.items():
        parents = ", ".join(policy.parents)
        yield POLICY.ok(f"identity {name}", f"is {policy.role} on {parents}")


def policies(machine: Machine) -> dict[str, Policy]:
    """Return each identity's policy.

    :raises NotChecked: the file is missing or wrong, which `check_policy` says as a failure.
    """
    try:
        return _load(machine)
    except PolicyError as err:
        message = f"the policy cannot be used: {_shown(machine, str(err))}"
        raise NotChecked(message, _EDIT) from err


def parents(machine: Machine) -> list[DatasetName]:
    """Return every parent that the policy names, once, sorted."""
    return sorted({parent for policy in policies(machine).values() for parent in policy.parents})


def zpools(machine: Machine) -> list[str]:
    """Return every zpool with a parent in it, once, sorted."""
    return sorted({parent.zpool for parent in parents(machine)})


def portals(machine: Machine) -> list[Portal]:
    """Return every portal that the policy names, once, sorted."""
    return sorted({portal for policy in policies(machine).values() for portal in policy.portals})


def prefixes(machine: Machine) -> list[TargetPrefix]:
    """Return every target prefix that the policy names, once, sorted."""
    return sorted({prefix for policy in policies(machine).values() for prefix in policy.target_prefixes})


def _load(machine: Machine) -> dict[str, Policy]:
    path = machine.path(PATH)
    try:
        table = tomllib.loads(machine.text(PATH))
    except tomllib.TOMLDecodeError as err:
        message = f"{PATH}: {err}"
        raise PolicyError(message) from err
    named = table.get("identity", {})
    if not isinstance(named, dict) or table.keys() - {"identity"}:
        message = f"{PATH}: the file has [identity.NAME] tables and nothing else"
        raise PolicyError(message)
    found = {}
    for name in named:
        try:
            found[name] = load_policy(Identity(name), path, owner=machine.root_uid)
        except InvalidRequest as err:
            message = f"{PATH}: {err.message}"
            raise PolicyError(message) from err
    return found


def _shown(machine: Machine, message: str) -> str:
    return message.replace(str(machine.path(PATH)), PATH)
