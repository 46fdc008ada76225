"""`python -m bench`: measure all ways side by side, print the table, write bench/results.json.

Exits 1 where the driver misses its bars. KEEP=1 leaves the lab up. What the draft never did is measured of
the driver alone; ``--counts`` does that and no more, and keeps requests and processes, which no load changes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

from bench.beyond import beyond
from bench.draft import DraftWay
from bench.driver import DriverWay
from bench.table import Results
from bench.ways import LocalWay, Runner, Way
from lab import Lab, LabError

# In this order each step finds what it needs, and the zpool is as before at the end.
VERBS: Final = (
    "create",
    "snapshot",
    "clone",
    "delete clone",
    "delete snapshot",
    "delete",
    "create + export",
    "withdraw + delete",
)


def main(argv: list[str]) -> int:
    """Measure, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="how often each step is measured (at least 6)")
    parser.add_argument("--counts", action="store_true", help="only count what the draft never did")
    arguments = parser.parse_args(argv)
    rounds = max(6, arguments.rounds)
    lab = Lab(os.environ.get("ZOLDER_LAB") or "bench")
    try:
        lab.up()
        lab.reset()  # what another run left in a lab that was up would be measured too
        results = count(lab) if arguments.counts else measure(lab, rounds)
    finally:
        if not lab.keep:
            lab.down()
    results.write(only_counts=arguments.counts)
    print(results.table())
    missed = results.missed_bars()
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


def measure(lab: Lab, rounds: int) -> Results:
    """Do everything in every way, again and again, in turns."""
    results = Results()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zolder-bench-")))
        runner = stack.enter_context(closing(Runner(lab)))
        draft = stack.enter_context(closing(DraftWay(lab, runner)))
        driver = stack.enter_context(closing(DriverWay(lab, runner, folder)))
        local = [LocalWay(name, runner) for name in ("bare", "library", "command")]
        ways: list[Way] = [*local, draft, driver]
        # Round 0 warms up what each way loads once, and does not count.
        for number in range(rounds + 1):
            print(f"round {number} of {rounds}", file=sys.stderr)
            # Nobody is always the first.
            turn = number % len(ways)
            for way in [*ways[turn:], *ways[:turn]]:
                for verb in VERBS:
                    runner.settle()
                    step = way.do(verb, f"bench-{way.name}-{number + 1}")
                    if number:
                        results.add(verb, way.name, step)
            for verb, step in beyond(lab, driver, number + 1):
                if number:
                    results.add(verb, driver.name, step)
    return results


def count(lab: Lab) -> Results:
    """Do a few times what the draft never did, when it is warm."""
    results = Results()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zolder-bench-")))
        runner = stack.enter_context(closing(Runner(lab)))
        driver = stack.enter_context(closing(DriverWay(lab, runner, folder)))
        for number in range(1, 5):
            for verb, step in beyond(lab, driver, number):
                if number > 1:
                    results.add(verb, driver.name, step)
    return results


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as error:
        sys.exit(f"bench: {error}")
