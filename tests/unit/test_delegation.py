from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zolder.names import DatasetName
from zolder.properties import KINDS
from zolder.san.delegation import (
    PERMISSIONS,
    Permission,
    allow_commands,
    missing,
    superfluous,
    unallow_commands,
)

PARENT = DatasetName("data/volumes")
# What `zfs allow data/volumes` printed after `zolder-san install`.
BELOW = (
    *(
        "clone",
        "destroy",
        "promote",
        "refreservation",
        "rename",
        "rollback",
        "send",
        "snapshot",
        "userprop",
        "volsize",
    ),
    *KINDS,
)
RECORDED = f"""\
---- Permissions on data/volumes -------------------------------------
Descendent permissions:
\tuser zolder {",".join(sorted(BELOW))}
Local+Descendent permissions:
\tuser zolder create,mount,receive
"""
NOTHING = list(PERMISSIONS)


def section(dataset: str, heading: str, *entries: str) -> str:
    """Return one section of what `zfs allow` prints."""
    lines = "".join(f"\t{entry}\n" for entry in entries)
    return f"---- Permissions on {dataset} -----------------------------\n{heading}\n{lines}"


def test_recorded() -> None:
    """What is given by the commands is, as ZFS prints it, neither too little nor too much."""
    assert missing(PARENT, RECORDED) == []
    assert superfluous(PARENT, RECORDED) == []


def test_nothing_given() -> None:
    """A parent on which nobody has anything lacks all."""
    assert missing(PARENT, "") == NOTHING
    assert superfluous(PARENT, "") == []


@pytest.mark.parametrize("permission", PERMISSIONS, ids=lambda item: f"{item.name}-{item.below}")
def test_each_one_is_missed(permission: Permission) -> None:
    """One permission that is not there, or in the wrong place alone, is named."""
    given_here = [item for item in PERMISSIONS if item != permission]
    text = "".join(
        section(PARENT, f"{where} permissions:", f"user zolder {','.join(names)}")
        for where, below in (("Local", False), ("Descendent", True))
        if (names := [item.name for item in given_here if item.below is below])
    )
    assert missing(PARENT, text) == [permission]
    elsewhere = section(
        PARENT, "Local permissions:" if permission.below else "Descendent permissions:",
        f"user zolder {permission.name}",
    )  # fmt: skip
    assert permission in missing(PARENT, text + elsewhere)


@pytest.mark.parametrize(
    ("heading", "beyond"),
    [
        ("Local permissions:", ["hold (on it)"]),
        ("Descendent permissions:", ["hold (below)"]),
        ("Local+Descendent permissions:", ["hold (below)", "hold (on it)"]),
    ],
)
def test_superfluous(heading: str, beyond: list[str]) -> None:
    """What was given beyond the needs is named with its place."""
    assert superfluous(PARENT, RECORDED + section(PARENT, heading, "user zolder hold")) == beyond


def test_destroy_of_the_parent() -> None:
    """What is needed below is too much on the parent itself."""
    text = RECORDED.replace(
        "user zolder create,mount,receive\n", "user zolder create,destroy,mount,receive\n"
    )
    assert superfluous(PARENT, text) == ["destroy (on it)"]
    assert missing(PARENT, text) == []


def test_inherited() -> None:
    """What an ancestor gives below itself holds for the parent, too; what it gives on itself does not."""
    for heading in ("Descendent permissions:", "Local+Descendent permissions:"):
        inherited = section("data", heading, "user zolder create,hold")
        assert superfluous(PARENT, RECORDED + inherited) == ["hold (below)", "hold (on it)"]
        assert [item.name for item in NOTHING if item not in missing(PARENT, inherited)] == ["create"] * 2
    own = section("data", "Local permissions:", "user zolder create,hold")
    assert superfluous(PARENT, RECORDED + own) == []
    assert missing(PARENT, own) == NOTHING


@pytest.mark.parametrize("dataset", ["data/volumes2", "data/volume", "data/volumes/below", "dat", "other"])
def test_other_datasets(dataset: str) -> None:
    """What is given on a dataset that is neither the parent nor above it counts for nothing."""
    text = section(dataset, "Local+Descendent permissions:", "user zolder create,destroy,hold")
    assert missing(PARENT, text) == NOTHING
    assert superfluous(PARENT, text) == []


@pytest.mark.parametrize(
    "entry",
    [
        "user zolder2 create",
        "user cinder create",
        "group zolder create",
        "everyone create",
        "user (unknown: 994) create",
        "user zolder",
        "user zolder create destroy",
        "zolder create",
        "",
    ],
)
def test_not_by_name(entry: str) -> None:
    """Only what is given to the agent's user by its name counts; groups and everyone are not looked into."""
    text = section(PARENT, "Local+Descendent permissions:", entry)
    assert missing(PARENT, text) == NOTHING
    assert superfluous(PARENT, text) == []


def test_sets() -> None:
    """A set's definition gives nothing, and a set that is given is named and not looked into."""
    text = (
        "---- Permissions on data/volumes -------------------------------------\n"
        "Permission sets:\n\t@ours create,destroy,mount\n\tuser zolder create\n"
        "Create time permissions:\n\tuser zolder create\n\tcreate,destroy\n"
        "Local permissions:\n\tuser zolder @ours\n"
    )
    assert missing(PARENT, text) == NOTHING
    assert superfluous(PARENT, text) == ["@ours (on it)"]


@pytest.mark.parametrize(
    "text",
    [
        "Local+Descendent permissions:\n\tuser zolder create,mount\n",
        "---- Permissions on data/volumes ---\n\tuser zolder create,mount\n",
        "---- Permissions on data/volumes ---\nSome other permissions:\n\tuser zolder create,mount\n",
        "cannot open 'data/volumes': dataset does not exist\n",
        RECORDED.replace("Permissions on", "Rights on"),
        RECORDED.replace("permissions:", "rights:"),
        RECORDED.replace("zolder", "ZOLDER"),
    ],
)
def test_garbled(text: str) -> None:
    """Text without its heads or headings gives nothing: what is in doubt is missing."""
    assert missing(PARENT, text) == NOTHING
    assert superfluous(PARENT, text) == []


@given(
    st.lists(st.sampled_from([*RECORDED.splitlines(keepends=True), "", "\n", ":\n", "----\n"])).map("".join)
)
def test_any_order_of_lines(text: str) -> None:
    """Whatever lines come in whatever order, nothing is both given and missing."""
    lacking = {f"{item.name} ({'below' if item.below else 'on it'})" for item in missing(PARENT, text)}
    assert not lacking & set(superfluous(PARENT, text))


@given(st.text())
def test_any_text(text: str) -> None:
    """Any text can be read, and random text gives nothing."""
    assert missing(PARENT, text) == NOTHING


def test_commands() -> None:
    """The commands give on the parent what holds there, below it the rest, and take all in one."""
    assert allow_commands(PARENT) == [
        ["zfs", "allow", "-l", "-u", "zolder", "create,mount,receive", "data/volumes"],
        [
            "zfs",
            "allow",
            "-d",
            "-u",
            "zolder",
            ",".join(
                (
                    "mount,destroy,snapshot,clone,volsize,refreservation",
                    *KINDS,
                    "rollback,rename,create,send,receive,promote,userprop",
                )
            ),
            "data/volumes",
        ],
    ]
    assert allow_commands(PARENT, [PERMISSIONS[0]]) == [
        ["zfs", "allow", "-l", "-u", "zolder", "create", "data/volumes"]
    ]
    assert allow_commands(PARENT, []) == []
    assert unallow_commands(PARENT) == [["zfs", "unallow", "-u", "zolder", "data/volumes"]]
