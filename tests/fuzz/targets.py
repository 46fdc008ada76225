"""The fuzz targets by name, and where each one's corpus is. Pure Python: replaying needs no fuzzer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.fuzz.carried import check_contents
from tests.fuzz.checked_names import check_name
from tests.fuzz.frames import check_reply, check_request, check_stream
from tests.fuzz.helping import check_helper
from tests.fuzz.policies import check_policy
from tests.fuzz.requests import check_channel
from tests.fuzz.sentences import check_sentence

HERE: Final = Path(__file__).parent
CORPUS: Final = HERE / "corpus"

# Each takes any bytes and raises only where a property does not hold.
TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "request": check_request,
    "reply": check_reply,
    "stream": check_stream,
    "channel": check_channel,
    "contents": check_contents,
    "helper": check_helper,
    "name": check_name,
    "policy": check_policy,
    "sentence": check_sentence,
}


def corpus_of(target: str) -> list[Path]:
    """Return the files of a target's corpus, always in the same order."""
    return sorted((CORPUS / target).iterdir())


def corpus() -> Iterator[tuple[str, Path]]:
    """Yield each target's name with each file of its corpus."""
    for target in TARGETS:
        for path in corpus_of(target):
            yield target, path
