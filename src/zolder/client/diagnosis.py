"""What ssh said before it gave up, as one sentence that tells the operator what to do.

The patterns are messages of OpenSSH 9.2 in the C locale, tried in order, the more telling first. What none
of them knows is passed on as ssh said it. Pure, no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from zolder import __version__
from zolder.errors import ConnectFailed


class ConnectDenied(ConnectFailed):
    """No channel can be opened until a person changes something: asking again is of no use."""


@dataclass(frozen=True, slots=True)
class _Symptom:
    pattern: re.Pattern[str]
    sentence: str
    final: bool


def _symptom(pattern: str, sentence: str, *, final: bool) -> _Symptom:
    return _Symptom(re.compile(pattern, re.IGNORECASE), sentence, final)


# ssh(1), "EXIT STATUS": ssh's own failure; anything else is the remote program's status.
_SSH_FAILED: Final = 255

_SYMPTOMS: Final = (
    _symptom(
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|host key for .* has changed",
        "The host key of {peer} is not the one in {known_hosts}: compare its fingerprint with the one that"
        " ssh-keygen -l shows on the SAN's console, and only if they agree replace the entry.",
        final=True,
    ),
    _symptom(
        r"Host key verification failed|No \S+ host key is known for|DNS host key",
        "The host key of {peer} is not in {known_hosts}: read it with ssh-keyscan -p {port} {address},"
        " compare its fingerprint with the one that ssh-keygen -l shows on the SAN's console, then add it.",
        final=True,
    ),
    _symptom(
        r"Permissions \d+ for .* are too open|Load key .*: bad permissions",
        "ssh refuses the private key {key} because others may read it: chmod 0600 it, owned by the user that"
        " cinder-volume runs as.",
        final=True,
    ),
    _symptom(
        r"no such identity|Identity file .* not accessible|Load key .*:",
        "ssh cannot load the private key {key}: check the path, that the user that cinder-volume runs as may"
        " read it, and that it is an OpenSSH key without a passphrase.",
        final=True,
    ),
    _symptom(
        r"ssh_askpass:",
        "ssh could not run the askpass program that hands it the password: the folder for temporary files"
        " must allow programs (no noexec), or use a private key.",
        final=True,
    ),
    _symptom(
        r"Permission denied|Too many authentication failures|No more authentication methods",
        "{peer} refused the login: check the user's name, and that {credential}.",
        final=True,
    ),
    _symptom(
        r"Bad configuration option|terminating, \d+ bad configuration|Bad owner or permissions on|"
        r"unsupported option|keyword .* extra arguments",
        "ssh refuses its own configuration on this control node: {said}.",
        final=True,
    ),
    _symptom(
        r"zolder-san: (?:command )?not found|zolder-san: No such file",
        "zolder-san is not installed for the login {peer}: install it on the SAN and give the key the forced"
        ' command "zolder-san serve --identity NAME" in authorized_keys.',
        final=True,
    ),
    _symptom(
        r"Could not resolve hostname",
        "The name {address} cannot be resolved: check san_ip and this control node's name service.",
        final=False,
    ),
    _symptom(
        r"Connection refused",
        "{peer} refused the connection: check that sshd runs on the SAN and listens on port {port}.",
        final=False,
    ),
    _symptom(
        r"(?:kex|ssh)_exchange_identification|Connection (?:closed|reset) by|banner exchange",
        "{peer} dropped the connection before the login: check the load on the SAN and MaxStartups and"
        " PerSourcePenalties in its sshd_config.",
        final=False,
    ),
    _symptom(
        r"timed out|No route to host|Network is unreachable|Host is down|not responding",
        "{peer} cannot be reached: check that the SAN is up, the address, and the network and packet filters"
        " between.",
        final=False,
    ),
)


def explain_ssh(stderr: str, status: int | None, words: Mapping[str, str]) -> ConnectFailed:
    """Return the error for an ssh that ended before the agent's first word.

    :param words: what the sentences name: ``peer``, ``address``, ``port``, ``known_hosts``, ``key``, and
        ``credential``, what is to be checked of it.
    """
    for symptom in _SYMPTOMS:
        if symptom.pattern.search(stderr):
            kind = ConnectDenied if symptom.final else ConnectFailed
            return kind(symptom.sentence.format(said=_last_line(stderr), **words), stderr=stderr)
    if status == _SSH_FAILED:
        said = _last_line(stderr) or "nothing"
        return ConnectFailed(f"ssh to {words['peer']} failed; it said: {said}.", stderr=stderr)
    return explain_silence(words["peer"], stderr, status)


def explain_silence(peer: str, stderr: str, status: int | None) -> ConnectFailed:
    """Return the error for a program that ended without a word of the protocol."""
    said = _last_line(stderr) or "nothing"
    message = (
        f"The program at {peer} ended with status {status} before it spoke; check that zolder-san runs there"
        f" and that its configuration knows this identity; it said: {said}."
    )
    return ConnectDenied(message, stderr=stderr)


def explain_garbage(peer: str, beginning: bytes, stderr: str) -> ConnectDenied:
    """Return the error for a peer whose first words are no frame."""
    shown = beginning.decode("utf-8", "replace").partition("\n")[0].strip()
    message = (
        f"What answers at {peer} is not zolder-san but says {shown!a}: install zolder-san on the SAN, give"
        ' the key the forced command "zolder-san serve --identity NAME" in authorized_keys, and let no login'
        " script print anything."
    )
    return ConnectDenied(message, stderr=stderr)


def explain_version(peer: str, agent: str) -> str:
    """Return the sentence for an agent of version ``agent`` that shares no protocol with this client."""
    agent_is_older = _figures(agent) < _figures(__version__)
    older = "zolder-san on the SAN" if agent_is_older else "zolder on this control node"
    return f"zolder-san {agent} at {peer} and zolder {__version__} here share no protocol: upgrade {older}."


def _figures(version: str) -> list[int]:
    return [int(figure) for figure in re.findall(r"[0-9]{1,9}", version)]


def _last_line(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else ""
