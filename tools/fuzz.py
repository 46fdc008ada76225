"""Fuzz each target of tests/fuzz for an equal share of FUZZ_SECONDS: ``make fuzz``.

First the corpus is run through each target without a fuzzer. Then one process a target, one after the other;
what it finds new stays in build/fuzz/TARGET, and ``--keep`` copies from there into tests/fuzz/corpus what
reaches code that nothing there reaches. A crash ends the run with the input's path and how to run it again.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]  # what a script in tools is not given

from tests.fuzz.reach import worth_keeping  # noqa: E402 - the line above makes it findable
from tests.fuzz.targets import CORPUS, HERE, TARGETS, corpus_of  # noqa: E402 - the line above makes it findable

BUILD: Final = ROOT / "build/fuzz"
SECONDS: Final = 60
# Longer inputs are slower and find no more: every limit of a name and of nesting lies well below.
_LONGEST_BYTES: Final = 4096
_SLOWEST_SECONDS: Final = 5
_MOST_MEMORY_MIB: Final = 512
_LIBFUZZER: Final = (
    f"-dict={HERE / 'zolder.dict'}",
    f"-timeout={_SLOWEST_SECONDS}",
    f"-rss_limit_mb={_MOST_MEMORY_MIB}",
    "-print_final_stats=1",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one target's run came to. ``coverage`` counts branches, of Zolder and of tomllib."""

    target: str
    executions: int
    seconds: float
    coverage: int
    new_entries: int
    crash: Path | None = None
    log: str = ""

    def __str__(self) -> str:
        """Return it as a line of the report."""
        rate = self.executions / self.seconds if self.seconds else 0
        return (
            f"{self.target:10} {self.executions:9} executions {rate:8.0f}/s   coverage {self.coverage:5}"
            f"   {self.new_entries:4} new corpus entries"
        )


def fuzz(target: str, seconds: int) -> Outcome:
    """Fuzz one target, beginning with its corpus."""
    found = BUILD / target
    found.mkdir(parents=True, exist_ok=True)
    crashes = BUILD / "crashes" / target
    crashes.mkdir(parents=True, exist_ok=True)
    before = set(found.iterdir())
    limits = (f"-max_total_time={seconds}", f"-max_len={_LONGEST_BYTES}", f"-artifact_prefix={crashes}/")
    began = time.monotonic()
    log, status = _child(target, *_LIBFUZZER, *limits, str(found), str(CORPUS / target))
    took = time.monotonic() - began
    named = re.findall(r"Test unit written to (\S+)", log)
    crash = Path(named[-1]) if named else None
    if status and crash is None:
        sys.stderr.write(log)
        message = f"fuzz: the fuzzer of {target} ended with {status} and left no input; what it said is above"
        raise SystemExit(message)
    return Outcome(
        target,
        executions=_last(log, r"stat::number_of_executed_units: +(\d+)") or _last(log, r"^#(\d+)\t"),
        seconds=took,
        coverage=_last(log, r"\bcov: (\d+)"),
        new_entries=len(set(found.iterdir()) - before),
        crash=crash,
        log=log,
    )


def keep(target: str) -> int:
    """Copy into a target's corpus what was found and reaches more; return how many inputs that were."""
    kept = worth_keeping(TARGETS[target], corpus_of(target), (BUILD / target).glob("*"))
    for path in kept:
        shutil.copyfile(path, CORPUS / target / path.name)
    return len(kept)


def replay(target: str) -> int:
    """Run a target's corpus through it; what fails is raised.

    :return: the number of inputs.
    """
    paths = corpus_of(target)
    for path in paths:
        try:
            TARGETS[target](path.read_bytes())
        except Exception:
            sys.stderr.write(_how_to_repeat(target, path))
            raise
    return len(paths)


def main(words: Sequence[str]) -> int:
    """Fuzz the targets that are named, or all of them.

    :return: 0 where nothing failed.
    """
    parser = argparse.ArgumentParser(
        prog="tools/fuzz.py", description="Fuzz what reads bytes from elsewhere."
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; without, all")
    parser.add_argument("--keep", action="store_true", help="copy what reaches more into tests/fuzz/corpus")
    asked = parser.parse_args(words)
    if unknown := set(asked.targets) - TARGETS.keys():
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    targets = asked.targets or list(TARGETS)
    seconds = max(1, int(os.environ.get("FUZZ_SECONDS") or SECONDS) // len(targets))
    _say(f"the corpus holds: {sum(replay(target) for target in targets)} inputs")
    outcomes = []
    for target in targets:
        outcome = fuzz(target, seconds)
        _say(str(outcome))
        outcomes.append(outcome)
        if outcome.crash:
            sys.stderr.write(outcome.log[-4000:] + _how_to_repeat(target, outcome.crash))
            break
    if asked.keep:
        _say(f"kept: {sum(keep(target) for target in targets)} new corpus entries")
    crashes = sum(outcome.crash is not None for outcome in outcomes)
    _say(f"{sum(outcome.executions for outcome in outcomes)} executions, {crashes} crashes")
    return 1 if crashes else 0


def _child(target: str, *arguments: str) -> tuple[str, int]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.child", target, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
        errors="replace",
    )
    return done.stdout, done.returncode


def _how_to_repeat(target: str, path: Path) -> str:
    return f"\nfuzz: {target} fails on {path}\nRun it again: .venv/bin/python -m tests.fuzz {target} {path}\n"


def _last(log: str, pattern: str) -> int:
    found = re.findall(pattern, log, re.MULTILINE)
    return int(found[-1]) if found else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
