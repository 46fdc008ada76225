"""The keys that sshd takes for the agent: each reaches it alone, as one identity that the policy knows."""

from __future__ import annotations

import base64
import binascii
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from zolder.san.check.accounts import check_place
from zolder.san.check.finding import Check, Finding
from zolder.san.check.machine import Machine
from zolder.san.check.policies import AUTHORIZE, policies

KEYS: Final = Check("keys")
PATH: Final = "/etc/zolder/authorized_keys"
# What `restrict` takes and these give back, or what makes a line another thing than a key: sshd(8).
_OPENING: Final = frozenset(
    {"agent-forwarding", "port-forwarding", "pty", "user-rc", "x11-forwarding", "cert-authority"}
    | {"permitopen", "permitlisten", "tunnel", "environment", "principals"}
)
_COMMAND: Final = re.compile(r"((?:/[\w.+-]+)*/?zolder-san) serve --identity ([a-z][a-z0-9_-]*)", re.ASCII)
_SHORTEST_RSA_BITS: Final = 3072
_OPTION: Final = re.compile(r'([A-Za-z0-9-]+)(?:="((?:[^"\\]|\\.)*)")?(?=[,\s]|$)', re.ASCII)
_KIND: Final = re.compile(r"(?:ssh|ecdsa|sk)-[a-z0-9@.-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeyLine:
    """One line of authorized_keys; option names in lower case."""

    number: int
    options: tuple[tuple[str, str], ...]
    kind: str
    blob: bytes

    @property
    def commands(self) -> list[str]:
        """The forced commands; there should be one."""
        return [value.replace('\\"', '"') for name, value in self.options if name == "command"]

    @property
    def forced(self) -> tuple[str, str] | None:
        """The program and the identity of the one forced command; None unless it is of ours."""
        return parse_command(self.commands[0]) if len(self.commands) == 1 else None


def parse_command(command: str) -> tuple[str, str] | None:
    """Return the program and the identity of a forced command of ours; None of any other."""
    found = _COMMAND.fullmatch(command)
    return (found[1], found[2]) if found else None


def parse_line(number: int, line: str) -> KeyLine | None:
    """Return what a line of authorized_keys says, or None where it is not to be understood."""
    options, rest = [], line.strip()
    if not _KIND.fullmatch(rest.partition(" ")[0]):
        while found := _OPTION.match(rest):
            options.append((found[1].lower(), found[2] or ""))
            rest = rest[found.end() :]
            if not rest.startswith(","):
                break
            rest = rest[1:]
    words = rest.split()
    try:
        kind, encoded = words[0], words[1]
        blob = base64.b64decode(encoded, validate=True)
    except (IndexError, binascii.Error):
        return None
    # The blob says its own kind, too, and sshd compares.
    return KeyLine(number, tuple(options), kind, blob) if _first_part(blob) == kind.encode() else None


def check_keys(machine: Machine) -> Iterator[Finding]:
    """Look at each key: restricted, forced to the agent, of an identity there is, and given once."""
    yield from check_place(KEYS, machine, PATH, uid=machine.root_uid, mode=0o644, kind=stat.S_IFREG)
    text = machine.find_text(PATH)
    if text is None:
        return
    seen: dict[bytes, int] = {}
    identities: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key = parse_line(number, line)
        subject = f"{PATH}, line {number}"
        edit = f"sudoedit +{number} {PATH}"
        if key is None:
            yield KEYS.warning(subject, "is no key that sshd understands", edit)
            continue
        faults = [*_check_options(machine, key, subject, edit), *_check_kind(key, subject, edit)]
        if key.blob in seen:
            message = f"is the key of line {seen[key.blob]} again: sshd takes the first"
            faults.append(KEYS.failure(subject, message, edit))
        seen.setdefault(key.blob, number)
        if key.forced:
            identities[subject] = key.forced[1]
        yield from faults or [
            KEYS.ok(subject, f"reaches the agent as {identities[subject]}, and nothing else")
        ]
    yield from _check_identities(machine, identities)


def _check_options(machine: Machine, key: KeyLine, subject: str, edit: str) -> Iterator[Finding]:
    names = [name for name, _ in key.options]
    if "restrict" not in names:
        yield KEYS.failure(subject, "lacks the option restrict: it may forward ports and more", edit)
    for name in sorted(_OPENING.intersection(names)):
        yield KEYS.failure(subject, f"has the option {name}, which the agent's keys must not have", edit)
    if key.forced is None:
        said = ascii(key.commands)[1:-1][:120] or "nothing"
        message = f"is forced to {said}, not to one zolder-san serve --identity NAME"
        yield KEYS.failure(subject, message, edit)
    elif (program := key.forced[0]).startswith("/") and machine.find_status(program) is None:
        yield KEYS.failure(subject, f"runs {program}, which is not there", f"ls -l {program}\n{edit}")


def _check_kind(key: KeyLine, subject: str, edit: str) -> Iterator[Finding]:
    if key.kind == "ssh-dss":
        yield KEYS.failure(subject, "is a DSA key, which sshd takes no more", edit)
    elif key.kind == "ssh-rsa" and (bits := _rsa_bits(key.blob)) < _SHORTEST_RSA_BITS:
        message = f"is an RSA key of {bits} bits: {_SHORTEST_RSA_BITS} are the least that will do"
        yield KEYS.warning(
            subject, message, "ssh-keygen -t ed25519\nsudo zolder-san authorize NAME --key FILE"
        )


def _check_identities(machine: Machine, identities: Mapping[str, str]) -> Iterator[Finding]:
    known = policies(machine)
    for subject, identity in identities.items():
        if identity not in known:
            message = f"is for identity {identity}, which the policy does not know: the agent refuses it"
            yield KEYS.warning(subject, message, f"sudo zolder-san revoke {identity}")
    for name in sorted(known.keys() - set(identities.values())):
        yield KEYS.note(f"identity {name}", "has no key", AUTHORIZE.replace("NAME", name))


def _rsa_bits(blob: bytes) -> int:
    parts = _parts(blob)
    return int.from_bytes(parts[2]).bit_length() if len(parts) > 2 else 0  # noqa: PLR2004 - kind, e, n: RFC 4253, 6.6


def _first_part(blob: bytes) -> bytes:
    return next(iter(_parts(blob)), b"")


def _parts(blob: bytes) -> list[bytes]:
    parts = []
    while len(blob) >= 4:  # noqa: PLR2004 - a length: RFC 4251, 5
        length = int.from_bytes(blob[:4])
        parts.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    return parts
