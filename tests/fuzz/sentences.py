"""Fuzz target for zolder.san.zfs: what a failed command says, with our dataset in it or another's."""

from __future__ import annotations

import errno
from typing import Final

from zolder.san.run import Finished
from zolder.san.zfs import recognise

DATASET: Final = "data/volumes/volume-1"
# What each errno may be concluded from: how the sentence begins and how it ends.
_SAID: Final = {
    errno.ENOSPC: [
        (f"cannot create '{DATASET}'", "out of space"),
        (f"cannot set property for '{DATASET}'", "out of space"),
        (f"cannot set property for '{DATASET}'", "size is greater than available space"),
    ],
    errno.EEXIST: [(f"cannot create '{DATASET}'", "dataset already exists")],
    errno.ENOENT: [
        (f"cannot create '{DATASET}'", "parent does not exist"),
        (f"cannot open '{DATASET}'", "dataset does not exist"),
    ],
    errno.EPERM: [
        (f"cannot create '{DATASET}'", "permission denied"),
        (f"cannot set property for '{DATASET}'", "permission denied"),
    ],
    errno.EBUSY: [(f"cannot set property for '{DATASET}'", "dataset is busy")],
}


def check_sentence(data: bytes) -> None:
    """An errno is concluded only from a whole line that says so of our dataset, and of no other."""
    text = data.decode("utf-8", "replace")
    finished = Finished(("zfs", "create"), 1, "", text)
    number = recognise(finished, DATASET)
    said = {line.strip() for line in text.splitlines()}
    if number is not None:
        assert any(f"{head}: {tail}" in said for head, tail in _SAID[number])
        assert DATASET in text
    for head, tails in ((head, tail) for known in _SAID.values() for head, tail in known):
        assert f"{head}: {tails}" not in text.split("\n") or number is not None, "a sentence was overlooked"
    assert recognise(finished, f"{DATASET}-other") is None or f"{DATASET}-other" in text
    error = finished.error()
    assert len(error.message) < 2100, "a message that grows with the input"
