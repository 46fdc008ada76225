"""A zvol that is given other properties: a step that fails leaves it as it was."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any, NoReturn

import pytest

from zolder.errors import BackendError, Error, NoSpace
from zolder.model import Zvol
from zolder.names import DatasetName, VolumeId, ZvolName
from zolder.properties import Compression, Sync, ZvolProperties
from zolder.san import libzfs, zfs
from zolder.san.lzc import ZfsError
from zolder.san.reshaping import reshape_zvol

BEFORE = Zvol(
    DatasetName("data/volumes"),
    ZvolName("volume-1"),
    VolumeId("3f0c1b6e-5a52-4c1e-9a0b-0123456789ab"),
    2**30,
    sparse=True,
    properties=ZvolProperties(compression=Compression("lz4")),
)
AFTER = replace(BEFORE, sparse=False, properties=ZvolProperties(sync=Sync("always")))
DATASET = "data/volumes/volume-1"


class Dataset:
    """One zvol's properties; the step of number ``failing`` fails."""

    def __init__(self) -> None:
        """Be as ``BEFORE``."""
        self.values: dict[str, str | None] = {"refreservation": None, "compression": "lz4", "sync": None}
        self.steps = 0
        self.failing = 0

    def set_property(self, dataset: str, name: str, text: str | None) -> None:
        assert dataset == DATASET
        self.steps += 1
        if self.steps == self.failing:
            raise ZfsError(errno.EPERM, "permission denied", dataset)
        self.values[name] = text

    def set_properties(self, dataset: str, values: dict[str, str]) -> None:
        for name, text in values.items():
            self.set_property(dataset, name, text)

    def number_of(self, name: str, value: str) -> int:
        return len(name + value)


class Explaining:
    """A zpool that only says what an error means."""

    def explain(self, error: ZfsError, *, needed_bytes: int = 0) -> NoReturn:
        raise NoSpace(str(error), needed_bytes=needed_bytes)


@pytest.fixture
def dataset(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """A zvol behind the two modules that speak to ZFS."""
    made = Dataset()
    monkeypatch.setattr(libzfs, "library", lambda: made)
    monkeypatch.setattr(zfs, "reserve", lambda name: made.set_property(name, "refreservation", "auto"))
    monkeypatch.setattr(zfs, "release", lambda name: made.set_property(name, "refreservation", None))
    return made


def reshape(now: Zvol, wanted: Zvol) -> None:
    """Reshape the zvol."""
    zpool: Any = Explaining()
    reshape_zvol(zpool, now, wanted)


def test_there_and_back(dataset: Dataset) -> None:
    """What is asked for is set, what is asked for no more is inherited; a repeat is no step at all."""
    before = dict(dataset.values)
    reshape(BEFORE, AFTER)
    assert dataset.values == {"refreservation": "auto", "compression": None, "sync": "always"}
    steps = dataset.steps
    reshape(AFTER, AFTER)
    assert dataset.steps == steps == 3
    reshape(AFTER, BEFORE)
    assert dataset.values == before


@pytest.mark.parametrize("failing", [1, 2, 3])
@pytest.mark.parametrize(("now", "wanted"), [(BEFORE, AFTER), (AFTER, BEFORE)], ids=["thick", "thin"])
def test_a_step_that_fails(dataset: Dataset, failing: int, now: Zvol, wanted: Zvol) -> None:
    """Whichever step it is, all before it are undone."""
    if now == AFTER:
        reshape(BEFORE, AFTER)
    before = dict(dataset.values)
    dataset.steps, dataset.failing = 0, failing
    with pytest.raises(Error):
        reshape(now, wanted)
    assert dataset.values == before


@pytest.mark.parametrize("fault", [ZfsError(errno.EIO, "broken", DATASET), BackendError("zfs set failed")])
def test_an_undo_that_fails(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    """The first error is what the caller gets; the log has the other."""
    dataset.failing = 2

    def release(name: str) -> None:
        assert name == DATASET
        raise fault

    monkeypatch.setattr(zfs, "release", release)
    with pytest.raises(Error, match="permission denied"):
        reshape(BEFORE, AFTER)
    assert f"could not give {DATASET} back what it had" in caplog.text
