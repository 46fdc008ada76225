"""Which use of a volume a connector is for, where Cinder does not say it: each sign alone."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from cinder import objects

from tests.driver.conftest import connector_of, new_volume
from zolder.cinder.attachments import KEY, name_use

ONE = connector_of("one")
TWO = connector_of("two")
ID = str(uuid.uuid4())
AGAIN = {"mode": "rw"}
AT_ONCE = {"mode": None}


def volume_with(*rows: tuple[str, dict[str, Any] | None]) -> objects.Volume:
    """Return a volume with a row for each status and connector, and with a mode in each."""
    volume = new_volume(1, *(connector for _, connector in rows))
    for row, (status, _) in zip(volume.volume_attachment, rows, strict=True):
        row.attach_status = status
    return volume


@pytest.mark.parametrize(
    ("rows", "connector"),
    [
        ([("reserved", None)], ONE),
        ([("attached", ONE | {KEY: ID}), ("reserved", None)], ONE),
        ([("reserved", {})], ONE),
        ([], ONE | AT_ONCE),
        ([("attached", ONE | {KEY: ID})], ONE | AT_ONCE),
        # Whose row it is cannot be told, and an id of another row would end that one with this one.
        ([("attached", ONE | {KEY: ID}), ("attached", ONE | {KEY: str(uuid.uuid4())})], ONE | AGAIN),
        ([("attached", ONE | {KEY: ID})], TWO | AGAIN),
        ([("attached", ONE)], ONE | AGAIN),
    ],
)
def test_what_has_a_row_of_its_own_has_an_id_of_its_own(
    rows: list[tuple[str, dict[str, Any] | None]], connector: dict[str, Any]
) -> None:
    """The id is new and stands in the connector, which Cinder saves."""
    given = dict(connector)
    use = name_use(volume_with(*rows), given)
    assert use.fresh
    assert use.attachment not in {None, ID}
    assert given == connector | {KEY: use.attachment}


@pytest.mark.parametrize(
    "rows", [[], [("attached", ONE | {KEY: ID})], [("attached", ONE | {KEY: ID}), ("attached", TWO)]]
)
def test_what_has_no_row_has_no_id(rows: list[tuple[str, dict[str, Any] | None]]) -> None:
    """A connector that nobody saves is left as it is; nobody else is in that place."""
    given = dict(ONE)
    use = name_use(volume_with(*rows), given)
    assert (use.attachment, use.fresh) == (None, True)
    assert given == ONE


@pytest.mark.parametrize("status", ["attaching", "attached", "error_detaching"])
def test_the_old_calls_row_is_no_reservation(status: str) -> None:
    """It never has a connector: an id would be lost, and what it may hold unnamed is not taken back."""
    given = dict(ONE)
    use = name_use(volume_with((status, None)), given)
    assert (use.attachment, use.fresh) == (None, False)
    assert given == ONE


def test_a_row_that_is_updated_again_keeps_its_id() -> None:
    """It is the volume's only one and of the same machine, and the mode says that it was there before."""
    given = ONE | AGAIN
    use = name_use(volume_with(("attached", ONE | {KEY: ID})), given)
    assert (use.attachment, use.fresh) == (ID, False)
    assert given[KEY] == ID


@pytest.mark.parametrize("status", ["attaching", "in-use", "reserved"])
def test_a_row_made_with_a_connector_keeps_its_id_when_it_is_updated(status: str) -> None:
    """attachment_create leaves the word "null" in it, with which an update passes no mode."""
    volume = volume_with(("attached", ONE | {KEY: ID}))
    volume.status, volume.volume_attachment[0].attach_mode = status, "null"
    given = dict(ONE)
    use = name_use(volume, given)
    assert (use.attachment, use.fresh) == (ID, False)
    assert given[KEY] == ID


@pytest.mark.parametrize(
    ("status", "mode", "rows"),
    [
        ("backing-up", "null", [ONE | {KEY: ID}]),
        ("uploading", "null", [ONE | {KEY: ID}]),
        ("in-use", "rw", [ONE | {KEY: ID}]),
        ("in-use", "null", [ONE]),
        ("in-use", "null", [TWO | {KEY: ID}]),
        ("in-use", "null", [ONE | {KEY: ID}, TWO | {KEY: str(uuid.uuid4())}]),
    ],
)
def test_what_may_be_cinders_own_attachment_takes_no_rows_id(
    status: str, mode: str, rows: list[dict[str, Any]]
) -> None:
    """Without a mode it is an update only where the one row and the volume's status leave nothing else."""
    volume = volume_with(*(("attached", row) for row in rows))
    volume.status = status
    for row in volume.volume_attachment:
        row.attach_mode = mode
    given = dict(ONE)
    assert name_use(volume, given).attachment is None
    assert given == ONE


def test_a_connector_that_has_an_id_keeps_it() -> None:
    """Driver and manager on one machine pass the same dict on."""
    given = ONE | {KEY: ID}
    use = name_use(volume_with(("reserved", None)), given)
    assert (use.attachment, use.fresh) == (ID, False)
    assert given == ONE | {KEY: ID}
