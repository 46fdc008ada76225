from __future__ import annotations

import json
import stat
from functools import partial
from pathlib import Path

import pytest

from zolder.errors import BackendError
from zolder.model import Chap
from zolder.names import DatasetName, InitiatorName, ZvolName
from zolder.san.missing import count_missing, keep_missing, list_missing, note_missing, note_supplied
from zolder.san.rootplaces import RootPlaces
from zolder.san.secrets import Secrets

PARENT = DatasetName("data/volumes")
ZVOL = ZvolName("volume-1.2")
ONE = InitiatorName("iqn.1993-08.org.debian:01:one")
TWO = InitiatorName("nqn.2014-08.org.nvmexpress:uuid:Two")
CHAP = Chap("user", "a secret of sixteen")
OTHER = Chap("user", "another one, longer")


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    """An empty store."""
    return Secrets(tmp_path / "helper" / "secrets")


@pytest.fixture
def kept(secrets: Secrets, tmp_path: Path) -> Path:
    """The file of a zvol with a secret for each of two initiators."""
    secrets.put(PARENT, ZVOL, ONE, CHAP)
    secrets.put(PARENT, ZVOL, TWO, OTHER)
    return tmp_path / "helper/secrets/data:volumes:volume-1.2"


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    """Where the missing secrets are listed."""
    return RootPlaces(run=tmp_path / "run").missing


def test_kept(secrets: Secrets, kept: Path) -> None:
    """What was put is found again, by the initiator and the zvol that it was put for and no other."""
    assert kept.is_file()
    assert secrets.find(PARENT, ZVOL, ONE) == CHAP
    assert secrets.find(PARENT, ZVOL, TWO) == OTHER
    assert secrets.find(PARENT, ZvolName("volume-1"), ONE) is None
    assert secrets.find(DatasetName("data/volumes/volume-1.2"), ZVOL, ONE) is None
    assert secrets.list_zvols(PARENT) == (ZVOL,)
    assert secrets.list_zvols(DatasetName("data")) == ()


def test_for_root_alone(kept: Path) -> None:
    """Nobody but its owner can read a secret, or see whose there are."""
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700


def test_put_twice(secrets: Secrets, kept: Path) -> None:
    """What is kept already is not written again; another secret takes its place."""
    before = kept.stat().st_ino
    secrets.put(PARENT, ZVOL, ONE, CHAP)
    assert kept.stat().st_ino == before
    secrets.put(PARENT, ZVOL, ONE, OTHER)
    assert secrets.find(PARENT, ZVOL, ONE) == OTHER
    assert secrets.find(PARENT, ZVOL, TWO) == OTHER
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_remove(secrets: Secrets, kept: Path) -> None:
    """One initiator's secret goes alone; the file goes with the last, and what is absent may go again."""
    secrets.remove(PARENT, ZVOL, ONE)
    secrets.remove(PARENT, ZVOL, ONE)
    assert (secrets.find(PARENT, ZVOL, ONE), secrets.find(PARENT, ZVOL, TWO)) == (None, OTHER)
    secrets.remove(PARENT, ZVOL, TWO)
    assert not kept.exists()
    secrets.remove(PARENT, ZVOL, None)


def test_remove_all(secrets: Secrets, kept: Path) -> None:
    """All of a zvol's secrets go at once."""
    secrets.remove(PARENT, ZVOL, None)
    assert not kept.exists()


def test_prune(secrets: Secrets, kept: Path) -> None:
    """Only the named stay; what a write that was cut short left goes too, and no other zvol's."""
    left = kept.with_name(f".{kept.name}.4711")
    left.write_text("half a secr")
    other = kept.with_name("data:volumes:volume-10")
    other.write_text("{}")
    secrets.prune(PARENT, ZVOL, [TWO])
    assert sorted(path.name for path in kept.parent.iterdir()) == sorted((kept.name, other.name))
    assert (secrets.find(PARENT, ZVOL, ONE), secrets.find(PARENT, ZVOL, TWO)) == (None, OTHER)
    secrets.prune(PARENT, ZVOL, ())
    assert not kept.exists()


