"""What became of a run's tests, counted: passed, failed, and not run, each for its reason.

A skipped test is never counted as good: the verdict names how many did not run, and why.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

# What Tempest says of a class -> what it means here. Reasons that are not known stand as they are.
MEANINGS = {
    "compute": "need Nova, which the cloud does not have",
    "nova": "need Nova, which the cloud does not have",
    "backup": "need cinder-backup (--backup)",
}
PASSED, SKIPPED = ("success", "xfail"), ("skip",)


@dataclass(frozen=True)
class Outcomes:
    """A run's outcomes: ids of tests, and for those that did not pass, why."""

    passed: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    skipped: tuple[tuple[str, str], ...]

    @property
    def is_good(self) -> bool:
        """Whether some passed and none failed."""
        return bool(self.passed) and not self.failed

    def reasons(self) -> dict[str, int]:
        """Return how many tests were not run for each reason, the most frequent first."""
        return dict(Counter(meaning_of(reason) for _, reason in self.skipped).most_common())

    def lines(self) -> list[str]:
        """Return the account for a person, the counts last."""
        lines = [f"FAILED {name}" for name, _ in self.failed]
        lines += [f"not run: {count} that {meaning}" for meaning, count in self.reasons().items()]
        counts = f"{len(self.passed)} passed, {len(self.failed)} failed, {len(self.skipped)} skipped"
        return [*lines, counts]


def read_outcomes(lines: Iterable[str]) -> Outcomes:
    """Read the lines that lab.cloud.read_results wrote.

    A test whose end is missing (its process died) has failed.
    """
    passed, failed, skipped = [], [], []
    for line in lines:
        test = json.loads(line)
        name, status, reason = test["id"], test["status"], test["reason"]
        if status in PASSED:
            passed.append(name)
        elif status in SKIPPED:
            skipped.append((name, reason.strip()))
        elif status != "exists":  # which only says that there is such a test
            failed.append((name, reason))
    return Outcomes(tuple(passed), tuple(failed), tuple(skipped))


def meaning_of(reason: str) -> str:
    """Return what a reason to skip means here."""
    for word, meaning in MEANINGS.items():
        if word in reason.lower():
            return meaning
    return f"say: {reason}"
