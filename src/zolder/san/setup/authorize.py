"""``zolder-san authorize``: an identity's table, its way in, and what its parents need.

The way in comes last: whoever comes through it finds all else in place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from zolder.names import DatasetName, Identity, Portal, TargetPrefix
from zolder.san.policy import Policy
from zolder.san.setup import texts
from zolder.san.setup.accounts import add_login, has_password, password_identities, require_login_name
from zolder.san.setup.authorized import entries, key_line, with_line
from zolder.san.setup.datasets import delegation_steps, parents_of, require_parent, udev_steps
from zolder.san.setup.host import Host, SetupError
from zolder.san.setup.keys import PublicKey
from zolder.san.setup.policyfile import line_of, parse, read_text, with_table
from zolder.san.setup.portals import own_portals
from zolder.san.setup.sshd import Proof, sshd_steps
from zolder.san.setup.steps import Step
from zolder.san.setup.tree import File, require_roots

PREFIX: Final = TargetPrefix("iqn.2010-10.org.openstack:")


@dataclass(frozen=True, slots=True)
class Wish:
    """What an administrator asks for; what is empty or None was not said."""

    identity: Identity
    key: PublicKey | None = None
    sources: tuple[str, ...] = ()
    parents: tuple[DatasetName, ...] = ()
    role: str | None = None
    portals: tuple[Portal, ...] = ()
    target_prefixes: tuple[TargetPrefix, ...] = ()
    password: bool = False
    notes: list[str] = field(default_factory=list)


def authorize_steps(host: Host, wish: Wish) -> list[Step]:
    """Return the steps; what must be said besides is added to the wish's notes.

    :raises SetupError: the wish contradicts what stands, or the machine is not set up.
    :raises PolicyError: the policy would not do with the new table.
    """
    policy_text, keys_text = _installed(host)
    if wish.key is None and not wish.password:
        message = "say how the identity logs in: --key FILE, or --password"
        raise SetupError(message)
    if wish.password:
        require_login_name(host, wish.identity)
    new_policy = _policy_text(host, wish, policy_text)
    policies = parse(new_policy)
    new_keys = _keys_text(host, wish, keys_text)
    for parent in policies[wish.identity].parents:
        require_parent(host, parent)
    ways_in: list[Step] = [File(host, texts.KEYS_FILE, new_keys, shared=True)]
    if wish.password:
        login = add_login(host, wish.identity)
        ways_in += [login, Proof(host, wish.identity, login)]
        if not has_password(host, wish.identity):
            name = texts.login_name(wish.identity)
            wish.notes.append(f"Nobody can log in as {name} yet: give it a password with 'passwd {name}'.")
    return [
        # A name without its block there would be an ordinary login.
        *(sshd_steps(host, [*password_identities(host), wish.identity]) if wish.password else []),
        *udev_steps(host, parents_of(policies.values())),
        *delegation_steps(host, policies[wish.identity].parents),
        File(host, texts.POLICY_FILE, new_policy, shared=True),
        *ways_in,
    ]


def _installed(host: Host) -> tuple[str, str]:
    """Return the policy's and the keys' text of a machine that is set up."""
    policy, keys = read_text(host), host.read(texts.KEYS_FILE)
    if policy is None or keys is None or host.find_account() is None:
        message = "this machine is not set up yet: run 'zolder-san install' first"
        raise SetupError(message)
    require_roots(texts.KEYS_FILE, keys)
    return policy, keys.text


def _policy_text(host: Host, wish: Wish, text: str) -> str:
    standing = parse(text).get(wish.identity)
    if standing is None:
        return with_table(text, _new_policy(host, wish))
    asked = {
        "role": (wish.role, standing.role),
        "parents": (frozenset(wish.parents), frozenset(standing.parents)),
        "portals": (frozenset(wish.portals), frozenset(standing.portals)),
        "target_prefixes": (frozenset(wish.target_prefixes), frozenset(standing.target_prefixes)),
    }
    for key, (wanted, stands) in asked.items():
        if wanted and wanted != stands:
            line = line_of(text, wish.identity)
            where = f"/{texts.POLICY_FILE}, line {line}" if line else f"/{texts.POLICY_FILE}"
            message = f"{where}: [identity.{wish.identity}] has other {key}: edit it there by hand"
            raise SetupError(message)
    return text


def _new_policy(host: Host, wish: Wish) -> Policy:
    if not wish.parents:
        message = f"there is no identity {wish.identity} yet: say where its volumes may live with --parent"
        raise SetupError(message)
    role = wish.role or "volumes"
    portals, prefixes = wish.portals, wish.target_prefixes
    if role == "volumes":
        portals = portals or own_portals(host)
        prefixes = prefixes or (PREFIX,)
    return Policy(wish.identity, wish.parents, portals, prefixes, role=role)


def _keys_text(host: Host, wish: Wish, text: str) -> str:
    if wish.key is None:
        return text
    for entry in entries(text):
        if entry.key != wish.key:
            continue
        where = f"/{texts.KEYS_FILE}, line {entry.line}"
        if entry.identity != wish.identity:
            whose = f"identity {entry.identity}'s" if entry.identity else "there, and not an identity's"
            message = (
                f"{where}: this key is {whose} already: make another, since a key is one identity's alone"
            )
            raise SetupError(message)
        if wish.sources and wish.sources != entry.sources:
            message = f"{where}: this key may come from elsewhere: edit that line's from= by hand"
            raise SetupError(message)
        return text
    return with_line(text, key_line(host.executable, wish.identity, wish.key, wish.sources))
