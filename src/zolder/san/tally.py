"""What came of a restore of exports (zolder.san.restore), for people and for scripts. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from zolder.names import DatasetName, ExporterName, Portal
from zolder.san.missing import Waiting
from zolder.shapes import Json


@dataclass(slots=True)
class Tally:
    """What came of one parent. ``exports`` counts each initiator of each zvol; None: it was not reached."""

    parent: DatasetName
    exports: int | None = None
    built: int = 0
    withdrawn: int = 0
    waiting: dict[Waiting, tuple[Portal, ...]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    # Whether a zvol's device was waited for in vain.
    hasty: bool = False
    # The portals that cannot be had, and why: exports are built without them.
    lost: dict[tuple[ExporterName, Portal], str] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Count what came of one zvol."""
        self.add_tried(other)
        self.exports = (self.exports or 0) + (other.exports or 0)
        self.waiting |= other.waiting
        self.faults += other.faults

    def add_tried(self, other: Tally) -> None:
        """Count what was done for one zvol that is looked at once more."""
        self.built += other.built
        self.withdrawn += other.withdrawn
        self.hasty |= other.hasty


@dataclass(slots=True)
class Report:
    """What came of a restore."""

    parents: list[Tally] = field(default_factory=list)
    shut: tuple[Portal, ...] = ()
    faults: list[str] = field(default_factory=list)

    @property
    def waiting(self) -> dict[Waiting, tuple[Portal, ...]]:
        """The exports that wait for their secrets, and their portals."""
        return {entry: portals for tally in self.parents for entry, portals in tally.waiting.items()}

    @property
    def is_complete(self) -> bool:
        """Whether all is in place."""
        faults = [*self.faults, *(fault for tally in self.parents for fault in tally.faults)]
        return not faults and not self.waiting


def describe(tally: Tally) -> str:
    """Return a line for people about one parent."""
    if tally.exports is None:
        return f"{tally.parent}: not restored"
    parts = [f"{tally.exports} exports", f"{tally.built} built"]
    if tally.withdrawn:
        parts.append(f"{tally.withdrawn} withdrawn")
    if tally.waiting:
        parts.append(f"{len(tally.waiting)} wait for their secrets")
    if tally.faults:
        parts.append(f"{len(tally.faults)} faults")
    return f"{tally.parent}: {', '.join(parts)}"


def as_text(report: Report) -> list[str]:
    """Return what is not in place, a line each; none where all is."""
    # Parents may share a portal that cannot be had.
    faults = dict.fromkeys([*report.faults, *(fault for tally in report.parents for fault in tally.faults)])
    lines = list(faults)
    lines += [
        f"{dataset} stays shut to {initiator}: its CHAP secret is not here yet, cinder-volume sends it"
        for dataset, initiator in sorted(report.waiting)
    ]
    if report.shut:
        lines.append(f"still shut to new connections: {', '.join(report.shut)}")
    return lines


def as_json(report: Report) -> Json:
    """Return a report as an object for scripts."""
    return {
        "complete": report.is_complete,
        "parents": [
            {
                "parent": str(tally.parent),
                "exports": tally.exports,
                "built": tally.built,
                "withdrawn": tally.withdrawn,
                "waiting": [list(entry) for entry in sorted(tally.waiting)],
                "faults": list(tally.faults),
            }
            for tally in report.parents
        ],
        "shut": [str(portal) for portal in report.shut],
        "faults": list(report.faults),
    }