def test_what_is_left_is_seen(secrets: Secrets, kept: Path) -> None:
    """A zvol of which only a write that was cut short is there is listed, so that it can be pruned."""
    kept.rename(kept.with_name(f".{kept.name}.4711"))
    kept.with_name("data:volumes:NO ZVOL").touch()
    assert secrets.list_zvols(PARENT) == (ZVOL,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s3cret",
        '["s3cret"]',
        '{"iqn.1993-08.org.debian:01:one": "s3cret"}',
        '{"iqn.1993-08.org.debian:01:one": {"user": "s3cret"}}',
        '{"s3cret": {"user": "u", "secret": "s3cret"}}',
        '{"iqn.1993-08.org.debian:01:one": {"user": "u", "secret": "s3cret", "s3cret": 1}}',
        "[" * 100_000,
    ],
)
def test_damaged(secrets: Secrets, kept: Path, text: str) -> None:
    """A damaged file is named with what to do, and nothing in it is shown, not even as a cause."""
    kept.write_text(text)
    with pytest.raises(BackendError, match="is damaged") as caught:
        secrets.find(PARENT, ZVOL, ONE)
    assert str(kept) in caught.value.message
    # The test's own folder is named after the text.
    assert "s3cret" not in f"{caught.value} {caught.value.details}".replace(str(kept), "")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    with pytest.raises(BackendError, match="is damaged"):
        secrets.put(PARENT, ZVOL, ONE, CHAP)
    secrets.remove(PARENT, ZVOL, None)
    assert secrets.find(PARENT, ZVOL, ONE) is None


def test_unreadable(secrets: Secrets, kept: Path) -> None:
    """What cannot be read, written or removed is an error and never absent."""
    kept.unlink()
    kept.mkdir()
    for act in (
        partial(secrets.find, PARENT, ZVOL, ONE),
        partial(secrets.put, PARENT, ZVOL, ONE, CHAP),
        partial(secrets.remove, PARENT, ZVOL, None),
    ):
        with pytest.raises(BackendError, match="cannot"):
            act()


def test_unwritable(tmp_path: Path) -> None:
    """A folder that cannot be made is named."""
    (tmp_path / "file").touch()
    secrets = Secrets(tmp_path / "file" / "secrets")
    with pytest.raises(BackendError, match="cannot"):
        secrets.put(PARENT, ZVOL, ONE, CHAP)
    with pytest.raises(BackendError, match="cannot list"):
        secrets.list_zvols(PARENT)


def test_nothing_is_missing(waiting: Path) -> None:
    """Where there is no list nothing waits, and nothing is made of what is supplied."""
    assert count_missing(PARENT, file=waiting) == 0
    note_supplied("data/volumes/volume-1", ONE, file=waiting)
    keep_missing([PARENT], [], file=waiting)
    assert not waiting.parent.exists()


def test_missing(waiting: Path) -> None:
    """What waits is counted for its own parent, each once, until its secret came; everybody may read it."""
    for dataset, initiator in (
        ("data/volumes/a", ONE),
        ("data/volumes/a", TWO),
        ("data/volumes/b", ONE),
        ("data/volumes/b", ONE),
        ("data/other/a", ONE),
    ):
        note_missing(dataset, initiator, file=waiting)
    assert count_missing(PARENT, file=waiting) == 3
    assert count_missing(DatasetName("data"), file=waiting) == 0
    assert stat.S_IMODE(waiting.stat().st_mode) == 0o644
    note_supplied("data/volumes/a", ONE, file=waiting)
    assert list_missing(file=waiting) == (
        ("data/other/a", str(ONE)),
        ("data/volumes/a", str(TWO)),
        ("data/volumes/b", str(ONE)),
    )
    note_supplied("data/volumes/a", None, file=waiting)
    assert count_missing(PARENT, file=waiting) == 1
    note_supplied("data/volumes/b", ONE, file=waiting)
    note_supplied("data/other/a", ONE, file=waiting)
    assert not waiting.exists()


def test_keep_missing(waiting: Path) -> None:
    """What a restore did not find waiting any more is struck off, below its own parents alone."""
    for dataset in ("data/volumes/a", "data/volumes/b", "data/other/a"):
        note_missing(dataset, ONE, file=waiting)
    keep_missing([PARENT], [("data/volumes/b", str(ONE))], file=waiting)
    assert [dataset for dataset, _ in list_missing(file=waiting)] == ["data/other/a", "data/volumes/b"]


@pytest.mark.parametrize("text", ["", "{", "7", '["data/volumes/a"]', "[[1, 2, 3]]"])
def test_damaged_list(waiting: Path, text: str) -> None:
    """A damaged list is an error that names the way out, and is written anew by what is noted next."""
    note_missing("data/volumes/a", ONE, file=waiting)
    waiting.write_text(text)
    with pytest.raises(BackendError, match="run 'zolder-san restore'"):
        count_missing(PARENT, file=waiting)
    note_missing("data/volumes/b", TWO, file=waiting)
    assert json.loads(waiting.read_text()) == [["data/volumes/b", str(TWO)]]


def test_list_that_cannot_be_had(tmp_path: Path) -> None:
    """A list that cannot be read or written is an error and never an empty one."""
    waiting = tmp_path / "secrets-missing"
    waiting.mkdir()
    with pytest.raises(BackendError, match="cannot read"):
        count_missing(PARENT, file=waiting)
    with pytest.raises(BackendError, match="cannot write"):
        note_missing("data/volumes/a", ONE, file=waiting)
