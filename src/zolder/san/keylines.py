"""The lines of the file of keys, as sshd reads them (sshd(8), "AUTHORIZED_KEYS FILE FORMAT"). No I/O.

What the set-up takes away and what the check finds are the same lines, so both read them here. A line that
is not understood here may mean something to sshd all the same: whoever asks is told, and says so.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

PATH: Final = "/etc/zolder/authorized_keys"
# Of what stands between quotes, sshd takes a backslash for one only where a quote follows.
_OPTION: Final = re.compile(r'([A-Za-z0-9-]+)(?:="((?:\\"|[^"\\]|\\(?!"))*)")?(?=[,\s]|$)', re.ASCII)
_KIND: Final = re.compile(r"(?:ssh|ecdsa|sk)-[a-z0-9@.-]+", re.ASCII)
_PROGRAM: Final = re.compile(r"(?:/[\w.+-]+)*/?zolder-san", re.ASCII)
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]*", re.ASCII)
# Nothing in it means anything to the shell through which sshd runs a command.
_PLAIN: Final = re.compile(r"[\w+./= \t-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeyLine:
    """One line of authorized_keys; option names in lower case, which sshd does not tell from upper case."""

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

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the key may come from, sorted; none is anywhere."""
        return tuple(
            sorted(part for name, value in self.options if name == "from" for part in value.split(","))
        )


def parse_command(command: str) -> tuple[str, str] | None:
    """Return the program and the identity of a forced command of ours; None of any other."""
    words = command.split() if _PLAIN.fullmatch(command) else []
    identity = served_identity(words[1:])
    return (words[0], identity) if identity and _PROGRAM.fullmatch(words[0]) else None


def served_identity(words: Sequence[str]) -> str | None:
    """Return the identity that the agent's arguments name, in either spelling; None of other arguments."""
    match words:
        case ["serve", "--identity", name]:
            pass
        case ["serve", option] if option.startswith("--identity="):
            name = option.partition("=")[2]
        case _:
            return None
    return name if _NAME.fullmatch(name) else None


def parse_line(number: int, line: str) -> KeyLine | None:
    """Return what a line of authorized_keys says, or None where it is not to be understood."""
    options, rest = [], line.strip()
    if not _KIND.fullmatch(rest.split(maxsplit=1)[0] if rest else ""):
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
    except (IndexError, ValueError, binascii.Error):
        return None
    # The blob says its own kind, too, and sshd compares.
    named = blob[4 : 4 + int.from_bytes(blob[:4])]
    return KeyLine(number, tuple(options), kind, blob) if named == kind.encode() else None


def parse_lines(text: str) -> Iterator[tuple[int, KeyLine | None]]:
    """Yield the number of each line that is not empty and no comment, and what it says as `parse_line`."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, parse_line(number, line)


def unclear_lines(text: str) -> list[int]:
    """Return the lines of which nobody here can say whose they are: sshd may let somebody in by them."""
    return [number for number, key in parse_lines(text) if key is None or key.forced is None]
