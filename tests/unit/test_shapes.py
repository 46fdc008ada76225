from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.strategies import json_values
from zolder import shapes
from zolder.api import METHODS, Storage
from zolder.errors import InvalidRequest
from zolder.model import Access, Change, Chap, Export, PoolFigures, Refusal, Route, Zvol, ZvolSnapshot
from zolder.names import (
    LIO,
    AttachmentId,
    DatasetName,
    InitiatorName,
    Portal,
    SnapshotName,
    TargetPrefix,
    VolumeId,
    ZvolName,
)
from zolder.shapes import MAX_INTEGER, MAX_TEXT, Json, decode, encode

ID = VolumeId("3f0c1b6e-5a52-4c1e-9a0b-0123456789ab")
PARENT = DatasetName("data/volumes")
ZVOL = ZvolName("volume-1")
INITIATOR = InitiatorName("iqn.1993-08.org.debian:01:abc")
PORTALS = (Portal("192.0.2.1:3260"),)
VALUES: dict[Any, Any] = {
    Zvol: Zvol(PARENT, ZVOL, ID, 2**30, sparse=True),
    Change[Zvol]: Change(
        changed=True, value=Zvol(PARENT, ZVOL, ID, 2**30, sparse=False, origin="data/volumes/v@s")
    ),
    Change[None]: Change(changed=False, value=None),
    Change[tuple[InitiatorName, ...]]: Change(changed=True, value=(INITIATOR,)),
    ZvolSnapshot: ZvolSnapshot(PARENT, ZVOL, SnapshotName("snapshot-1")),
    PoolFigures: PoolFigures(PARENT, 1, 2, 3, 4, 5),
    Export: Export(ZVOL, LIO, "iqn.2010-10.org.openstack:volume-1", PORTALS, 0, (INITIATOR,)),
    Route: Route(LIO, TargetPrefix("iqn.2010-10.org.openstack:"), PORTALS),
    Access: Access(ZVOL, INITIATOR, AttachmentId(ID), Chap("user", "secret")),
    tuple[Access, ...]: (Access(ZVOL, INITIATOR, None), Access(ZVOL, INITIATOR, AttachmentId(ID))),
    Change[tuple[Refusal, ...]]: Change(
        changed=True, value=(Refusal(ZVOL, INITIATOR, "not_found", "data/volumes/volume-1 does not exist"),)
    ),
    Chap | None: Chap("user", "secret"),
    tuple[Zvol, ...]: (),
}
GIVEN: dict[str, Json] = {
    "parent": "data/volumes",
    "zvol": "volume-1",
    "volume_id": str(ID),
    "volsize_bytes": 2**30,
    "sparse": True,
}


@pytest.mark.parametrize("kind", VALUES, ids=str)
def test_round_trip(kind: object) -> None:
    """A value that becomes JSON and comes back is equal and has its checked types again."""
    value = VALUES[kind]
    back = decode(kind, json.loads(json.dumps(encode(value))))
    assert back == value
    assert type(back) is type(value)
    if isinstance(value, Zvol):
        assert type(back.name) is ZvolName


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_form(method: str) -> None:
    """Each request of the contract has a converter for its parameters and one for its result."""
    function = getattr(Storage, method)
    assert callable(shapes.parameters(function))
    assert callable(shapes.result(function))


def test_parameters() -> None:
    """A request's parameters become the keyword arguments that the method declares."""
    arguments = shapes.parameters(Storage.create_zvol)(GIVEN)
    assert type(arguments["zvol"]) is ZvolName
    inspect.signature(Storage.create_zvol).bind(None, **arguments)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"volsize_bytes": True}, "create_zvol.volsize_bytes: an integer is needed, not bool"),
        ({"volsize_bytes": "1"}, "an integer is needed, not str"),
        ({"volsize_bytes": MAX_INTEGER + 1}, "beyond 64 bits"),
        ({"volsize_bytes": None}, "an integer is needed, not NoneType"),
        ({"sparse": 1}, "true or false is needed, not int"),
        ({"zvol": 7}, "create_zvol.zvol: a string is needed, not int"),
        ({"zvol": "../x"}, "create_zvol.zvol: zvol: '../x' is not of the form"),
        ({"shell": "reboot"}, "unknown field: 'shell'"),
    ],
)
def test_wrong_parameters(change: dict[str, Json], complaint: str) -> None:
    """What does not fit is refused with the path to it and the reason."""
    with pytest.raises(InvalidRequest) as caught:
        shapes.parameters(Storage.create_zvol)(GIVEN | change)
    assert complaint in caught.value.message


@pytest.mark.parametrize("missing", GIVEN)
def test_missing_parameter(missing: str) -> None:
    """No parameter has a default on the wire: an older client cannot mean what it did not say."""
    with pytest.raises(InvalidRequest, match=f"missing field: '{missing}'"):
        shapes.parameters(Storage.create_zvol)({key: GIVEN[key] for key in GIVEN if key != missing})


@pytest.mark.parametrize("text", ["a\nb", "a\0b", "\ud800", "\x1b[31m", "x" * (MAX_TEXT + 1)])
def test_text(text: str) -> None:
    """Free text has no control character, no surrogate and an end."""
    with pytest.raises(InvalidRequest) as caught:
        decode(str, text)
    assert text[:5] not in caught.value.message


def test_secret_never_shows() -> None:
    """Neither a refused CHAP secret nor an accepted one shows in an error or in a log."""
    with pytest.raises(InvalidRequest) as caught:
        decode(Chap, {"user": "u", "secret": "hush-hush\n"})
    assert "hush" not in caught.value.message
    assert "hush" not in repr(decode(Chap, {"user": "u", "secret": "hush-hush"}))


@pytest.mark.parametrize("value", [1.5, b"x", {"a": 1}, object()])
def test_no_form(value: object) -> None:
    """A value that the protocol has no form for is a mistake of ours, shown as a TypeError."""
    with pytest.raises(TypeError):
        encode(value)


@pytest.mark.parametrize("kind", [float, dict, tuple[int, str], int | str], ids=str)
def test_no_converter(kind: object) -> None:
    """A declared type that the protocol has no form for is found when its converter is built."""
    with pytest.raises(TypeError):
        shapes.decoder(kind)


def outcome(kind: object, value: Json) -> tuple[object, str]:
    """Return what a value was decoded to and sent back as, or why it was refused."""
    try:
        return encode(decode(kind, value)), ""
    except InvalidRequest as err:
        return None, err.message


@given(kind=st.sampled_from(list(VALUES)), value=json_values)
def test_garbage(kind: object, value: Json) -> None:
    """Any JSON is either a value of the type asked for, whole, or an InvalidRequest in one printable line."""
    found, refusal = outcome(kind, value)
    assert refusal.isprintable()
    assert refusal or found == value
