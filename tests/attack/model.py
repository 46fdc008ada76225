"""What an attack is, as data: a name, what is sent, and what must be seen.

Whatever else an attack expects, two things always hold: no secret of the ground and no marker of a program
that ran comes back, and the SAN holds afterwards what it held before (tests/attack/dump.py).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

# Stands in all that no attacker may read: files of root, a foreign disk, a foreign target's password.
SECRET: Final = "keep-this-from-all"
# What a shell prints for PROOF_COMMAND; no echo of the command itself looks like it.
PROOF: Final = "zolder-42-through"
PROOF_COMMAND: Final = "echo zolder-$((6*7))-through"
# Stands in environment variables that no agent may have.
HOSTILE: Final = "hostile-value"

OPERATION: Final = "3f0c1b6e-5a52-4c1e-9a0b-0123456789ab"
# Codes of zolder.errors that refuse for good; which of them it is matters less than that it is one.
REFUSED: Final = frozenset({"not_permitted", "invalid_request", "unknown_method", "remote_protocol"})
ENDED: Final = frozenset({"remote_protocol", "version_mismatch", "closed"})


def frame(method: str, params: Any, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON is sent
    """Return a request, with fields changed or added."""
    whole = {"id": 1, "operation": OPERATION, "method": method, "deadline_ms": 20000, "params": params}
    return {**whole, **fields}


def line(method: str, params: Any, **fields: Any) -> bytes:  # noqa: ANN401 - as above
    """Return the same as it goes over the wire."""
    return json.dumps(frame(method, params, **fields)).encode() + b"\n"


HELLO: Final = line("hello", {"protocols": [1], "version": "0.1.0"})


@dataclass(frozen=True, slots=True)
class Session:
    """An ssh session that asks for a command; hello is said to whatever answers. Seen: ``identity:NAME``.

    ``variables`` are ssh's own. While a watched one is open no new file, socket or hostile variable may be
    there.
    """

    command: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    stdin: bytes = HELLO
    variables: tuple[tuple[str, str], ...] = ()
    watched: bool = False


@dataclass(frozen=True, slots=True)
class Login:
    """An ssh that must end by itself and fail. Seen: ``refused``, else ``let in`` or ``stayed``."""

    options: tuple[str, ...] = ()
    login: str | None = None


@dataclass(frozen=True, slots=True)
class Forward:
    """A local port, ``{port}`` in ``options``, that must lead nowhere. Seen: ``nothing``, else ``bytes``."""

    options: tuple[str, ...]
    probe: bytes = b""
    forbidden: bytes = b"SSH-2.0"


@dataclass(frozen=True, slots=True)
class Frames:
    """A volley of requests on a greeted channel. Seen, of each: its code, or what it answered."""

    frames: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Bytes:
    """Raw bytes, and then the end of input where ``ends``. Seen: as for ``Frames``, or ``closed``."""

    data: bytes
    greeted: bool = True
    ends: bool = True


@dataclass(frozen=True, slots=True)
class Command:
    """A shell command of a local user of the SAN. Seen: ``failed``, else ``succeeded``."""

    user: str
    script: str


@dataclass(frozen=True, slots=True)
class Helper:
    """First bytes to the helper's socket, and a volley of verbs behind them, as a local user.

    Seen: as for ``Frames``, or ``no connection``. Where there are verbs, the first bytes must be welcome, so
    that no verb is refused for want of a greeting.
    """

    user: str
    first: bytes
    then: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Flood:
    """Too much of something, by the name of a way in tests/attack/floods.py. Seen: ``stood``."""

    way: str
    count: int


Sent: TypeAlias = Session | Login | Forward | Frames | Bytes | Command | Helper | Flood


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack. ``key`` is the attacker's: ``agent`` (identity lab), ``other`` or ``stranger``.

    ``says`` is a pattern that the output must have, so that nothing counts as refused that never ran.
    """

    name: str
    group: str
    sent: Sent
    seen: frozenset[str]
    key: str = "agent"
    says: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attack led to: a word, all that came back, and what was seen meanwhile that must not be."""

    word: str
    output: bytes = b""
    meanwhile: list[str] = field(default_factory=list)


def verdict(attack: Attack, outcome: Outcome) -> list[str]:
    """Return what of an outcome must not be; nothing where the attack was held off."""
    text = outcome.output.decode(errors="replace")
    faults = [f"{secret} came back" for secret in (SECRET, PROOF) if secret in text]
    if outcome.word not in attack.seen:
        faults.append(f"seen was {outcome.word!r}, not one of {sorted(attack.seen)}")
    if attack.says and not re.search(attack.says, text):
        faults.append(f"nothing in the output is like {attack.says!r}")
    return faults + outcome.meanwhile
