from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.strategies import json_values
from zolder import wish as wishes
from zolder.errors import Busy, InvalidRequest
from zolder.model import Access, Route
from zolder.names import LIO, NVMET, TGT, AttachmentId, InitiatorName, Portal, TargetPrefix, ZvolName
from zolder.shapes import encode
from zolder.wish import Grant, Wish, read_wish, write_wish

PORTALS = (Portal("192.0.2.1:3260"), Portal("[2001:db8::1]:3260"))
ROUTE = Route(LIO, TargetPrefix("iqn.2010-10.org.openstack:"), PORTALS[:1])
ALICE, BOB = (InitiatorName(f"iqn.2004-10.org.zolder:{name}") for name in ("alice", "bob"))
ZVOL = ZvolName("volume-1")

# zfs(8): "The length of a user property value [...] must be less than 8192".
PROPERTY_BYTES = 8192

initiators = st.sampled_from([ALICE, BOB, InitiatorName("eui.0123456789abcdef")])
uses = st.none() | st.integers(1, 3).map("00000000-0000-4000-8000-{:012x}".format).map(AttachmentId)
# One request each: whether it opens, for whom, which use, whether with a secret.
requests = st.lists(st.tuples(st.booleans(), initiators, uses, st.booleans()), max_size=20)
routes = st.builds(
    Route,
    st.sampled_from([LIO, TGT, NVMET]),
    st.from_regex(TargetPrefix.pattern, fullmatch=True)
    .filter(lambda text: len(text) <= TargetPrefix.max_length)
    .map(TargetPrefix),
    st.lists(st.sampled_from(PORTALS), max_size=2, unique=True).map(tuple),
)


def attachment(number: int) -> AttachmentId:
    """Return an attachment's id."""
    return AttachmentId(f"00000000-0000-4000-8000-{number:012x}")


def after(asked: Iterable[tuple[bool, InitiatorName, AttachmentId | None, bool]]) -> Wish:
    """Return what is wished once all of that was asked for."""
    wish = Wish(ROUTE)
    for opens, initiator, use, chap in asked:
        if opens:
            wish = wishes.add(wish, ROUTE, initiator, use, chap=chap)
        else:
            wish = wishes.remove(wish, initiator, use)
    return wish


@given(requests)
def test_attachments_are_counted_exactly(
    asked: list[tuple[bool, InitiatorName, AttachmentId | None, bool]],
) -> None:
    """It counts what was opened and not closed since, each once, and who has none of it is not in it."""
    held: set[tuple[InitiatorName, AttachmentId | None]] = set()
    for opens, initiator, use, _ in asked:
        (held.add if opens else held.discard)((initiator, use))
    wish = after(asked)
    counted = [(access.initiator, access.attachment) for access in wishes.accesses_of(ZVOL, wish)]
    assert len(counted) == len(set(counted))
    assert set(counted) == held
    assert wish.initiators == tuple(sorted({initiator for initiator, _ in held}))
    assert all(wish.find(initiator) is not None for initiator, _ in held)


@given(
    st.lists(st.tuples(initiators, uses), unique=True, max_size=12).flatmap(
        lambda opened: st.tuples(st.permutations(opened), st.permutations(opened), st.permutations(opened))
    )
)
def test_order_makes_no_difference(
    orders: tuple[list[tuple[InitiatorName, AttachmentId | None]], ...],
) -> None:
    """Opened in any order the wish is the same, and closed in any order nothing is left of it."""
    one, other, closed = (
        [(opens, initiator, use, False) for initiator, use in order]
        for opens, order in zip((True, True, False), orders, strict=True)
    )
    assert after(one) == after(other)
    assert after([*one, *closed]) == Wish(ROUTE)


@given(requests)
def test_a_repeat_changes_nothing(asked: list[tuple[bool, InitiatorName, AttachmentId | None, bool]]) -> None:
    """Whatever was asked last may be asked once more."""
    assert after([*asked, *asked[-1:]]) == after(asked)


@given(requests, routes)
def test_the_text_says_the_whole_wish(
    asked: list[tuple[bool, InitiatorName, AttachmentId | None, bool]], route: Route
) -> None:
    """A wish that is written and read is the same one, in one printable line that a property has room for."""
    wish = replace(after(asked), route=route)
    text = write_wish(wish)
    assert read_wish(text) == wish
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < PROPERTY_BYTES


def test_the_last_word_on_chap_counts() -> None:
    """An initiator's next attachment says whether a secret is asked of it, for all that it has."""
    wish = wishes.add(None, ROUTE, ALICE, attachment(1), chap=True)
    assert wish.grants == (Grant(ALICE, (attachment(1),), unnamed=False, chap=True),)
    wish = wishes.add(wish, ROUTE, ALICE, None, chap=False)
    assert wish.grants == (Grant(ALICE, (attachment(1),), unnamed=True, chap=False),)


def test_no_secret_can_stand_in_it() -> None:
    """A grant says whether there is a secret; there is no place for which."""
    wish = wishes.add(None, ROUTE, ALICE, None, chap=True)
    assert wishes.accesses_of(ZVOL, wish) == [Access(ZVOL, ALICE, None, None)]
    value = json.loads(write_wish(wish))
    value["grants"][0]["chap"] = {"user": "u", "secret": "hush-hush"}
    with pytest.raises(InvalidRequest) as caught:
        read_wish(json.dumps(value))
    assert "hush" not in caught.value.message


