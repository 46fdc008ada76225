"""Attacks by well-formed frames on a greeted channel: others' things, hostile names, sizes and shapes."""

from __future__ import annotations

from typing import Any, Final

from tests.attack import hostile
from tests.attack.ground import (
    FRESH_ID,
    INITIATOR,
    MIB,
    OTHER_PARENT,
    OTHER_PREFIX,
    PARENT,
    PORTAL,
    PREFIX,
    STRANGER,
    TAKEN_ID,
    THEIR_ID,
)
from tests.attack.model import Attack, Frames, frame

GIB: Final = 1024 * MIB
NOT_PERMITTED: Final = frozenset({"not_permitted"})
INVALID: Final = frozenset({"invalid_request"})
UNKNOWN: Final = frozenset({"unknown_method"})
BROKEN: Final = frozenset({"remote_protocol"})


# Each method with parameters that are right, to be made wrong in one place.
RIGHT: Final[dict[str, dict[str, Any]]] = {
    "get_figures": {"parent": PARENT},
    "get_zvol": {"parent": PARENT, "zvol": "volume-own"},
    "list_zvols": {"parent": PARENT},
    "list_exports": {"parent": PARENT},
    "create_zvol": {
        "parent": PARENT, "zvol": "volume-new", "volume_id": FRESH_ID, "volsize_bytes": MIB, "sparse": True,
    },
    "clone_zvol": {
        "parent": PARENT, "source": "volume-own", "snapshot": "snap-own", "zvol": "volume-new",
        "volume_id": FRESH_ID, "volsize_bytes": 64 * MIB, "sparse": True,
    },
    "grow_zvol": {"parent": PARENT, "zvol": "volume-own", "volsize_bytes": 128 * MIB},
    "delete_zvol": {"parent": PARENT, "zvol": "volume-own"},
    "create_snapshot": {"parent": PARENT, "zvol": "volume-own", "snapshot": "snap-new"},
    "delete_snapshot": {"parent": PARENT, "zvol": "volume-own", "snapshot": "snap-own"},
    "export_zvol": {
        "parent": PARENT, "zvol": "volume-own", "initiator": STRANGER, "prefix": PREFIX, "portals": [PORTAL],
        "chap": None,
    },
    "withdraw_zvol": {"parent": PARENT, "zvol": "volume-own", "initiator": INITIATOR},
}  # fmt: skip

