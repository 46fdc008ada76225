from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.kept_san import ALICE, BOB, DATASET, ID, PARENT, ROUTE, VIEW_ID, ZVOL, KeptSan, attachment
from zolder import wish as wishes
from zolder.errors import BackendError, InvalidRequest, NotFound, NotPermitted
from zolder.model import Access
from zolder.names import InitiatorName, VolumeId
from zolder.san.libzfs import EXPORT_RECORD, VIEW_MARK, VOLUME_MARK, Properties, Property
from zolder.san.records import accesses_in, exported_id, find_record, write_record
from zolder.wish import Wish, write_wish

WISH = wishes.add(None, ROUTE, ALICE, attachment(1), chap=True)
SIZE = {"volsize": Property(2**20, None)}
OURS = {**SIZE, VOLUME_MARK: Property(ID, DATASET)}


@pytest.fixture
def san(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeptSan:
    """A SAN with one zvol that nobody may reach."""
    kept = KeptSan(tmp_path)
    kept.install(monkeypatch)
    return kept


def recorded(text: str | int, source: str | None = DATASET) -> Properties:
    """Return a zvol of ours with a record from somewhere."""
    return {**OURS, EXPORT_RECORD: Property(text, source)}


def test_written_and_found(san: KeptSan) -> None:
    """What is written on a zvol is found there, and cleared it is nowhere."""
    write_record(san.zpool(), DATASET, WISH)
    assert find_record(san.zfs.read(DATASET) or {}, DATASET) == WISH
    for nothing in (None, Wish(ROUTE)):
        write_record(san.zpool(), DATASET, WISH)
        write_record(san.zpool(), DATASET, nothing)
        assert EXPORT_RECORD not in (san.zfs.read(DATASET) or {})


@pytest.mark.parametrize("source", [None, PARENT, "$recvd", f"{DATASET}@snapshot-1", "data"])
def test_only_its_own_record_counts(source: str | None) -> None:
    """A record that is inherited, received or from nowhere is none."""
    found = recorded(write_wish(WISH), source)
    assert find_record(found, DATASET) is None
    assert accesses_in(DATASET, found) == []


@pytest.mark.parametrize("text", ["", "{", "null", '{"route":{},"grants":[]}', "[" * 8000, "9" * 8000])
def test_a_record_that_zolder_did_not_write(text: str) -> None:
    """It is told with the command that shows it and the one that removes it, and taken for nothing else."""
    found = recorded(text)
    if not text:
        assert find_record(found, DATASET) is None, "an empty value is none"
        return
    with pytest.raises(BackendError) as caught:
        find_record(found, DATASET)
    assert f"zfs get {EXPORT_RECORD} {DATASET}" in caught.value.message
    assert f"zfs inherit {EXPORT_RECORD} {DATASET}" in caught.value.message
    assert len(caught.value.message) < 1000


@given(st.text(min_size=1, max_size=200))
def test_any_text(text: str) -> None:
    """Whatever stands there is a record or is told."""
    with pytest.raises(BackendError):
        find_record(recorded(text), DATASET)


def test_a_number_is_no_record() -> None:
    """A value that libzfs gives as a number was never text of ours."""
    assert find_record(recorded(7), DATASET) is None


def test_too_many_attachments_are_never_half_written(san: KeptSan) -> None:
    """What a property has no room for is refused before ZFS is asked."""
    wish = WISH
    for number in range(250):
        wish = wishes.add(wish, ROUTE, BOB, attachment(number), chap=False)
    with pytest.raises(InvalidRequest):
        write_record(san.zpool(), DATASET, wish)
    assert san.steps.taken == []


def test_what_zfs_refuses_is_told(san: KeptSan) -> None:
    """An absent zvol is NotFound, and any other refusal is no word on whether it is there."""
    with pytest.raises(NotFound):
        write_record(san.zpool(), f"{PARENT}/volume-9", WISH)
    san.steps.start(refuse_at=0)
    with pytest.raises(BackendError, match="ZFS refused"):
        write_record(san.zpool(), DATASET, WISH)


@pytest.mark.parametrize(
    ("found", "answer"),
    [
        (OURS, (ID, False)),
        ({**SIZE, VIEW_MARK: Property(VIEW_ID, DATASET)}, (VIEW_ID, True)),
        ({**OURS, VIEW_MARK: Property(VIEW_ID, DATASET)}, (ID, False)),
        ({**OURS, VIEW_MARK: Property("no id", DATASET)}, (ID, False)),
    ],
)
def test_whose_id_it_is(found: Properties, answer: tuple[VolumeId, bool]) -> None:
    """The serial comes from the volume's mark, or from the snapshot's on a view, which is read-only."""
    assert exported_id(found, DATASET) == answer


@pytest.mark.parametrize(
    "found",
    [
        {},
        SIZE,
        {VOLUME_MARK: Property(ID, DATASET)},
        {**SIZE, VOLUME_MARK: Property(ID, PARENT)},
        {**SIZE, VIEW_MARK: Property(VIEW_ID, PARENT)},
        {**SIZE, VIEW_MARK: Property("../x", DATASET)},
        {**SIZE, VOLUME_MARK: Property(7, DATASET)},
    ],
)
def test_what_is_not_ours_has_no_id(found: Properties) -> None:
    """What bears no mark of its own, or is no zvol, is left alone, and shows no attachments."""
    with pytest.raises(NotPermitted, match="bears no mark of Zolder"):
        exported_id(found, DATASET)
    assert accesses_in(DATASET, {**found, EXPORT_RECORD: Property(write_wish(WISH), DATASET)}) == []


def test_attachments_on_record() -> None:
    """A zvol's record shows as its attachments, each once, the one without an id first, and no secret."""
    wish = wishes.add(WISH, ROUTE, ALICE, None, chap=True)
    wish = wishes.add(wish, ROUTE, InitiatorName("eui.0123456789abcdef"), attachment(2), chap=False)
    assert accesses_in(DATASET, recorded(write_wish(wish))) == [
        Access(ZVOL, InitiatorName("eui.0123456789abcdef"), attachment(2)),
        Access(ZVOL, ALICE, None),
        Access(ZVOL, ALICE, attachment(1)),
    ]


def test_a_dataset_that_no_request_can_name_shows_none() -> None:
    """A zvol that was renamed by hand to what is no name of ours is passed over."""
    name = f"{PARENT}/Renamed_by_hand"
    found = {name: Property(value.value, name) for name, value in recorded(write_wish(WISH)).items()}
    assert accesses_in(name, found) == []
