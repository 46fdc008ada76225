"""`python -m bench.helper`: what asking the root helper adds to a request that needs it, on the lab's SAN.

The cheapest of root's verbs (there is no export to list) by root itself and by the agent's user through the
helper, in turns; medians in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from statistics import median
from typing import Final

from lab import Lab

INSIDE: Final = Path(__file__).parent / "inside/asking.py"
PLACE: Final = "/run/zolder-bench.py"
TURNS: Final = 5


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(prog="python -m bench.helper", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="how often each way in a turn")
    rounds = parser.parse_args().rounds
    lab = Lab(os.environ.get("ZOLDER_LAB") or "bench")
    times: dict[str, list[float]] = {"direct": [], "helper": []}
    try:
        lab.up()
        lab.san.write_file(PLACE, INSIDE.read_bytes())
        for _ in range(TURNS):
            said = lab.san.succeed(f"python3 -I -S {PLACE} {rounds}", timeout_seconds=300)
            for way, found in json.loads(said).items():
                times[way] += found
        lab.san.succeed(f"rm -f {PLACE} /run/zolder-bench.locks")
    finally:
        if not lab.keep:
            lab.down()
    direct, helper = (median(times[way]) for way in ("direct", "helper"))
    print(
        f"listing no exports, median of {len(times['direct'])}: root itself {direct:.1f} ms,"
        f" through the helper {helper:.1f} ms: it adds {helper - direct:.1f} ms"
    )


if __name__ == "__main__":
    main()
