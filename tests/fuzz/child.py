"""One fuzzing process: ``python -m tests.fuzz.child TARGET ARGUMENTS...``, as tools/fuzz.py starts it.

A process of its own, since libFuzzer ends the one that it runs in. Zolder and tomllib are imported under
atheris, which is how their coverage guides it.
"""

from __future__ import annotations

import sys
from importlib import import_module

import atheris  # type: ignore[import-untyped]  # it has no types


def main() -> None:
    """Fuzz one target until libFuzzer has had enough."""
    # Comparisons of strings tell the fuzzer what they looked for. The hook for regular expressions stays off:
    # what it puts in a pattern's place has no `match` with a position, which json and tomllib call.
    atheris.enabled_hooks.add("str")
    with atheris.instrument_imports(include=["zolder", "tomllib"]):
        targets = import_module("tests.fuzz.targets")
    name = sys.argv[1]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], targets.TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
