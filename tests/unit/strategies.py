"""What hypothesis draws for the shared modules: names of ours, names that are not, and JSON."""

from __future__ import annotations

from hypothesis import strategies as st

from zolder.names import MAX_LEAF_BYTES, ZvolName
from zolder.shapes import MAX_INTEGER, MAX_TEXT

zvol_names = st.from_regex(ZvolName.pattern, fullmatch=True).filter(lambda text: len(text) <= MAX_LEAF_BYTES)

# What somebody might send in place of a name of ours: each has broken a program somewhere.
HOSTILE = (
    "",
    ".",
    "..",
    "../x",
    "-o",
    "-rf",
    "a b",
    "a\n",
    "\na",
    "a\0b",
    "a@b",
    "a#b",
    "a%recv",
    "a/b/../c",
    "/a",
    "a/",
    "a//b",
    "$(reboot)",
    "`reboot`",
    "a;b",
    "a|b",
    "'",
    '"',
    "x" * 300,
    "volume-\N{CYRILLIC SMALL LETTER A}",
    "volume-\N{FULLWIDTH DIGIT ONE}",
    "volume-\N{ARABIC-INDIC DIGIT ONE}",
    "\N{LATIN SMALL LETTER DOTLESS I}qn.2010-10.org.openstack:x",
    "\N{KELVIN SIGN}",
    "\N{ZERO WIDTH SPACE}",
    "\ud800",
)

texts = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=MAX_TEXT)
integers = st.integers(-MAX_INTEGER, MAX_INTEGER)
json_values = st.recursive(
    st.none() | st.booleans() | integers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
