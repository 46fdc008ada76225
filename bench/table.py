"""From single steps to medians, to a table for people and a file for programs."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Final

from bench.ways import Step

WAYS: Final = ("bare", "library", "command", "draft", "driver")
RESULTS: Final = Path(__file__).with_name("results.json")

# The driver's whole path may cost this much of the limit, and create + export this much of the draft's.
DRIVER_BAR: Final = 1.25
DRAFT_BAR: Final = 0.5


class Results:
    """The steps of one run, by verb and way."""

    def __init__(self) -> None:
        """Begin with none."""
        self._steps: defaultdict[str, dict[str, list[Step]]] = defaultdict(lambda: defaultdict(list))

    def add(self, verb: str, way: str, step: Step) -> None:
        """Note what one step cost."""
        self._steps[verb][way].append(step)

    def figures(self) -> dict[str, dict[str, float]]:
        """Return the medians, as bench/results.json has them; requests and processes are the driver's."""
        found: dict[str, dict[str, float]] = {}
        for verb, ways in self._steps.items():
            done = [way for way in WAYS if ways[way]]
            figures = {f"{way}_ms": round(median(step.ms for step in ways[way]), 1) for way in done}
            figures["requests"] = median(step.requests for step in ways["driver"])
            figures["processes"] = median(step.processes for step in ways["driver"])
            found[verb] = figures
        return found

    def table(self) -> str:
        """Return the table for people."""
        head = f"{'ms, medians':<20}" + "".join(f"{way:>10}" for way in WAYS)
        lines = [
            head
            + f"{'driver/library':>16}{'driver/draft':>14}   requests, processes on the SAN: driver (draft)"
        ]
        alone = []
        for verb, figures in self.figures().items():
            counts = f"{figures['requests']:g}, {figures['processes']:g}"
            if "draft_ms" not in figures:
                alone.append(f"{verb:<24}{figures['driver_ms']:>10.0f}   {counts}")
                continue
            times = "".join(f"{figures[f'{way}_ms']:>10.0f}" for way in WAYS)
            limit = figures["driver_ms"] / figures["library_ms"]
            draft = figures["driver_ms"] / figures["draft_ms"]
            theirs = self._steps[verb]["draft"]
            counts += (
                f" ({median(step.requests for step in theirs):g},"
                f" {median(step.processes for step in theirs):g})"
            )
            lines.append(f"{verb:<20}{times}{limit:>16.2f}{draft:>14.2f}   {counts}")
        head = f"{'the driver alone':<24}{'ms':>10}   requests, processes on the SAN"
        return "\n".join([*(lines if lines[1:] else ()), head, *alone])

    def missed_bars(self) -> list[str]:
        """Return where the driver takes longer than it may."""
        missed = []
        compared = {verb: figures for verb, figures in self.figures().items() if "draft_ms" in figures}
        for verb, figures in compared.items():
            if (limit := figures["driver_ms"] / figures["library_ms"]) > DRIVER_BAR:
                missed.append(f"{verb}: {limit:.2f} of the limit, more than {DRIVER_BAR}")
        export = compared.get("create + export")
        if export and (draft := export["driver_ms"] / export["draft_ms"]) > DRAFT_BAR:
            missed.append(f"create + export: {draft:.2f} of the draft's, more than {DRAFT_BAR}")
        return missed

    def write(self, *, only_counts: bool = False) -> None:
        """Write the medians for programs.

        :param only_counts: leave times as they are, and what was not measured now.
        """
        figures = self.figures()
        if only_counts:
            known = json.loads(RESULTS.read_text())
            counted = {
                verb: {name: one[name] for name in ("requests", "processes")} for verb, one in figures.items()
            }
            figures = known | {verb: known.get(verb, {}) | one for verb, one in counted.items()}
        RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