# One thing changed in a request that is right otherwise; each of a volley must be refused.
_CHANGED: Final[dict[str, tuple[frozenset[str], tuple[tuple[str, dict[str, Any]], ...]]]] = {
    "bring-fields-of-its-own": (
        INVALID,
        (
            ("delete_zvol", {"options": ["-r"]}),
            ("delete_zvol", {"recursive": True}),
            ("delete_snapshot", {"force": True}),
            ("create_zvol", {"properties": {"volmode": "full"}}),
            ("get_zvol", {"identity": "other"}),
            ("get_figures", {"role": "volumes", "max_volumes": 9}),
            ("get_zvol", {"__proto__": {}, "__class__": "Zvol"}),
        ),
    ),
    "say-true-in-other-ways": (
        INVALID,
        (
            ("create_zvol", {"sparse": 1}),
            ("create_zvol", {"sparse": "true"}),
        ),
    ),
    "name-a-volume-in-other-ways": (
        INVALID,
        (
            ("create_zvol", {"volume_id": FRESH_ID.replace("4", "A")}),
            ("create_zvol", {"volume_id": FRESH_ID + "\n"}),
            ("create_zvol", {"volume_id": "{" + FRESH_ID + "}"}),
            ("create_zvol", {"volume_id": "x zolder:other=y"}),
        ),
    ),
    "listen-where-it-may-not": (
        NOT_PERMITTED,
        (
            ("export_zvol", {"portals": ["192.168.78.1:3260"]}),
            ("export_zvol", {"portals": ["0.0.0.0:3260"]}),
            ("export_zvol", {"portals": ["[::]:3260"]}),
            ("export_zvol", {"portals": ["192.168.77.1:22"]}),
            ("export_zvol", {"portals": [PORTAL, "127.0.0.1:3260"]}),
        ),
    ),
    "listen-on-what-is-no-address": (
        INVALID,
        (
            ("export_zvol", {"portals": ["192.168.77.1:0"]}),
            ("export_zvol", {"portals": ["192.168.77.1:65536"]}),
            ("export_zvol", {"portals": ["192.168.77.1:3260/../../x"]}),
            ("export_zvol", {"portals": ["0300.0250.0115.1:3260"]}),
            ("export_zvol", {"portals": []}),
            ("export_zvol", {"portals": PORTAL}),
        ),
    ),
    "export-under-prefixes-that-are-not-its-own": (
        NOT_PERMITTED,
        (
            ("export_zvol", {"prefix": OTHER_PREFIX}),
            ("export_zvol", {"prefix": "iqn.2010-10.org:"}),
            ("export_zvol", {"prefix": PREFIX + "x:"}),
        ),
    ),
    "export-under-a-path": (
        INVALID,
        (("export_zvol", {"prefix": "iqn.2010-10.org.openstack:../"}),),
    ),
    "export-to-what-is-no-initiator": (
        INVALID,
        (
            ("export_zvol", {"initiator": "iqn.2010-10.org.x:../../acls"}),
            ("export_zvol", {"initiator": "*"}),
            ("export_zvol", {"initiator": None}),
            ("export_zvol", {"initiator": INITIATOR + "\nx"}),
            ("export_zvol", {"initiator": "iqn.2010-10.o:" + "x" * 210}),
        ),
    ),
    "bring-secrets-of-other-shapes": (
        INVALID,
        (
            ("export_zvol", {"chap": {"user": "u", "secret": "123456789012\nmutual"}}),
            ("export_zvol", {"chap": {"user": "u\0", "secret": "123456789012"}}),
            ("export_zvol", {"chap": {"user": "u", "secret": "123456789012", "mutual": "x"}}),
            ("export_zvol", {"chap": {"secret": "123456789012"}}),
        ),
    ),
    "shrink-a-volume": (
        INVALID,
        (("grow_zvol", {"volsize_bytes": MIB}),),
    ),
    "clone-to-less-than-its-origin": (
        INVALID,
        (("clone_zvol", {"volsize_bytes": MIB}),),
    ),
}
# Whole requests on what is there and not ours, or not this identity's.
_FOREIGN: Final[dict[str, tuple[str, dict[str, Any], frozenset[str]]]] = {
    "look-at-an-unmarked-zvol": ("get_zvol", {"zvol": "foreign"}, NOT_PERMITTED),
    "delete-an-unmarked-zvol": ("delete_zvol", {"zvol": "foreign"}, NOT_PERMITTED),
    "grow-an-unmarked-zvol": ("grow_zvol", {"zvol": "foreign"}, NOT_PERMITTED),
    "snapshot-an-unmarked-zvol": ("create_snapshot", {"zvol": "foreign"}, NOT_PERMITTED),
    "export-an-unmarked-zvol": ("export_zvol", {"zvol": "foreign"}, NOT_PERMITTED),
    "clone-an-unmarked-zvol": (
        "clone_zvol", {"source": "foreign", "snapshot": None}, NOT_PERMITTED
    ),
    "clone-an-unmarked-zvols-snapshot": (
        "clone_zvol", {"source": "foreign", "snapshot": "kept"}, NOT_PERMITTED
    ),
    "create-over-an-unmarked-zvol": (
        "create_zvol", {"zvol": "foreign", "volsize_bytes": 16 * MIB}, NOT_PERMITTED
    ),
    "clone-over-an-unmarked-zvol": ("clone_zvol", {"zvol": "foreign"}, NOT_PERMITTED),
    "delete-a-file-system": ("delete_zvol", {"zvol": "files"}, NOT_PERMITTED),
    "snapshot-a-file-system": ("create_snapshot", {"zvol": "files"}, NOT_PERMITTED),
    "export-a-file-system": ("export_zvol", {"zvol": "files"}, NOT_PERMITTED),
    "delete-a-received-copy": ("delete_zvol", {"zvol": "received"}, NOT_PERMITTED),
    "export-a-received-copy": ("export_zvol", {"zvol": "received"}, NOT_PERMITTED),
    "delete-an-unmarked-zvols-snapshot": (
        "delete_snapshot", {"zvol": "foreign", "snapshot": "kept"}, NOT_PERMITTED
    ),
    "delete-somebody-elses-snapshot": ("delete_snapshot", {"snapshot": "autosnap"}, NOT_PERMITTED),
    "clone-somebody-elses-snapshot": ("clone_zvol", {"snapshot": "autosnap"}, NOT_PERMITTED),
    "take-somebody-elses-snapshot-for-ours": (
        "create_snapshot", {"snapshot": "autosnap"}, frozenset({"already_exists"})
    ),
    "take-a-volume-for-another": (
        "create_zvol", {"zvol": "volume-own", "volume_id": TAKEN_ID}, frozenset({"already_exists"})
    ),
    "take-a-volume-for-a-clone": ("clone_zvol", {"zvol": "volume-taken"}, frozenset({"already_exists"})),
    "export-over-a-foreign-target": (
        "export_zvol", {"zvol": "volume-taken"}, frozenset({"already_exists"})
    ),
    "withdraw-a-foreign-target": (
        "withdraw_zvol", {"zvol": "volume-taken", "initiator": None},
        frozenset({"unchanged", "already_exists", "not_permitted"}),
    ),
    "withdraw-a-foreign-targets-initiator": (
        "withdraw_zvol", {"zvol": "volume-taken", "initiator": STRANGER},
        frozenset({"unchanged", "already_exists", "not_permitted"}),
    ),
}  # fmt: skip
_LIMITS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "create-beyond-the-size-limit": ("create_zvol", {"volsize_bytes": GIB + MIB}),
    "grow-beyond-the-size-limit": (
        "grow_zvol", {"zvol": "volume-theirs", "volsize_bytes": GIB + MIB}
    ),
    "clone-beyond-the-size-limit": (
        "clone_zvol",
        {"source": "volume-theirs", "snapshot": "snap-theirs", "volsize_bytes": GIB + MIB},
    ),
    "export-under-labs-prefix": (
        "export_zvol", {"zvol": "volume-theirs", "prefix": PREFIX}
    ),
}  # fmt: skip


