from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_serve import serving
from zolder.names import Identity, OperationId
from zolder.san.audit import format_line, outcome_of
from zolder.san.journal import Filter, as_text
from zolder.wire import Request

LAB = Identity("lab")
OPERATION = OperationId("3f0c1b6e-5a52-4c1e-9a0b-0123456789ab")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def line_of(method: str, params: dict[str, Any]) -> str:
    """Return the line of a request that took a second."""
    return format_line(LAB, "192.0.2.9", Request(1, OPERATION, method, 1000, params), "changed", 1.0004)


def test_a_line_says_who_did_what() -> None:
    """Identity, peer, method, object, outcome, milliseconds and the operation's id."""
    params = {
        "parent": "data/volumes",
        "zvol": "volume-1",
        "initiator": None,
        "volsize_bytes": 7,
        "sparse": True,
    }
    assert json.loads(line_of("create_zvol", params)) == {
        "identity": "lab",
        "peer": "192.0.2.9",
        "method": "create_zvol",
        "object": {"parent": "data/volumes", "zvol": "volume-1", "initiator": None, "volsize_bytes": 7},
        "outcome": "changed",
        "ms": 1000,
        "operation": str(OPERATION),
    }


def test_no_secret_is_recorded() -> None:
    """CHAP is no part of what an object is called."""
    assert "sesame" not in line_of(
        "export_zvol", {"zvol": "volume-1", "chap": {"user": "u", "secret": "sesame"}}
    )
    many = [{"zvol": "volume-1", "chap": {"user": "u", "secret": "sesame", "target_secret": "sesame-too"}}]
    assert "sesame" not in line_of("ensure_exports", {"parent": "data/volumes", "wanted": many})
    assert "sesame" not in line_of(
        "export_snapshot", {"view_id": "x", "chap": {"user": "u", "secret": "sesame"}}
    )


@given(method=st.text(), params=st.dictionaries(st.sampled_from(["parent", "zvol", "snapshot", "x"]), JSON))
def test_nothing_forges_or_splits_a_line(method: str, params: dict[str, Any]) -> None:
    """Whatever a client sends, it is one short line of printable ASCII, and what is ours in it is ours."""
    line = line_of(method, params)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 16000
    entry = json.loads(line)
    assert (entry["identity"], entry["outcome"], entry["peer"]) == ("lab", "changed", "192.0.2.9")
    shown = as_text({"time": "now", **entry})
    assert shown.isascii()
    assert shown.isprintable()


@pytest.mark.parametrize(
    ("value", "outcome"),
    [({"changed": True, "value": None}, "changed"), ({"changed": False}, "unchanged"), ([], "answered")],
)
def test_outcomes(value: Any, outcome: str) -> None:  # noqa: ANN401 - JSON
    """A mutation says whether it changed anything; what only looks is answered."""
    assert outcome_of(value) == outcome


def test_every_request_is_recorded() -> None:
    """The greeting, what succeeded, what was refused and what nobody knows, each once and in its order."""
    seen: list[tuple[str, str]] = []
    with serving(record=lambda request, outcome, _: seen.append((request.method, outcome))) as client:
        client.hello()
        client.ask("list_zvols", {"parent": "data/volumes"})
        client.ask("list_zvols", {"parent": "data/other"})
        client.ask("delete_zvol", {"parent": "data/volumes", "zvol": "volume-1"})
        client.ask("format_disk", {})
    assert seen == [
        ("hello", "answered"),
        ("list_zvols", "answered"),
        ("list_zvols", "not_permitted"),
        ("delete_zvol", "unchanged"),
        ("format_disk", "unknown_method"),
    ]


@pytest.mark.parametrize(
    ("wanted", "passes"),
    [
        (Filter(), True),
        (Filter(identity="lab", method="delete_zvol", outcome="changed", object="volume-1"), True),
        (Filter(identity="other"), False),
        (Filter(method="delete"), False),
        (Filter(outcome="unchanged"), False),
        (Filter(object="volume-2"), False),
    ],
)
def test_filters(wanted: Filter, *, passes: bool) -> None:
    """All that is given must fit; the object is searched for, the rest is compared."""
    assert wanted.passes(json.loads(line_of("delete_zvol", {"zvol": "volume-1"}))) is passes
