"""The policy file's text: what the loader makes of it, and the text with a table more or one fewer.

Whatever an administrator wrote stays byte for byte. A new text is believed only once the agent's own loader
read it.
"""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from zolder.errors import InvalidRequest
from zolder.names import Identity
from zolder.san.policies import PolicyError as PolicyError  # noqa: PLC0414 - what callers here catch
from zolder.san.policies import load_policy
from zolder.san.policy import Policy
from zolder.san.setup.host import Host, SetupError
from zolder.san.setup.texts import POLICY_FILE
from zolder.san.setup.tree import require_roots

Policies = dict[Identity, Policy]


def read_text(host: Host) -> str | None:
    """Return the policy file's text; None where there is none.

    :raises SetupError: it is not root's alone.
    """
    content = host.read(POLICY_FILE)
    if content is None:
        return None
    require_roots(POLICY_FILE, content)
    return content.text


def parse(text: str) -> Policies:
    """Return what the agent's own loader reads in a text; nothing where it has comments alone.

    :raises PolicyError: the loader refuses it.
    """
    with tempfile.TemporaryDirectory(prefix="zolder-") as folder:
        path = Path(folder, "san.toml")
        path.touch(mode=0o600)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        try:
            return {name: load_policy(name, path, owner=os.geteuid()) for name in _names(text, path)}
        except PolicyError as err:
            raise PolicyError(str(err).replace(str(path), f"/{POLICY_FILE}")) from err


def _names(text: str, path: Path) -> list[Identity]:
    """Return the identities of a text; what is not as it should be, the loader is asked to say."""
    try:
        table: dict[str, Any] = tomllib.loads(text)
        if not table:
            return []
        names = [Identity(name) for name in table["identity"]]
    except (ValueError, KeyError, TypeError, InvalidRequest):
        names = []
    if not names:
        load_policy(Identity("none"), path, owner=os.geteuid())
    return names


def table_text(policy: Policy) -> str:
    """Return the table that spells a policy."""
    lines = [f"[identity.{policy.identity}]"]
    if policy.role != "volumes":
        lines.append(f'role = "{policy.role}"')
    lists = {"parents": policy.parents, "portals": policy.portals, "target_prefixes": policy.target_prefixes}
    # What is in a checked name, JSON and TOML spell alike.
    lines += [f"{key} = {json.dumps(names)}" for key, names in lists.items() if names]
    return "".join(f"{line}\n" for line in lines)


def with_table(text: str, policy: Policy) -> str:
    """Return a policy file's text with a table more at its end."""
    apart = "" if not text or text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
    return f"{text}{apart}{table_text(policy)}"


def line_of(text: str, identity: Identity) -> int | None:
    """Return the line of an identity's table; None where it is written in another way."""
    heads = (f"[identity.{identity}]", f'[identity."{identity}"]')
    for number, line in enumerate(text.split("\n"), start=1):
        if line.partition("#")[0].strip() in heads:
            return number
    return None


def without_table(text: str, identity: Identity) -> str:
    """Return a policy file's text without one identity's table; comments behind its last key stay.

    :raises SetupError: the table cannot be told from the rest.
    """
    old = parse(text)
    lines = text.split("\n")
    head = line_of(text, identity)
    if head is not None:
        first = head - 1
        behind = next(
            (number for number in range(head, len(lines)) if lines[number].lstrip().startswith("[")),
            len(lines),
        )
        while behind > head and (not lines[behind - 1].strip() or lines[behind - 1].lstrip().startswith("#")):
            behind -= 1
        if first and not lines[first - 1].strip():
            first -= 1
        new = "\n".join(lines[:first] + lines[behind:])
        if _is_without(new, old, identity):
            return new
    message = (
        f"/{POLICY_FILE}: the table of identity {identity} is not written as [identity.{identity}] "
        "with its keys below: remove it by hand, then run this command again"
    )
    raise SetupError(message)


def _is_without(text: str, old: Policies, identity: Identity) -> bool:
    try:
        return parse(text) == {name: policy for name, policy in old.items() if name != identity}
    except PolicyError:
        return False
