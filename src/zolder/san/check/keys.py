"""The keys that sshd takes for the agent: each reaches it alone, as one identity that the policy knows."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from typing import Final

from zolder.san.check.accounts import check_place
from zolder.san.check.finding import Check, Finding
from zolder.san.check.machine import Machine
from zolder.san.check.policies import AUTHORIZE, policies
from zolder.san.keylines import PATH, KeyLine, parse_lines

KEYS: Final = Check("keys")
# What `restrict` takes and these give back, or what makes a line another thing than a key: sshd(8).
_OPENING: Final = frozenset(
    {"agent-forwarding", "port-forwarding", "pty", "user-rc", "x11-forwarding", "cert-authority"}
    | {"permitopen", "permitlisten", "tunnel", "environment", "principals"}
)
_SHORTEST_RSA_BITS: Final = 3072


def check_keys(machine: Machine) -> Iterator[Finding]:
    """Look at each key: restricted, forced to the agent, of an identity there is, and given once."""
    yield from check_place(KEYS, machine, PATH, uid=machine.root_uid, mode=0o644, kind=stat.S_IFREG)
    text = machine.find_text(PATH)
    if text is None:
        return
    seen: dict[bytes, int] = {}
    identities: dict[str, str] = {}
    for number, key in parse_lines(text):
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


def _parts(blob: bytes) -> list[bytes]:
    parts = []
    while len(blob) >= 4:  # noqa: PLR2004 - a length: RFC 4251, 5
        length = int.from_bytes(blob[:4])
        parts.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    return parts
