"""What sshd really does for the agent's user, as it says itself (``sshd -T``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from zolder.san.check.accounts import INSTALL, USER, accounts, find_user
from zolder.san.check.finding import Check, Finding, NotChecked
from zolder.san.check.machine import Machine
from zolder.san.check.policies import policies
from zolder.san.confinement import (
    ADDRESSES,
    BY_KEY,
    BY_PASSWORD,
    NO_ENVIRONMENT,
    NO_OTHER_WAYS_IN,
    Settings,
    differences,
    question,
    read_settings,
)
from zolder.san.keylines import parse_command

SSHD: Final = Check("sshd")
# Our drop-in cannot say this one, which holds for everybody (sshd_config(5), Match).
_NO_USER_ENVIRONMENT: Final = {"permituserenvironment": "no"}
_LEAST_SESSIONS: Final = 10
_DROP_IN: Final = "/etc/ssh/sshd_config.d/00-zolder.conf"
_REPAIR: Final = f"{INSTALL}\nsudo sshd -T -C user={{}},host=h,addr={{}}"


def check_sshd(machine: Machine) -> Iterator[Finding]:
    """Look at what sshd does for the agent's user, and for each further name of it that has a password."""
    settings = _effective(machine, USER, ADDRESSES[0])
    faults = [*_check_name(machine, USER, _key_faults), *_check_lifetime(settings)]
    yield from faults
    if not any(fault.level in {"failure", "warning"} for fault in faults):
        yield SSHD.ok(USER, "gets in by the keys of the agent's file alone; no forwarding, no terminal")
    yield from _check_twins(machine)
    yield from _check_room(machine, settings)


def _effective(machine: Machine, name: str, address: str) -> Settings:
    """Return sshd's settings for a user who comes from an address.

    :raises NotChecked: sshd does not say, or says something else.
    """
    text = machine.output("sshd", "-T", "-C", question(name, address))
    settings = read_settings(text)
    if "authorizedkeysfile" not in settings:
        message = f"sshd -T printed no settings but {text[:80]!a}"
        raise NotChecked(message)
    return settings


def _check_name(
    machine: Machine, name: str, find: Callable[[str, Settings, str], Iterator[Finding]]
) -> list[Finding]:
    """Return what is wrong for a user from any of the addresses, each fault once: where it is met first."""
    faults: dict[tuple[str, str], Finding] = {}
    for address in ADDRESSES:
        for fault in find(name, _effective(machine, name, address), address):
            faults.setdefault((fault.level, fault.message), fault)
    return list(faults.values())


def _key_faults(name: str, settings: Settings, address: str) -> Iterator[Finding]:
    yield from _differing(name, settings, {**BY_KEY, **_NO_USER_ENVIRONMENT}, address)
    for key, wanted in NO_OTHER_WAYS_IN.items():
        if (now := settings.get(key, wanted)) != wanted:
            message = f"{key} is {now}: whoever it lets in as {name} has no forced command"
            yield SSHD.warning(name, message, f"sudoedit {_DROP_IN}   # {key} none, below Match User {name}")
    if settings.get("forcecommand", "none") != "none":
        message = f"ForceCommand {settings['forcecommand']} stands above the commands of the keys"
        yield SSHD.failure(name, message, _REPAIR.format(name, address))


def _password_faults(name: str, settings: Settings, address: str) -> Iterator[Finding]:
    yield from _differing(name, settings, {**BY_PASSWORD, **_NO_USER_ENVIRONMENT}, address)
    forced = parse_command(settings.get("forcecommand", "none"))
    identity = name.removeprefix(f"{USER}-")
    if forced is None or forced[1] != identity:
        message = f"is forced to {settings.get('forcecommand', 'none')!a}, not to the agent as {identity}"
        yield SSHD.failure(name, message, _REPAIR.format(name, address))


def _differing(name: str, settings: Settings, wanted: Settings, address: str) -> Iterator[Finding]:
    if silent := sorted(wanted.keys() - settings.keys()):
        yield SSHD.unknown(name, f"this sshd does not say its {', '.join(silent)}")
    if wrong := differences(settings, wanted):
        message = f"{'; '.join(wrong)}: {_DROP_IN} is missing or comes too late"
        yield SSHD.failure(name, message, _REPAIR.format(name, address))
    if (taken := settings.get("acceptenv", NO_ENVIRONMENT)) != NO_ENVIRONMENT:
        message = f"takes environment variables from its clients: AcceptEnv is {taken}"
        yield SSHD.warning(name, message, _REPAIR.format(name, address))


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
        faults = _check_name(machine, twin.name, _password_faults)
        identity = twin.name.removeprefix(f"{USER}-")
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
