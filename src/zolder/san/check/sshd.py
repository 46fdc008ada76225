"""What sshd really does for the agent's user, as it says itself (``sshd -T``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from zolder.san.check.accounts import INSTALL, USER, accounts, find_user
from zolder.san.check.finding import Check, Finding, NotChecked
from zolder.san.check.keys import PATH as KEYS_FILE
from zolder.san.check.keys import parse_command
from zolder.san.check.machine import Machine
from zolder.san.check.policies import policies

SSHD: Final = Check("sshd")
Settings = Mapping[str, str]

# Each by itself: before OpenSSH 10.0 DisableForwarding left agents and X11 open (CVE-2025-32728).
_CLOSED: Final = {
    "allowtcpforwarding": "no",
    "allowstreamlocalforwarding": "no",
    "allowagentforwarding": "no",
    "x11forwarding": "no",
    "permittunnel": "no",
    "permittty": "no",
    "permituserrc": "no",
    "permituserenvironment": "no",
}
_KEYS_ONLY: Final = {
    "authorizedkeysfile": KEYS_FILE,
    "passwordauthentication": "no",
    "kbdinteractiveauthentication": "no",
    "authenticationmethods": "publickey",
    "pubkeyauthentication": "yes",
}
_PASSWORD_ONLY: Final = {
    "authorizedkeysfile": "none",
    "passwordauthentication": "yes",
    "permitemptypasswords": "no",
}
_OTHER_WAYS_IN: Final = ("authorizedkeyscommand", "trustedusercakeys")
_LEAST_SESSIONS: Final = 10
_DROP_IN: Final = "/etc/ssh/sshd_config.d/50-zolder.conf"
_REPAIR: Final = f"{INSTALL}\nsudo sshd -T -C user={{}},host=h,addr=127.0.0.1"


def check_sshd(machine: Machine) -> Iterator[Finding]:
    """Look at what sshd does for the agent's user, and for each further name of it that has a password."""
    settings = _effective(machine, USER)
    faults = [
        *_differing(USER, settings, _CLOSED | _KEYS_ONLY),
        *_other_ways(settings),
        *_check_lifetime(settings),
    ]
    if settings.get("forcecommand", "none") != "none":
        message = f"ForceCommand {settings['forcecommand']} stands above the commands of the keys"
        faults.append(SSHD.failure(USER, message, _REPAIR.format(USER)))
    yield from faults
    if not any(fault.level in {"failure", "warning"} for fault in faults):
        yield SSHD.ok(USER, "gets in by the keys of the agent's file alone; no forwarding, no terminal")
    yield from _check_twins(machine)
    yield from _check_room(machine, settings)


def _effective(machine: Machine, name: str) -> Settings:
    """Return sshd's settings for a user; of those that come more than once, all with a space between.

    :raises NotChecked: sshd does not say, or says something else.
    """
    text = machine.output("sshd", "-T", "-C", f"user={name},host=h,addr=127.0.0.1")
    settings: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        settings[key.lower()] = f"{settings[key.lower()]} {value}" if key.lower() in settings else value
    if "authorizedkeysfile" not in settings:
        message = f"sshd -T printed no settings but {text[:80]!a}"
        raise NotChecked(message)
    return settings


def _differing(name: str, settings: Settings, wanted: Settings) -> Iterator[Finding]:
    if silent := sorted(wanted.keys() - settings.keys()):
        yield SSHD.unknown(name, f"this sshd does not say its {', '.join(silent)}")
    wrong = [
        f"{key} is {settings[key]}, not {value}"
        for key, value in wanted.items()
        if settings.get(key, value) != value
    ]
    if wrong:
        message = f"{'; '.join(wrong)}: {_DROP_IN} is missing or comes too late"
        yield SSHD.failure(name, message, _REPAIR.format(name))


def _other_ways(settings: Settings) -> Iterator[Finding]:
    for key in _OTHER_WAYS_IN:
        if (now := settings.get(key, "none")) != "none":
            message = f"{key} is {now}: whoever it lets in as {USER} has no forced command"
            yield SSHD.warning(USER, message, f"sudoedit {_DROP_IN}   # {key} none, below Match User {USER}")


def _check_lifetime(settings: Settings) -> Iterator[Finding]:
    if _number(settings, "clientaliveinterval") == 0 or _number(settings, "clientalivecountmax") == 0:
        message = "a control node that vanishes keeps its channels for hours: no ClientAliveInterval"
        yield SSHD.warning(USER, message, INSTALL)


def _check_room(machine: Machine, settings: Settings) -> Iterator[Finding]:
    channels = sum(policy.max_channels for policy in policies(machine).values())
    parts = settings.get("maxstartups", "").split(":")
    try:
        start, full = int(parts[0]), int(parts[-1])
    except ValueError as err:
        message = f"MaxStartups {settings.get('maxstartups')!a} is no number"
        raise NotChecked(message) from err
    raise_it = (
        f"echo 'MaxStartups {max(channels, 10)}:30:{max(2 * channels, 100)}'"
        " | sudo tee /etc/ssh/sshd_config.d/40-startups.conf\nsudo systemctl reload ssh"
    )
    if full < channels:
        message = (
            f"MaxStartups refuses all logins beyond {full} at once; the policy lets {channels} channels open"
        )
        yield SSHD.warning("MaxStartups", message, raise_it)
    elif start < channels:
        message = f"drops some logins beyond {start} at once; the policy lets {channels} channels open"
        yield SSHD.note("MaxStartups", message, raise_it)
    if (sessions := _number(settings, "maxsessions")) < _LEAST_SESSIONS:
        message = (
            f"is {sessions}: no more channels fit into one connection, if ssh multiplexes (ControlMaster)"
        )
        say = SSHD.failure if sessions == 0 else SSHD.warning
        yield say(
            "MaxSessions", message, f"sudo sed -i 's/MaxSessions.*/MaxSessions 10/' {_DROP_IN}\n{INSTALL}"
        )


def _check_twins(machine: Machine) -> Iterator[Finding]:
    """Look at the logins by password: further names of the same user, forced to one identity each."""
    agent = find_user(machine)
    twins = [item for item in accounts(machine) if agent and item.uid == agent.uid and item.name != USER]
    known = policies(machine) if twins else {}
    for twin in twins:
        settings = _effective(machine, twin.name)
        faults = list(_differing(twin.name, settings, _CLOSED | _PASSWORD_ONLY))
        forced = parse_command(settings.get("forcecommand", "none"))
        identity = twin.name.removeprefix(f"{USER}-")
        if forced is None or forced[1] != identity:
            message = f"is forced to {settings.get('forcecommand', 'none')!a}, not to the agent as {identity}"
            faults.append(SSHD.failure(twin.name, message, _REPAIR.format(twin.name)))
        if identity not in known:
            message = "logs in by password for an identity that the policy does not know"
            faults.append(SSHD.warning(twin.name, message, f"sudo zolder-san revoke {identity}"))
        yield from faults or [SSHD.ok(twin.name, f"logs in by password as {identity}, and nothing else")]


def _number(settings: Settings, key: str) -> int:
    try:
        return int(settings[key])
    except (KeyError, ValueError) as err:
        message = f"sshd says {settings.get(key)!a} for {key}, which is no number"
        raise NotChecked(message) from err
