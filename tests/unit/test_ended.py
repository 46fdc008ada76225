"""Which attachments are known to have ended."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from zolder.names import AttachmentId
from zolder.san.ended import Ended

ZVOL = "data/volumes/volume-1"


@pytest.fixture
def ended(tmp_path: Path) -> Ended:
    """A SAN on which none has ended yet."""
    return Ended(tmp_path / "ended")


def new_attachment() -> AttachmentId:
    """Return a fresh attachment id."""
    return AttachmentId(str(uuid.uuid4()))


def test_an_end_is_known(ended: Ended, tmp_path: Path) -> None:
    """An end is known of that zvol's attachment alone, and to other agents as well."""
    gone, other = new_attachment(), new_attachment()
    assert not ended.has(ZVOL, gone)
    ended.add(ZVOL, gone)
    assert Ended(tmp_path / "ended").has(ZVOL, gone)
    assert not ended.has(ZVOL, other)
    assert not ended.has("data/volumes/volume-2", gone)


def test_forgotten(ended: Ended) -> None:
    """What was opened anew by its name has not ended, and nothing else is forgotten with it."""
    gone, other = new_attachment(), new_attachment()
    ended.add(ZVOL, gone)
    ended.add(ZVOL, other)
    ended.forget(ZVOL, gone)
    assert (ended.has(ZVOL, gone), ended.has(ZVOL, other)) == (False, True)


def test_no_id(ended: Ended) -> None:
    """The attachment without an id may be told again at any time, so it never counts as ended."""
    ended.add(ZVOL, None)
    ended.forget(ZVOL, None)
    assert not ended.has(ZVOL, None)


def test_it_does_not_grow(ended: Ended, tmp_path: Path) -> None:
    """Its file stays within half a MiB however many end, and the newest are known."""
    many = [new_attachment() for _ in range(5000)]
    for attachment in many:
        ended.add(ZVOL, attachment)
    assert (tmp_path / "ended").stat().st_size <= 2**19
    assert all(ended.has(ZVOL, attachment) for attachment in many[-3:])
