"""The file of keys that sshd reads: what its lines say, and its text with a line more or fewer.

Whatever else stands in it stays byte for byte. No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from zolder.names import Identity
from zolder.san.setup.keys import KINDS, PublicKey

_COMMAND: Final = re.compile(r'(?:^|,)command="(?:\\"|[^"])*? serve --identity ([a-z][a-z0-9_-]*)"')
_FROM: Final = re.compile(r'(?:^|,)from="([^"]*)"')
# Options are one word, but that blanks may stand between quotes (sshd(8), "AUTHORIZED_KEYS FILE FORMAT").
_OPTIONS: Final = re.compile(r'((?:"(?:\\"|[^"])*"|[^\s"])+)[ \t]+(\S.*)')


@dataclass(frozen=True, slots=True)
class Entry:
    """One key's line; ``identity`` is None where it runs something else."""

    line: int
    key: PublicKey
    identity: str | None
    sources: tuple[str, ...]


def entries(text: str) -> list[Entry]:
    """Return what the lines with keys say."""
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        entry = _entry(number, line.strip())
        if entry:
            found.append(entry)
    return found


def _entry(number: int, line: str) -> Entry | None:
    if not line or line.startswith("#"):
        return None
    options, words = "", line.split()
    if words[0] not in KINDS:
        parted = _OPTIONS.fullmatch(line)
        if not parted:
            return None
        options, words = parted[1], parted[2].split()
    if words[0] not in KINDS or len(words) < 2:  # noqa: PLR2004 - kind and key
        return None
    command, source = _COMMAND.search(options), _FROM.search(options)
    sources = tuple(sorted(source[1].split(","))) if source else ()
    return Entry(number, PublicKey(words[0], words[1]), command[1] if command else None, sources)


def key_line(executable: str, identity: Identity, key: PublicKey, sources: tuple[str, ...]) -> str:
    """Return the line that lets a key run one program as one identity, and nothing else."""
    options = f'restrict,command="{executable} serve --identity {identity}"'
    if sources:
        options += f',from="{",".join(sources)}"'
    return f"{options} {key.kind} {key.blob} {identity}\n"


def with_line(text: str, line: str) -> str:
    """Return the file's text with one line more."""
    return f"{text}\n{line}" if text and not text.endswith("\n") else text + line


def without(text: str, unwanted: Callable[[Entry], bool]) -> str:
    """Return the file's text without the lines of some keys."""
    gone = {entry.line for entry in entries(text) if unwanted(entry)}
    kept = [line for number, line in enumerate(text.split("\n"), start=1) if number not in gone]
    return "\n".join(kept)
