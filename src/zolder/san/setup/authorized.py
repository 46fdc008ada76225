"""The file of keys that sshd reads: what its lines say, and its text with a line more or fewer.

Whatever else stands in it stays byte for byte. No I/O.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

from zolder.names import Identity
from zolder.san.keylines import parse_lines, unclear_lines
from zolder.san.setup.keys import PublicKey
from zolder.san.setup.texts import KEYS_FILE


@dataclass(frozen=True, slots=True)
class Entry:
    """One key's line; ``identity`` is None where it runs something else."""

    line: int
    key: PublicKey
    identity: str | None
    sources: tuple[str, ...]


def entries(text: str) -> list[Entry]:
    """Return what the lines with keys say."""
    return [
        Entry(
            number,
            PublicKey(key.kind, base64.b64encode(key.blob).decode()),
            key.forced[1] if key.forced else None,
            key.sources,
        )
        for number, key in parse_lines(text)
        if key
    ]


def unclear(text: str) -> list[str]:
    """Return a sentence for each line of which nobody can say here whom it lets in, and as whom."""
    return [
        f"/{KEYS_FILE}, line {number}: what it runs is not understood, so it stays, and may let somebody in: "
        "look at it, and write it anew with 'zolder-san authorize' or remove it by hand."
        for number in unclear_lines(text)
    ]


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
