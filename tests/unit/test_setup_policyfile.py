from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zolder.names import DatasetName, Identity, Portal, TargetPrefix
from zolder.san.policy import Policy
from zolder.san.setup.host import SetupError
from zolder.san.setup.policyfile import PolicyError, line_of, parse, table_text, with_table, without_table
from zolder.san.setup.texts import POLICY

A, B = Identity("a"), Identity("b")
PREFIX = TargetPrefix("iqn.2010-10.org.openstack:")
EYE = 'role = "read-only"\nparents = ["data/{0}"]\n'


def policy(name: str, parent: str = "data/volumes") -> Policy:
    """Return a policy with one of each."""
    return Policy(Identity(name), (DatasetName(parent),), (Portal("[2001:db8::1]:3260"),), (PREFIX,))


def test_empty() -> None:
    """A file with comments alone has no identities, and is no fault."""
    assert parse("") == parse(POLICY) == {}


@pytest.mark.parametrize(
    "text", ["x = 1", "[identity]", "identity = 1", "[identity.a]", "[", "\udcff", '["identity".A]']
)
def test_wrong(text: str) -> None:
    """What the loader refuses is refused in its words, with the file's real name."""
    with pytest.raises((PolicyError, SetupError), match=r"/etc/zolder/san\.toml"):
        parse(text)


def test_overlap() -> None:
    """Two identities with one parent are refused, as by the agent itself."""
    other = replace(policy("b"), target_prefixes=(TargetPrefix("iqn.2010-10.org.other:"),))
    with pytest.raises(PolicyError, match="part them"):
        parse(with_table(with_table("", policy("a")), other))


@given(
    st.sampled_from(["", "# x", "# x\n", "\n", "# x\n\n", "# x\r\n", POLICY]),
    st.sampled_from(["volumes", "read-only"]),
)
def test_round_trip(text: str, role: str) -> None:
    """A table that is written is read back as its policy, and its removal leaves the text as it was."""
    wanted = policy("a") if role == "volumes" else Policy(A, (DatasetName("data/volumes"),), role=role)
    new = with_table(text, wanted)
    assert new.startswith(text)
    assert parse(new) == {A: wanted}
    line = line_of(new, A)
    assert line is not None
    assert new.split("\n")[line - 1] == "[identity.a]"
    left = without_table(new, A)
    assert left.rstrip("\n") == text.rstrip("\n")
    assert parse(left) == {}


def test_comments_of_the_next_stay() -> None:
    """Comments above a table and behind its last key stay; those between its keys go with it."""
    text = (
        "# top\n\n# of a\n[identity.a] # head\n# inside\n" + EYE.format("a") + "# last\n\n"
        "# of b\n[identity.b]\n" + EYE.format("b")
    )
    assert without_table(text, A) == "# top\n\n# of a\n# last\n\n# of b\n[identity.b]\n" + EYE.format("b")
    assert without_table(text, B) == text.partition("[identity.b]")[0]


def test_lists_over_lines() -> None:
    """A list that runs over lines goes whole."""
    text = '[identity.a]\nrole = "read-only"\nparents = [\n  "data/a", # ]\n  "data/c",\n]\n'
    assert without_table(text, A) == ""


@pytest.mark.parametrize(
    "text",
    [
        'identity.a.role = "read-only"\nidentity.a.parents = ["data/a"]\n',
        '[identity]\na = {role = "read-only", parents = ["data/a"]}\n',
        '[ identity . a ]\nrole = "read-only"\nparents = ["data/a"]\n',
    ],
)
def test_other_spellings(text: str) -> None:
    """A table that is spelt in another way is left to its author, and nothing is cut out of it."""
    assert A in parse(text)
    assert line_of(text, A) is None
    with pytest.raises(SetupError, match="remove it by hand"):
        without_table(text, A)


def test_spelling_with_quotes() -> None:
    """A name in quotes is the same table."""
    assert without_table('[identity."a"]\n' + EYE.format("a"), A) == ""


def test_table() -> None:
    """A table has the keys that its policy has, and no others."""
    assert table_text(policy("a")) == (
        '[identity.a]\nparents = ["data/volumes"]\nportals = ["[2001:db8::1]:3260"]\n'
        'target_prefixes = ["iqn.2010-10.org.openstack:"]\n'
    )