def test_attached_over_another_route() -> None:
    """Another exporter or prefix has to wait until nobody has it; who has it is named."""
    wish = wishes.add(None, ROUTE, ALICE, None, chap=False)
    for other in (replace(ROUTE, exporter=TGT), replace(ROUTE, prefix=TargetPrefix("iqn.2010-10.org.x:"))):
        with pytest.raises(Busy, match=f"in use by {ALICE} over lio") as caught:
            wishes.add(wish, other, BOB, None, chap=False)
        assert caught.value.details["holders"] == [ALICE]
        free = wishes.remove(wish, ALICE, None)
        assert wishes.add(free, other, BOB, None, chap=False).route == other


def test_portals_stay_for_those_who_were_told() -> None:
    """A new portal comes beside those of who is attached; with nobody attached only the new ones count."""
    wish = wishes.add(None, ROUTE, ALICE, None, chap=False)
    moved = replace(ROUTE, portals=PORTALS[1:])
    both = wishes.add(wish, moved, BOB, None, chap=False)
    assert both.route.portals == (PORTALS[1], PORTALS[0])
    assert wishes.add(wishes.remove(wish, ALICE, None), moved, BOB, None, chap=False).route == moved


def test_more_than_a_property_has_room_for() -> None:
    """Some 190 attachments of one initiator fit; one too many is refused in a sentence that says so."""
    held = tuple(attachment(number) for number in range(1000))
    grant = Grant(ALICE, (), unnamed=False, chap=True)
    room = PROPERTY_BYTES - 1 - len(write_wish(Wish(ROUTE, (grant,))))
    most = (room + 1) // len(f'"{attachment(1)}",')
    assert most > 190
    text = write_wish(Wish(ROUTE, (replace(grant, attachments=held[:most]),)))
    assert PROPERTY_BYTES - len(f'"{attachment(1)}",') <= len(text) < PROPERTY_BYTES
    with pytest.raises(InvalidRequest, match="1 initiators with their attachments are more than a zvol"):
        write_wish(Wish(ROUTE, (replace(grant, attachments=held[: most + 1]),)))


GOOD: dict[str, Any] = {
    "route": {"exporter": "lio", "prefix": "iqn.2010-10.org.openstack:", "portals": ["192.0.2.1:3260"]},
    "grants": [{"initiator": ALICE, "attachments": [attachment(1)], "unnamed": False, "chap": True}],
}


def changed(where: str, **fields: object) -> str:
    """Return a good wish's text with something changed in one of its places."""
    value = json.loads(json.dumps(GOOD))
    place = {"whole": value, "route": value["route"], "grant": value["grants"][0]}[where]
    place |= fields
    return json.dumps(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "{",
        "null",
        "[]",
        "{}",
        "0",
        "9" * 8000,
        "NaN",
        "[" * 8000,
        '{"a":' * 1300,
        '"' + "\\ud800" * 1300 + '"',
        "\ufeff" + json.dumps(GOOD),
        changed("whole", more=1),
        changed("whole", grants={}),
        changed("whole", grants=[[]]),
        changed("whole", grants=[GOOD["grants"][0], {**GOOD["grants"][0], "unnamed": True}]),
        changed("whole", route=None),
        changed("route", exporter="scst"),
        changed("route", exporter="../lio"),
        changed("route", prefix="iqn.2010-10.org.x:/../"),
        changed("route", portals="192.0.2.1:3260"),
        changed("route", portals=["san.example.org:3260"]),
        changed("grant", initiator="iqn.2010-10.o:../../../core"),
        changed("grant", attachments=["../x"]),
        changed("grant", attachments=[None]),
        changed("grant", attachments=[]),
        changed("grant", attachments=[attachment(1).upper().replace("0", "A")]),
        changed("grant", unnamed=1),
        changed("grant", chap="true"),
        changed("grant", device="/dev/vda"),
    ],
)
def test_a_hostile_text(text: str) -> None:
    """What is no wish is refused in one printable sentence, whatever it is."""
    with pytest.raises(InvalidRequest) as caught:
        read_wish(text)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1000


@given(json_values)
def test_any_json(value: object) -> None:
    """Any JSON is a wish whole, or none."""
    try:
        wish = read_wish(json.dumps(value))
    except InvalidRequest:
        return
    assert encode(wish) == value


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda data: data.decode("latin-1")))
def test_any_text(text: str) -> None:
    """Any text is refused with InvalidRequest, where it is not a wish by a chance that never comes."""
    with pytest.raises(InvalidRequest):
        read_wish(text)


def test_a_good_text() -> None:
    """What the texts above are made from is a wish, so none of them is refused for want of one."""
    wish = read_wish(json.dumps(GOOD))
    assert wish == Wish(ROUTE, (Grant(ALICE, (attachment(1),), unnamed=False, chap=True),))
    assert read_wish(write_wish(wish)) == wish
