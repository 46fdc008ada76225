"""Run inputs through a target without a fuzzer: ``python -m tests.fuzz TARGET FILE...``.

What fails is shown with its traceback, as the fuzzer saw it; nothing is caught.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.fuzz.targets import TARGETS


def main(words: list[str]) -> int:
    """Run each file through the target that is named first."""
    if len(words) < 2 or words[0] not in TARGETS:  # a target and one file
        sys.stderr.write(f"usage: python -m tests.fuzz {{{','.join(TARGETS)}}} FILE...\n")
        return 2
    target, *files = words
    for file in files:
        TARGETS[target](Path(file).read_bytes())
        sys.stdout.write(f"{file}: holds\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
