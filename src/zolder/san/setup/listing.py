"""``zolder-san list``: who may do what here, and who is here now."""

from __future__ import annotations

from typing import Any

from zolder.errors import InvalidRequest
from zolder.names import Identity
from zolder.san.setup import texts
from zolder.san.setup.accounts import has_password, password_identities
from zolder.san.setup.authorized import Entry, entries, unclear
from zolder.san.setup.channels import count_channels
from zolder.san.setup.host import Host
from zolder.san.setup.policyfile import parse, read_text


def identities(host: Host) -> list[dict[str, Any]]:
    """Return an object for each identity, sorted by name; its role is None where it has no table.

    :raises SetupError, PolicyError: the policy file cannot be trusted or read.
    """
    policies = parse(read_text(host) or "")
    content = host.read(texts.KEYS_FILE)
    keys = [entry for entry in (entries(content.text) if content else []) if entry.identity]
    logins = password_identities(host)
    channels = count_channels(host)
    names = {*policies, *logins, *channels, *(entry.identity for entry in keys if entry.identity)}
    found = []
    for name in sorted(names):
        try:
            identity = Identity(name)
        except InvalidRequest:
            continue
        policy = policies.get(identity)
        found.append(
            {
                "identity": name,
                "role": policy.role if policy else None,
                "parents": list(policy.parents) if policy else [],
                "keys": [_key(entry) for entry in keys if entry.identity == name],
                "password_login": _login(host, identity) if identity in logins else None,
                "open_channels": channels.get(name, 0),
            }
        )
    return found


def warnings(host: Host) -> list[str]:
    """Return a sentence for each line of the file of keys that may let somebody in unseen."""
    content = host.read(texts.KEYS_FILE)
    return unclear(content.text) if content else []


def _key(entry: Entry) -> dict[str, Any]:
    return {
        "fingerprint": entry.key.fingerprint,
        "kind": entry.key.kind,
        "from": list(entry.sources),
    }


def _login(host: Host, identity: Identity) -> dict[str, Any]:
    return {"user": texts.login_name(identity), "password_set": has_password(host, identity)}


def as_text(found: list[dict[str, Any]]) -> str:
    """Return the same for people."""
    blocks = []
    for item in found:
        lines = [
            item["identity"],
            f"  role      {item['role'] or 'none: it has no table in /etc/zolder/san.toml'}",
            *(f"  parent    {parent}" for parent in item["parents"]),
            *(f"  key       {_key_text(key)}" for key in item["keys"]),
        ]
        if item["password_login"]:
            state = "set" if item["password_login"]["password_set"] else "not set yet"
            lines.append(f"  password  {item['password_login']['user']}, {state}")
        elif not item["keys"]:
            lines.append("  key       none: nobody can log in")
        lines.append(f"  channels  {item['open_channels']} open")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) or "No identities: 'zolder-san authorize' adds one."


def _key_text(key: dict[str, Any]) -> str:
    return f"{key['fingerprint']} {key['kind']} from {', '.join(key['from']) or 'anywhere'}"
