"""The agent's user, and the second names of its number under which an identity logs in with a password.

The user has no password ("*", which is not "locked": sshd lets keys in). A second name gets one from its
administrator with passwd(1), and from nobody else; until then its "!" lets nobody in.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from zolder.errors import InvalidRequest
from zolder.names import Identity
from zolder.san.setup.host import USER, Host, SetupError
from zolder.san.setup.steps import Argv, Commands, Step
from zolder.san.setup.texts import STATE_FOLDER, login_name

_HOME: Final = f"/{STATE_FOLDER}"
_SHELL: Final = "/bin/sh"
# useradd(8): names have at most 32 characters.
_MAX_LOGIN: Final = 32


def account_steps(host: Host) -> list[Step]:
    """Return the steps that make the agent's group and user."""
    return [Commands(host, partial(_group, host)), Commands(host, partial(_user, host))]


def _group(host: Host) -> list[Argv]:
    return [] if host.group_id(USER) is not None else [["groupadd", "--system", USER]]


def _user(host: Host) -> list[Argv]:
    user = host.find_account()
    if user is None:
        settings = ["--home-dir", _HOME, "--no-create-home", "--shell", _SHELL, "--password", "*"]
        return [["useradd", "--system", "--gid", USER, *settings, USER]]
    if user.uid == 0 or user.home != _HOME:
        message = f"user {USER} is here already, with home {user.home}: it is not ours; rename it"
        raise SetupError(message)
    wanted = []
    if user.gid != host.group_id(USER):
        wanted += ["--gid", USER]
    if user.shell != _SHELL:
        wanted += ["--shell", _SHELL]
    if _password_field(host, USER) != "*":
        wanted += ["--password", "*"]
    return [["usermod", *wanted, USER]] if wanted else []


def password_identities(host: Host) -> list[Identity]:
    """Return the identities that have a name of their own to log in with."""
    user = host.find_account()
    found = []
    for account in host.accounts() if user else ():
        name = account.name.removeprefix(f"{USER}-")
        if name == account.name or account.uid != (user.uid if user else None):
            continue
        try:
            found.append(Identity(name))
        except InvalidRequest:
            continue
    return sorted(found)


def has_password(host: Host, identity: Identity) -> bool:
    """Say whether somebody set a password for an identity's own name."""
    return not _password_field(host, login_name(identity)).startswith(("!", "*"))


def require_login_name(host: Host, identity: Identity) -> None:
    """Make sure that an identity can have a name of its own.

    :raises SetupError: it would be too long, or is somebody else's.
    """
    name = login_name(identity)
    if len(name) > _MAX_LOGIN:
        message = f"user {name} would have more than {_MAX_LOGIN} characters: choose a shorter identity"
        raise SetupError(message)
    account = host.find_account(name)
    if account and identity not in password_identities(host):
        message = f"there is a user {name} already, with number {account.uid}: choose another identity"
        raise SetupError(message)


def add_login(host: Host, identity: Identity) -> Step:
    """Return the step that makes an identity's own name."""

    def find() -> list[Argv]:
        if identity in password_identities(host):
            return []
        user = host.find_account()
        if user is None:
            message = f"there is no user {USER}: run 'zolder-san install'"
            raise SetupError(message)
        settings = ["--gid", USER, "--home-dir", _HOME, "--no-create-home", "--shell", _SHELL]
        return [["useradd", "--non-unique", "--uid", str(user.uid), *settings, login_name(identity)]]

    return Commands(host, find)


def remove_login(host: Host, identity: Identity) -> Step:
    """Return the step that removes an identity's own name."""

    def find() -> list[Argv]:
        # Without --force it would not go while any channel is open: they all run under its number.
        present = identity in password_identities(host)
        return [["userdel", "--force", login_name(identity)]] if present else []

    return Commands(host, find)


def _password_field(host: Host, name: str) -> str:
    content = host.read("etc/shadow")
    for line in content.text.splitlines() if content else ():
        fields = line.split(":")
        if fields[0] == name and len(fields) > 1:
            return fields[1]
    return "!"
