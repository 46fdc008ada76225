"""The unprivileged user that the agent runs as."""

from __future__ import annotations

import os
import pwd
import resource
from dataclasses import dataclass
from typing import Final

from zolder.errors import BackendError
from zolder.san.delegation import USER

# Addresses, not pages: Python with ZFS's libraries has 200 MiB of these, an answer of 16 MiB takes 100 more.
_MEMORY_BYTES: Final = 1024 * 2**20


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine."""

    name: str
    uid: int
    gid: int


def find_account() -> Account:
    """Return the agent's user.

    :raises BackendError: this machine has none.
    """
    try:
        entry = pwd.getpwnam(USER)
    except KeyError as err:
        message = f"this SAN has no user {USER}: run 'zolder-san install' as root"
        raise BackendError(message) from err
    return Account(USER, entry.pw_uid, entry.pw_gid)


def bound_memory() -> None:
    """Have the kernel refuse this process more memory than any request needs, whatever it is sent."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))


def become_unprivileged() -> None:
    """Be the agent's user from now on where root started this, and for ever.

    :raises BackendError: this process belongs to anybody else.
    """
    account = find_account()
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    if os.getresuid() != (account.uid,) * 3:
        message = f"the agent runs as the user {account.name} (sudo -u {account.name} zolder-san serve ...)"
        raise BackendError(message)
