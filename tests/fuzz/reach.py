"""Which steps from line to line an input takes through Zolder and tomllib: whether it is worth keeping.

Coarser than what guides the fuzzer, which also counts how often: so few are kept, and each for a reason.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeAlias

import zolder

Step: TypeAlias = tuple[str, int, int]

_WATCHED: Final = tuple(str(Path(module.__file__ or "").parent) for module in (zolder, tomllib))


def reached(target: Callable[[bytes], None], data: bytes) -> set[Step]:
    """Run an input and return its steps."""
    steps: set[Step] = set()
    last: dict[FrameType, int] = {}

    def watch(frame: FrameType, event: str, _: object) -> Any:  # noqa: ANN401 - what sys.settrace asks for
        path = frame.f_code.co_filename
        if not path.startswith(_WATCHED):
            return None
        if event == "line":
            steps.add((path, last.get(frame, 0), frame.f_lineno))
            last[frame] = frame.f_lineno
        elif event == "return":
            last.pop(frame, None)
        return watch

    sys.settrace(watch)
    try:
        target(data)
    finally:
        sys.settrace(None)
    return steps


def worth_keeping(
    target: Callable[[bytes], None], known: Iterable[Path], found: Iterable[Path]
) -> list[Path]:
    """Return the found inputs that take a step which nothing before them takes, the smallest first."""
    steps: set[Step] = set()
    for path in known:
        steps |= reached(target, path.read_bytes())
    kept = []
    for path in sorted(found, key=lambda path: (path.stat().st_size, path.name)):
        new = reached(target, path.read_bytes())
        if new - steps:
            kept.append(path)
            steps |= new
    return kept
