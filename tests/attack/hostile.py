"""Hostile values by what is wrong with them: parents, names, sizes and methods that no agent may take."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from tests.attack.ground import MIB, OWN_ID, PARENT

Volleys: TypeAlias = dict[str, tuple[Any, ...]]

# Their parent, and what lies around our own.
PARENTS: Final = {
    "the-zpool": "data",
    "a-dataset-outside-all-parents": "data/secret",
    "a-volume-as-a-parent": f"{PARENT}/volume-own",
    "a-parent-and-more": "data/volumes2",
}
MALFORMED_PARENTS: Final[Volleys] = {
    "paths": (
        "data/volumes/../other",
        "../data/other",
        "/data/volumes",
        "data/volumes/",
        "data//volumes",
    ),
    "spaces-and-control-characters": (
        "data/volumes ",
        "data/volumes\n",
        "data/volumes\0",
        "data/volumes\0data/other",
        "data/volumes data/other",
        "data/$(id)",
    ),
    "snapshots-bookmarks-and-options": (
        "data/secret@kept",
        "data/volumes#mark",
        "data/volumes/%recv",
        "-r",
        "--help",
        "",
    ),
    "look-alikes": (
        "data/v\u043elumes",
        "data\uff0fvolumes",
        "data/volume\u017f",
        "data/vol\u200bumes",
        "data/\u202esemulov",
        "data/volumes\ud800",
    ),
    "names-beyond-the-limits": (
        "data/" + "x" * 57,
        "data/" + "x" * 251,
        "data/" + "x" * 252,
        "x" * 100_000,
    ),
    "things-that-are-no-text": (
        7,
        ["data/volumes"],
        {"parent": "data/volumes"},
        None,
        True,
    ),
}
MALFORMED_ZVOLS: Final[Volleys] = {
    "paths": (
        "../other/volume-theirs",
        "..",
        ".",
        "files/inner",
    ),
    "snapshots-and-bookmarks": (
        "volume-own@snap-own",
        "@snap-own",
        "volume-own#mark",
        "volume-own%recv",
        "volume:own",
    ),
    "options-and-lists": (
        "-rf",
        "volume=own",
        "volume-own,volume-taken",
        "volume-own'\"",
    ),
    "spaces-and-control-characters": (
        "volume own",
        "volume\town",
        "volume-own\nfiles",
        "volume-own\0",
        "",
    ),
    "look-alikes": (
        "Volume-own",
        "v\u043elume-own",
        "\uff56olume-own",
        "volume-\u0661",
    ),
    "names-beyond-the-limits": (
        "v" * 97,
        "v" * 256,
        "v" * 4097,
    ),
}
MALFORMED_SNAPS: Final[Volleys] = {
    "ranges-and-lists": (
        "autosnap%snap-own",
        "%",
        "autosnap,snap-own",
        "a@b",
        "snap/own",
        "-R",
        "s" * 97,
    ),
    "the-agents-own-name": ("zolder-clone-" + OWN_ID,),
}
# What JSON holds beside a size; a fraction or a number of 30 digits is no frame and is among the bytes.
SIZES: Final[Volleys] = {
    "no-size-at-all": (
        0,
        -1,
        1,
        MIB + 1,
    ),
    "sizes-beyond-the-limits": (
        2**60 + MIB,
        2**63,
        2**63 - 1,
        -(2**63),
        2**64,
    ),
    "sizes-that-are-no-numbers": (
        "1048576",
        "1M",
        True,
        None,
        [MIB],
        {"$gt": 0},
    ),
}
# What may be sent in place of an attachment's id.
NO_ATTACHMENTS: Final = (
    "",
    "1",
    "*",
    "../1",
    OWN_ID[:-1],
    OWN_ID + "\n",
    OWN_ID.replace("1", "A"),
    "{" + OWN_ID + "}",
    [OWN_ID],
    {"id": OWN_ID},
    7,
    True,
)
METHODS: Final[Volleys] = {
    "inner-methods": (
        "__init__",
        "__class__",
        "_export",
        "_sum",
    ),
    "verbs-of-the-helper": (
        "read_datasets",
        "open_export",
        "close_export",
        "grow_export",
        "open_device",
    ),
    "hello-again": ("hello",),
    "look-alikes": (
        "GET_ZVOL",
        "get_zvol ",
        "get_zv\u043el",
    ),
    "programs-and-paths": (
        "",
        "../get_zvol",
        "g" * 4096,
        "sh",
    ),
}
