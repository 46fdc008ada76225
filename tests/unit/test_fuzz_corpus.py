from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from tests.fuzz.predicates import PREDICATES
from tests.fuzz.targets import CORPUS, TARGETS, corpus, corpus_of
from zolder import names, properties
from zolder.names import Name

INPUTS = [pytest.param(target, path, id=f"{target}-{path.name[:40]}") for target, path in corpus()]
# What the process itself needs for any input, and what one byte of it may cost: an empty dict a `{}`, twice.
FIXED_BYTES, BYTES_FOR_A_BYTE = 256 * 1024, 256


@pytest.mark.parametrize(("target", "path"), INPUTS)
def test_input(target: str, path: Path) -> None:
    """Whatever fuzzing found worth keeping holds, without the fuzzer."""
    TARGETS[target](path.read_bytes())


# The policy is the administrator's own file, and what tomllib keeps of a dotted key grows with its square.
@pytest.mark.parametrize("target", sorted(TARGETS.keys() - {"policy"}))
def test_memory(target: str) -> None:
    """No input from a client or a command costs more memory than its length allows."""
    for path in corpus_of(target):
        data = path.read_bytes()
        TARGETS[target](data)  # what is made once and kept is made here
        tracemalloc.start()
        try:
            TARGETS[target](data)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < FIXED_BYTES + BYTES_FOR_A_BYTE * len(data), path


def test_every_target_has_a_corpus() -> None:
    """There is a folder of inputs for each target and no other."""
    assert {path.name for path in CORPUS.iterdir()} == TARGETS.keys()
    assert all(corpus_of(target) for target in TARGETS)


def test_the_corpus_stays_small() -> None:
    """At most 240 files and 200 KB, so that it can be read and replayed at every run."""
    sizes = [path.stat().st_size for _, path in corpus()]
    assert len(sizes) <= 240
    assert sum(sizes) <= 200_000


def test_every_name_has_a_predicate() -> None:
    """No class of names is left without its independent description."""
    kinds = {
        kind.__name__
        for module in (names, properties)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Name)
    }
    assert kinds - {"Name", "Choice"} == PREDICATES.keys()
