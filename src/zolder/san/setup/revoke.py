"""``zolder-san revoke``: an identity's ways in first, then its channels, then all that it was given.

Its volumes and exports stay: what guests use now, an end of its keys must not take from them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

from zolder.names import DatasetName, Identity
from zolder.san.setup import texts
from zolder.san.setup.accounts import password_identities, remove_login
from zolder.san.setup.authorized import Entry, entries, unclear, without
from zolder.san.setup.channels import EndChannels
from zolder.san.setup.datasets import parents_of, removal_steps, udev_steps
from zolder.san.setup.host import Host, SetupError
from zolder.san.setup.keys import PublicKey
from zolder.san.setup.policyfile import Policies, PolicyError, parse, read_text, without_table
from zolder.san.setup.sshd import sshd_steps
from zolder.san.setup.steps import After, Step
from zolder.san.setup.tree import File, require_roots
from zolder.san.setup.units import SERVICE

STAYS: Final = "Volumes, snapshots and exports stay as they are."


def revoke_steps(host: Host, identity: Identity, key: PublicKey | None, notes: list[str]) -> list[Step]:
    """Return the steps that take one key from an identity, or all that it has.

    :param notes: what must be said besides is added here.
    :raises SetupError: the file of keys cannot be trusted; for the policy it is said once the way in is shut.
    """
    if key is not None:
        return _revoke_key(host, identity, key, notes)
    notes += _unclear(host)
    keys = _keys_step(host, lambda entry: entry.identity == identity)
    login = remove_login(host, identity)
    logins = [name for name in password_identities(host) if name != identity]
    channels = EndChannels(host, identity, [*keys, login])
    ways_in = [
        *keys,
        login,
        # The login's name is gone before its block is, without which it would be an ordinary login.
        *(_drop_in_steps(host, logins) if _has_block(host, identity) else []),
        # They finish what they began with the rights that they began it with.
        channels,
    ]
    rights = _rights_steps(host, identity, channels, notes)
    steps = [*ways_in, *rights]
    # A connection of the helper's that stood all the while knows the policy as it was.
    restart = ["systemctl", "try-restart", SERVICE]
    return [*steps, After(host, restart, [*keys, login, *rights])] if host.has_systemd else steps


def _drop_in_steps(host: Host, logins: list[Identity]) -> list[Step]:
    """Return sshd's steps; a fault in its files, whosever it is, keeps nobody in."""
    steps = sshd_steps(host, logins)
    for step in steps:
        step.blocking = False
    return steps


def _rights_steps(host: Host, identity: Identity, channels: EndChannels, notes: list[str]) -> list[Step]:
    try:
        text = read_text(host) or ""
        policies = parse(text)
        new_text = without_table(text, identity) if identity in policies else text
    except (PolicyError, SetupError) as err:
        # Nobody who is to be kept out stays in for a slip in the file.
        return [Failed(err)]
    if identity not in policies:
        return []
    notes.append(STAYS)
    remaining = {name: policy for name, policy in policies.items() if name != identity}
    table = File(host, texts.POLICY_FILE, new_text, shared=True)
    return [
        *removal_steps(host, _only_of(identity, policies)),
        table,
        # Whoever came over a connection that stood all the while.
        EndChannels(host, identity, [table], before=channels),
        *udev_steps(host, parents_of(remaining.values())),
    ]


class Failed(Step):
    """A step that cannot be done, between those that can."""

    blocking = False

    def __init__(self, error: Exception) -> None:
        """Keep the reason."""
        self._error = error

    def needed(self) -> NoReturn:
        """Say the reason.

        :raises PolicyError, SetupError: always.
        """
        raise self._error

    def apply(self) -> None:
        """Do nothing: this is never reached."""


def _has_block(host: Host, identity: Identity) -> bool:
    content = host.read(texts.SSHD_FILE)
    return content is not None and f"Match User {texts.login_name(identity)}\n" in content.text


def _only_of(identity: Identity, policies: Policies) -> list[DatasetName]:
    others = {parent for name, policy in policies.items() if name != identity for parent in policy.parents}
    return [parent for parent in policies[identity].parents if parent not in others]


def _revoke_key(host: Host, identity: Identity, key: PublicKey, notes: list[str]) -> list[Step]:
    notes += _unclear(host)
    content = host.read(texts.KEYS_FILE)
    standing = entries(content.text) if content else []
    ours = [entry for entry in standing if entry.identity == identity]
    if any(entry.key == key for entry in ours):
        if all(entry.key == key for entry in ours) and identity not in password_identities(host):
            notes.append(
                f"{identity} has no way in any more: 'zolder-san revoke {identity}' removes the rest."
            )
        notes.append(f"Channels of {identity} with another key were ended too; their clients open new ones.")
    elif any(entry.key == key for entry in standing):
        notes.append(f"This key is in /{texts.KEYS_FILE}, and is not {identity}'s.")
    steps = _keys_step(host, lambda entry: entry.identity == identity and entry.key == key)
    # Which key opened a channel nobody knows, so all of the identity's end.
    return [
        *steps,
        *([EndChannels(host, identity, steps)] if any(entry.key == key for entry in ours) else []),
    ]


def _unclear(host: Host) -> list[str]:
    content = host.read(texts.KEYS_FILE)
    return unclear(content.text) if content else []


def _keys_step(host: Host, unwanted: Callable[[Entry], bool]) -> list[Step]:
    content = host.read(texts.KEYS_FILE)
    if content is None:
        return []
    require_roots(texts.KEYS_FILE, content)
    return [File(host, texts.KEYS_FILE, without(content.text, unwanted), shared=True)]
