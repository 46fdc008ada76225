"""The recorded requests (zolder.san.audit), read back from the journal for people and scripts.

Shows only what the agent's user and root wrote: any local user may send lines under our name, and the journal
knows who did.
Source: systemd.journal-fields(7).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from zolder.errors import BackendError
from zolder.san.account import find_account
from zolder.san.audit import TAG

# LOG_AUTHPRIV, as the journal has it.
_FACILITY: Final = 10
_FIELDS: Final[Mapping[str, type]] = {
    "identity": str,
    "peer": str,
    "method": str,
    "object": dict,
    "outcome": str,
    "ms": int,
    "operation": str,
}


@dataclass(frozen=True, slots=True)
class Filter:
    """Which requests are asked for; an empty text is any."""

    identity: str = ""
    method: str = ""
    outcome: str = ""
    object: str = ""

    def passes(self, entry: Mapping[str, Any]) -> bool:
        """Say whether a request is asked for; ``object`` is a part of any of its names."""
        return (
            self.identity in ("", entry["identity"])
            and self.method in ("", entry["method"])
            and self.outcome in ("", entry["outcome"])
            and any(self.object in str(value) for value in ("", *entry["object"].values()))
        )


def read(wanted: Filter, *, since: str = "") -> Iterator[dict[str, Any]]:
    """Yield the recorded requests that pass, oldest first, each with its ``time`` in UTC.

    :param since: as journalctl takes it: "-1h", "today", "2026-11-22 14:00".
    :raises BackendError: there is no agent or no journal on this SAN, or it cannot be read.
    """
    writers = [f"_UID={uid}" for uid in (0, find_account().uid)]
    matches = [f"SYSLOG_IDENTIFIER={TAG}", f"SYSLOG_FACILITY={_FACILITY}", *writers]
    times = [f"--since={since}"] if since else []
    argv = ["journalctl", "--quiet", "--no-pager", "--output=json", *times, *matches]
    try:
        journal = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
        )
    except FileNotFoundError as err:
        message = "there is no journalctl here: the lines are where the system log keeps facility authpriv"
        raise BackendError(message) from err
    with journal:
        if journal.stdout is None or journal.stderr is None:
            raise AssertionError  # both were asked for
        for line in journal.stdout:
            entry = _entry_of(json.loads(line))
            if entry is not None and wanted.passes(entry):
                yield entry
        said = journal.stderr.read().strip()
    if journal.returncode:
        message = f"journalctl failed: {said[:500] or journal.returncode}"
        raise BackendError(message)


def _entry_of(logged: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        entry = json.loads(logged["MESSAGE"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None  # the agent's user or root wrote something else under our name
    if not isinstance(entry, dict) or any(
        not isinstance(entry.get(name), kind) for name, kind in _FIELDS.items()
    ):
        return None
    seconds = int(logged["__REALTIME_TIMESTAMP"]) / 1_000_000
    time = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return {"time": time, **{name: entry[name] for name in _FIELDS}}


def as_text(entry: Mapping[str, Any]) -> str:
    """Return one request as a line for people; text from a client is shown with its escapes."""
    names = " ".join(f"{_plain(name)}={json.dumps(value)}" for name, value in entry["object"].items())
    words = [_plain(entry[name]) for name in ("identity", "peer", "method", "outcome")]
    return "  ".join([entry["time"], *words, f"{entry['ms']} ms", names]).rstrip()


def _plain(text: str) -> str:
    """Return text that can neither end a line nor write over the terminal."""
    return ascii(text)[1:-1]
