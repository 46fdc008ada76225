"""What sshd must do for the names that lead to the agent, and what it says that it does. No I/O.

``sshd -T -C`` is asked, which answers for one user and one address: a ``Match`` may tell addresses apart, so
it is asked for several.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from zolder.san.keylines import PATH

Settings = Mapping[str, str]

# This machine itself, and one address of each kind that is nobody's (RFC 5737, RFC 3849).
ADDRESSES: Final = ("127.0.0.1", "192.0.2.1", "2001:db8::1")
# A name that no client sends and nothing reads: AcceptEnv cannot be emptied, but what a Match block says
# takes the place of what holds for everybody (LANG and LC_* on Debian).
NO_ENVIRONMENT: Final = "LC_NOTHING_OF_ZOLDER"

# Each by itself: before OpenSSH 10.0 DisableForwarding left agents and X11 open (CVE-2025-32728).
_CONFINED: Final = {
    "disableforwarding": "yes",
    "allowtcpforwarding": "no",
    "allowstreamlocalforwarding": "no",
    "allowagentforwarding": "no",
    "x11forwarding": "no",
    "permittunnel": "no",
    "permittty": "no",
    "permituserrc": "no",
    "kbdinteractiveauthentication": "no",
}
BY_KEY: Final[Settings] = _CONFINED | {
    "authorizedkeysfile": PATH,
    "pubkeyauthentication": "yes",
    "passwordauthentication": "no",
    "authenticationmethods": "publickey",
}
BY_PASSWORD: Final[Settings] = _CONFINED | {
    "authorizedkeysfile": "none",
    "pubkeyauthentication": "no",
    "passwordauthentication": "yes",
    "authenticationmethods": "password",
    "permitemptypasswords": "no",
}
# Whoever these let in has no forced command.
NO_OTHER_WAYS_IN: Final[Settings] = {"authorizedkeyscommand": "none", "trustedusercakeys": "none"}


def question(user: str, address: str) -> str:
    """Return what follows ``sshd -T -C``; sshd refuses to answer where a Match asks for what is not said."""
    return f"user={user},host=h,addr={address},laddr={address},lport=22,rdomain=none"


def read_settings(text: str) -> dict[str, str]:
    """Return the settings that ``sshd -T`` printed; of those that come more than once, all, with blanks."""
    settings: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        settings[key.lower()] = f"{settings[key.lower()]} {value}" if key.lower() in settings else value
    return settings


def differences(settings: Settings, wanted: Settings) -> list[str]:
    """Return what is said and is not what is wanted; what is not said is left out."""
    return [
        f"{key} is {settings[key]}, not {value}"
        for key, value in wanted.items()
        if settings.get(key, value) != value
    ]
