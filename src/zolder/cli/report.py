"""Says what was found: words for people, a line a finding below a heading for its kind, or JSON for scripts.

The keys of the JSON stay as they are; new ones may come. No secrets: a finding has none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from zolder.cli.backends import Ground
from zolder.cli.finding import HEADINGS, Finding
from zolder.cli.looking import Seen
from zolder.cli.repair import Outcome


@dataclass(slots=True)
class Looked:
    """What came of one parent. ``trouble`` says why it could not be looked at."""

    ground: Ground
    seen: Seen | None = None
    findings: tuple[Finding, ...] = ()
    outcomes: dict[tuple[object, ...], Outcome] = field(default_factory=dict)
    trouble: str = ""

    @property
    def is_well(self) -> bool:
        """Whether nothing differs, or nothing does any more."""
        mended = [self.outcomes.get(finding.key) for finding in self.findings]
        return not self.trouble and all(outcome is not None and outcome.mended for outcome in mended)

    @property
    def sections(self) -> str:
        """The back ends, as cinder.conf names them."""
        return ", ".join(back_end.section for back_end in self.ground.back_ends)


def as_text(looked: Sequence[Looked]) -> Iterator[str]:
    """Return the lines for people."""
    for one in looked:
        yield f"{one.sections}: {one.ground.parent} on {one.ground.san}"
        if one.trouble:
            yield f"  could not be looked at: {one.trouble}"
        for kind, findings in groupby(one.findings, lambda finding: finding.kind):
            yield f"  {HEADINGS[kind]} ({kind}):"
            for finding in findings:
                yield f"    {finding.thing}: {finding.meaning}; {finding.advice}"
        yield from (f"  note: {note}" for note in _notes(one))
    yield _summary(looked)


def outcome_line(finding: Finding, outcome: Outcome) -> str:
    """Return what became of a finding, as a line."""
    return f"{finding.thing}: {outcome.what}"


def as_json(looked: Sequence[Looked]) -> dict[str, Any]:
    """Return all of it for scripts."""
    return {
        "well": all(one.is_well for one in looked),
        "parents": [
            {
                "parent": str(one.ground.parent),
                "san": one.ground.san,
                "back_ends": [back_end.section for back_end in one.ground.back_ends],
                "trouble": one.trouble or None,
                "volumes": len(one.seen.cinder.volumes) if one.seen else None,
                "zvols": len(one.seen.san.zvols) if one.seen else None,
                "elsewhere": _elsewhere(one),
                "findings": [_finding(one, finding) for finding in one.findings],
            }
            for one in looked
        ],
    }


def _finding(one: Looked, finding: Finding) -> dict[str, Any]:
    outcome = one.outcomes.get(finding.key)
    access = finding.access
    return {
        "kind": str(finding.kind),
        "object": finding.thing,
        "meaning": finding.meaning,
        "advice": finding.advice,
        "repairable": finding.repairable,
        "volume_id": finding.volume_id,
        "row": finding.row,
        "initiator": str(access.initiator) if access else None,
        "attachment": str(access.attachment) if access and access.attachment else None,
        "outcome": outcome.what if outcome else None,
        "mended": outcome.mended if outcome else None,
    }


def _elsewhere(one: Looked) -> dict[str, int]:
    if one.seen is None:
        return {}
    names = one.seen.san.zvols.keys() & one.seen.cinder.others.keys()
    return dict(sorted(Counter(one.seen.cinder.others[name].host for name in names).items()))


def _notes(one: Looked) -> Iterator[str]:
    for host, count in _elsewhere(one).items():
        yield (
            f"Cinder has the volumes of {count} zvols here at {host}, which cinder.conf does not put on this"
            " parent: they were not compared"
        )


def _summary(looked: Sequence[Looked]) -> str:
    volumes = sum(len(one.seen.cinder.volumes) for one in looked if one.seen)
    zvols = sum(len(one.seen.san.zvols) for one in looked if one.seen)
    found = sum(len(one.findings) for one in looked)
    repairable = sum(finding.repairable for one in looked for finding in one.findings)
    compared = f"{volumes} volumes in Cinder and {zvols} zvols compared"
    if not found:
        return f"{compared}: nothing is on one side only."
    return f"{compared}: {found} differences, {repairable} of which --repair can mend."
