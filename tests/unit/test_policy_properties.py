from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zolder.names import DatasetName, Identity, Portal, TargetPrefix
from zolder.san.policies import PolicyError, load_policy
from zolder.san.policy import Policy

# Few parts, so that parents of two identities often meet.
parts = st.sampled_from(("a", "b", "a2", "a.b"))
datasets = st.lists(parts, min_size=1, max_size=3).map("/".join)
portals = st.sampled_from(("192.0.2.1:3260", "192.0.2.2:3260", "[2001:db8::1]:3260"))
prefixes = st.sampled_from(
    ("iqn.2010-10.org.openstack:", "iqn.2026-01.org.example:san-", "iqn.2026-01.org.example:san-b-")
)
identities = st.from_regex(Identity.pattern, fullmatch=True).filter(lambda text: len(text) <= 32)
# Keys that an identity might be given by mistake; TOML's bare keys.
KEYS = {
    "role",
    "parents",
    "shared_parents",
    "adopt_from",
    "portals",
    "target_prefixes",
    "max_volume_gib",
    "max_volumes",
    "max_total_gib",
    "max_channels",
}
unknown_keys = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True).filter(lambda key: key not in KEYS)
# TOML's comments may hold what Python takes for the end of a line.
comments = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20) | st.just(
    "\u2028\u2029 \x85 [x]"
)


@st.composite
def tables(draw: st.DrawFn, role: str | None = None) -> dict[str, Any]:
    """Draw one identity's table that is right in itself."""
    role = role or draw(st.sampled_from(("volumes", "read-only")))
    parents = draw(st.lists(datasets, min_size=1, max_size=3, unique=True))
    table: dict[str, Any] = {"parents": parents}
    if role != "volumes" or draw(st.booleans()):
        table["role"] = role
    if role == "volumes" or draw(st.booleans()):
        table["portals"] = draw(st.lists(portals, min_size=1, max_size=3, unique=True))
        table["target_prefixes"] = draw(st.lists(prefixes, min_size=1, unique=True))
    if shared := draw(st.lists(st.sampled_from(parents), unique=True)):
        table["shared_parents"] = shared
    for limit in ("max_volume_gib", "max_volumes", "max_total_gib"):
        if draw(st.booleans()):
            table[limit] = draw(st.integers(0, 2**40))
    order = draw(st.permutations(sorted(table)))
    return {key: table[key] for key in order}


policies = st.dictionaries(identities, tables(), min_size=1, max_size=4)


def text_of(found: Mapping[str, Mapping[str, Any]], comment: str = "") -> str:
    """Write tables as TOML, one key a line; JSON's strings, numbers and lists are TOML's as well."""
    lines = [f"# {comment}"]
    for name, table in found.items():
        lines += ["", f"[identity.{name}]  # {comment}"]
        lines += [f"{key} = {json.dumps(value)}  # {comment}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def load(identity: str, text: str) -> Policy:
    """Load an identity's policy from a file with this text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "san.toml"
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8", newline="")
        return load_policy(Identity(identity), path, owner=os.getuid())


def policy_of(name: str, table: Mapping[str, Any]) -> Policy:
    """Return what a table means, without the loader."""
    kinds = {
        "parents": DatasetName,
        "shared_parents": DatasetName,
        "portals": Portal,
        "target_prefixes": TargetPrefix,
    }
    values: dict[str, Any] = {
        key: tuple(kinds[key](item) for item in value) if key in kinds else value
        for key, value in table.items()
    }
    return Policy(Identity(name), **values)


def covers(outer: str, inner: str) -> bool:
    """Whether a dataset is another or lies in it, by its parts."""
    above, below = outer.split("/"), inner.split("/")
    return below[: len(above)] == above


def overlap(found: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether two identities meet in a dataset that one of them does not say it shares."""
    claims = [
        (name, parent, parent in table.get("shared_parents", ()))
        for name, table in found.items()
        for parent in table["parents"]
    ]
    return any(
        one != other and covers(outer, inner) and not (outer_shared and inner_shared)
        for one, outer, outer_shared in claims
        for other, inner, inner_shared in claims
    )


def meet(found: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether two identities that share no parent could make a target of one name."""
    return any(
        one != other
        and not {*found[one].get("shared_parents", ())} & {*found[other].get("shared_parents", ())}
        and longer.startswith(shorter)
        for one in found
        for other in found
        for longer in found[one].get("target_prefixes", ())
        for shorter in found[other].get("target_prefixes", ())
    )


@given(found=policies, comment=comments)
def test_round_trip(found: dict[str, dict[str, Any]], comment: str) -> None:
    """Each table comes back as it was written, but where two meet, which is refused whoever asks."""
    text = text_of(found, comment)
    for name, table in found.items():
        if overlap(found) or meet(found):
            with pytest.raises(PolicyError, match=r"part them, or list both under|give each its own"):
                load(name, text)
        else:
            assert load(name, text) == policy_of(name, table)


@given(names=st.lists(identities, min_size=2, max_size=2, unique=True), found=st.data())
def test_overlap(names: list[str], found: st.DataObject) -> None:
    """A dataset within another identity's is refused in either order, unless both list theirs as shared."""
    outer = found.draw(datasets)
    inner = "/".join((outer, *found.draw(st.lists(parts, max_size=2))))
    shares = found.draw(st.tuples(st.booleans(), st.booleans()))
    both = {
        name: {"role": "read-only", "parents": [parent]} | ({"shared_parents": [parent]} if shared else {})
        for name, parent, shared in zip(
            names, found.draw(st.permutations((outer, inner))), shares, strict=True
        )
    }
    for name in names:
        if all(shares):
            load(name, text_of(both))
        else:
            with pytest.raises(PolicyError, match="part them, or list both under shared_parents"):
                load(name, text_of(both))


@given(table=tables(), key=unknown_keys, comment=comments, drawn=st.data())
def test_unknown_key(table: dict[str, Any], key: str, comment: str, drawn: st.DataObject) -> None:
    """A key that no identity has is refused with its line, wherever it stands."""
    lines = text_of({"lab": table}, comment).split("\n")
    head = next(number for number, line in enumerate(lines, start=1) if line.startswith("[identity.lab]"))
    at = drawn.draw(st.integers(head, head + len(table)))
    lines.insert(at, f"{key} = 1")
    with pytest.raises(PolicyError) as refused:
        load("lab", "\n".join(lines))
    assert f", line {at + 1}: [identity.lab] {key!r} is no key of an identity" in str(refused.value)