_THEIRS: Final = {"parent": OTHER_PARENT, "zvol": "volume-theirs", "snapshot": "snap-theirs"}


def _right(method: str, changed: dict[str, Any]) -> dict[str, Any]:
    return frame(method, {**RIGHT[method], **changed})


def _one(group: str, name: str, method: str, changed: dict[str, Any], seen: frozenset[str]) -> Attack:
    return Attack(name, group, Frames((_right(method, changed),)), seen)


def _as_other(group: str, name: str, method: str, changed: dict[str, Any]) -> Attack:
    return Attack(name, group, Frames((_right(method, changed),)), NOT_PERMITTED, key="other")


def _volleys(group: str, name: str, method: str, field: str, table: hostile.Volleys) -> list[Attack]:
    """Return an attack for each volley: the same request with one field in many ways.

    What is not even a value of the protocol, as an integer beyond 64 bits, ends the channel.
    """
    return [
        Attack(
            f"{name}-{volley}",
            group,
            Frames(tuple(_right(method, {field: value}) for value in values)),
            INVALID | BROKEN if field == "volsize_bytes" else INVALID,
        )
        for volley, values in table.items()
    ]


ATTACKS: Final = (
    *(
        _one("parent", f"{method}-below-the-others-parent", method, {"parent": OTHER_PARENT}, NOT_PERMITTED)
        for method in RIGHT
    ),
    *(
        _as_other("parent", f"{method}-below-labs-parent-as-other", method, {})
        for method in ("get_figures", "delete_zvol", "withdraw_zvol", "create_zvol")
    ),
    *(
        _one("parent", f"ask-below-{name}", "list_zvols", {"parent": parent}, NOT_PERMITTED)
        for name, parent in hostile.PARENTS.items()
    ),
    *_volleys("parent", "ask-below", "get_figures", "parent", hostile.MALFORMED_PARENTS),
    *_volleys("name", "delete-zvols-called-by", "delete_zvol", "zvol", hostile.MALFORMED_ZVOLS),
    *_volleys("name", "delete-snapshots-called-by", "delete_snapshot", "snapshot", hostile.MALFORMED_SNAPS),
    *_volleys("number", "create-zvols-of", "create_zvol", "volsize_bytes", hostile.SIZES),
    *(
        Attack(
            f"call-{name}",
            "method",
            Frames(tuple(frame(item, RIGHT["get_zvol"]) for item in methods)),
            UNKNOWN,
        )
        for name, methods in hostile.METHODS.items()
    ),
    *(
        Attack(name, "parameter", Frames(tuple(_right(*change) for change in changed)), seen)
        for name, (seen, changed) in _CHANGED.items()
    ),
    *(_one("foreign", name, *change) for name, change in _FOREIGN.items()),
    *(
        _as_other("limit", name, method, {"parent": OTHER_PARENT, **changed})
        for name, (method, changed) in _LIMITS.items()
    ),
    Attack(
        "replay-the-others-frames-out-of-order-with-labs-key",
        "replay",
        Frames(tuple(frame("delete_snapshot", _THEIRS, id=number) for number in (3, 2, 2, 1))),
        NOT_PERMITTED,
    ),
    Attack(
        "use-an-operation-again-for-something-else",
        "replay",
        Frames(
            (
                frame("delete_zvol", {"parent": OTHER_PARENT, "zvol": "volume-theirs"}, operation=THEIR_ID),
                frame("delete_snapshot", _THEIRS, operation=THEIR_ID),
            )
        ),
        NOT_PERMITTED,
    ),
    Attack("send-parameters-as-a-list", "parameter", Frames((frame("get_figures", [PARENT]),)), BROKEN),
)
