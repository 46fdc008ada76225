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
    RECORDS,
    ROUTE,
    STRANGER,
    TAKEN_ID,
    THEIR_ID,
    VIEW,
    VIEW_ID,
)
from tests.attack.model import Attack, Frames, frame

GIB: Final = 1024 * MIB
NOT_PERMITTED: Final = frozenset({"not_permitted"})
INVALID: Final = frozenset({"invalid_request"})
UNKNOWN: Final = frozenset({"unknown_method"})
BROKEN: Final = frozenset({"remote_protocol"})
UNCHANGED: Final = frozenset({"unchanged"})


# Each method with parameters that are right, to be made wrong in one place.
RIGHT: Final[dict[str, dict[str, Any]]] = {
    "get_figures": {"parent": PARENT},
    "get_guid": {"parent": PARENT},
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
    "set_zvol_properties": {
        "parent": PARENT, "zvol": "volume-own", "sparse": True, "properties": {}, "volblocksize": None,
    },
    "delete_zvol": {"parent": PARENT, "zvol": "volume-own"},
    "revert_zvol": {
        "parent": PARENT, "zvol": "volume-own", "snapshot": "snap-own", "volsize_bytes": 64 * MIB,
    },
    "move_zvol": {
        "parent": PARENT, "zvol": "volume-own", "to": "data/more", "name": "volume-new",
        "volume_id": FRESH_ID,
    },
    "create_snapshot": {"parent": PARENT, "zvol": "volume-own", "snapshot": "snap-new"},
    "create_snapshots": {
        "parent": PARENT, "members": [{"parent": PARENT, "zvol": "volume-own", "name": "snap-new"}],
    },
    "clone_zvols": {
        "parent": PARENT, "moment": FRESH_ID,
        "copies": [{
            "parent": PARENT, "source": "volume-own", "zvol": "volume-new", "volume_id": FRESH_ID,
            "volsize_bytes": 64 * MIB, "sparse": True, "properties": {}, "volblocksize": None,
        }],
    },
    "delete_snapshot": {"parent": PARENT, "zvol": "volume-own", "snapshot": "snap-own"},
    "list_snapshots": {"parent": PARENT},
    "find_zvol": {"parent": PARENT, "zvol": "foreign"},
    "list_found_zvols": {"parent": PARENT},
    "list_found_snapshots": {"parent": PARENT, "zvol": None},
    "adopt_zvol": {
        "parent": PARENT, "source": "foreign", "zvol": "volume-new", "volume_id": FRESH_ID, "former": None,
        "volsize_bytes": 64 * MIB,
    },
    "release_zvol": {"parent": PARENT, "zvol": "volume-own"},
    "adopt_snapshot": {
        "parent": PARENT, "zvol": "volume-own", "source": "autosnap", "snapshot": "snap-new",
    },
    "release_snapshot": {"parent": PARENT, "zvol": "volume-own", "snapshot": "snap-own"},
    "list_attachments": {"parent": PARENT},
    "list_views": {"parent": PARENT},
    "list_put_aside": {"parent": PARENT},
    "export_zvol": {
        "parent": PARENT, "zvol": "volume-own", "initiator": STRANGER, "route": ROUTE, "attachment": None,
        "chap": None,
    },
    "ensure_exports": {
        "parent": PARENT, "route": ROUTE,
        "wanted": [{"zvol": "volume-own", "initiator": STRANGER, "attachment": None, "chap": None}],
    },
    "withdraw_zvol": {"parent": PARENT, "zvol": "volume-own", "initiator": INITIATOR, "attachment": None},
    "export_snapshot": {
        "parent": PARENT, "zvol": "volume-own", "snapshot": "snap-own", "initiator": STRANGER,
        "view_id": FRESH_ID, "route": ROUTE, "attachment": None, "chap": None,
    },
    "withdraw_snapshot": {
        "parent": PARENT, "view_id": VIEW_ID, "initiator": INITIATOR, "attachment": None,
    },
}  # fmt: skip
# Those whose contents follow behind them; what is refused here is so before any may follow.
RIGHT_CONTENTS: Final[dict[str, dict[str, Any]]] = {
    "read_zvol": {"parent": PARENT, "zvol": "volume-own"},
    "write_zvol": {"parent": PARENT, "zvol": "volume-own", "resumed": False},
}
# The requests that open something over a route.
_OPENING: Final = ("export_zvol", "ensure_exports", "export_snapshot")
_NO_ROUTES: Final[tuple[Any, ...]] = (None, {}, [], PREFIX)


def _routes(*changes: dict[str, Any]) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Return each change of the route in each request that has one."""
    return tuple((method, {"route": {**ROUTE, **change}}) for method in _OPENING for change in changes)


def _wanted(**changed: Any) -> dict[str, Any]:  # noqa: ANN401 - hostile JSON is any JSON
    """Return what is to be open at once, with something changed in the only entry."""
    return {"wanted": [{**RIGHT["ensure_exports"]["wanted"][0], **changed}]}


def _members(*changes: dict[str, Any]) -> dict[str, Any]:
    """Return what is to be snapshotted at once: ours, and something changed for each change."""
    right = RIGHT["create_snapshots"]["members"][0]
    return {"members": [right, *({**right, **change} for change in changes)]}


def _copies(*changes: dict[str, Any]) -> dict[str, Any]:
    """Return what is to be cloned at once: ours, and something changed for each change."""
    right = RIGHT["clone_zvols"]["copies"][0]
    return {"copies": [right, *({**right, **change} for change in changes)]}


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
    "set-properties-that-nobody-offers": (
        INVALID,
        tuple(
            (method, {"properties": properties})
            for method in ("create_zvol", "clone_zvol", "set_zvol_properties")
            for properties in (
                {"volmode": "full"},
                {"snapdev": "visible"},
                {"volsize": "1G"},
                {"refreservation": "none"},
                {"zolder:volume": TAKEN_ID},
                {"compression": "lz4\nvolmode=full"},
                {"compression": "lz4,volmode=full"},
                {"compression": "inherit"},
                {"compression": 15},
                {"copies": 2},
                {"sync": True},
                {"dedup": "on "},
                ["compression"],
                None,
            )
        ),
    ),
    "set-properties-that-its-policy-keeps-back": (
        NOT_PERMITTED,
        tuple(
            (method, {"properties": properties})
            for method in ("create_zvol", "clone_zvol", "set_zvol_properties")
            for properties in ({"dedup": "on"}, {"sync": "disabled"}, {"copies": "3"}, {"checksum": "off"})
        ),
    ),
    "set-block-sizes-that-are-none": (
        INVALID,
        tuple(
            (method, {"volblocksize": size})
            for method in ("create_zvol", "clone_zvol", "set_zvol_properties")
            for size in ("512", "16K", "16k -o volmode=full", "", "0", "-16k")
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
        _routes(
            {"portals": ["192.168.77.2:3260"]},
            {"portals": ["0.0.0.0:3260"]},
            {"portals": ["[::]:3260"]},
            {"portals": ["192.168.77.1:22"]},
            {"portals": [PORTAL, "127.0.0.1:3260"]},
        ),
    ),
    "listen-on-what-is-no-address": (
        INVALID,
        _routes(
            {"portals": ["192.168.77.1:0"]},
            {"portals": ["192.168.77.1:65536"]},
            {"portals": ["192.168.77.1:3260/../../x"]},
            {"portals": ["0300.0250.0115.1:3260"]},
            {"portals": []},
            {"portals": [PORTAL, PORTAL]},
            {"portals": PORTAL},
        ),
    ),
    "export-under-prefixes-that-are-not-its-own": (
        NOT_PERMITTED,
        _routes({"prefix": OTHER_PREFIX}, {"prefix": "iqn.2010-10.org:"}, {"prefix": PREFIX + "x:"}),
    ),
    "export-under-a-path": (
        INVALID,
        _routes({"prefix": "iqn.2010-10.org.openstack:../"}),
    ),
    "export-by-what-is-no-exporter": (
        INVALID,
        _routes(
            {"exporter": "targetcli"}, {"exporter": "../lio"}, {"exporter": None}, {"device": "/dev/vda"}
        ),
    ),
    "export-over-no-route": (
        INVALID,
        tuple((method, {"route": none}) for method in _OPENING for none in _NO_ROUTES),
    ),
    "name-attachments-in-other-ways": (
        INVALID,
        (
            *(
                (method, {"attachment": attachment})
                for method in ("export_zvol", "withdraw_zvol", "export_snapshot", "withdraw_snapshot")
                for attachment in hostile.NO_ATTACHMENTS
            ),
            *(("ensure_exports", _wanted(attachment=attachment)) for attachment in hostile.NO_ATTACHMENTS),
        ),
    ),
    "name-a-view-in-other-ways": (
        INVALID,
        tuple(
            (method, {"view_id": view_id})
            for method in ("export_snapshot", "withdraw_snapshot")
            for view_id in ("", "../x", VIEW, FRESH_ID + "\n", FRESH_ID.replace("4", "A"), None, 7)
        ),
    ),
    "want-many-exports-in-other-ways": (
        INVALID,
        (
            ("ensure_exports", {"wanted": {}}),
            ("ensure_exports", {"wanted": None}),
            ("ensure_exports", {"wanted": [None]}),
            ("ensure_exports", {"wanted": [["volume-own"]]}),
            ("ensure_exports", _wanted(zvol="../other/volume-theirs")),
            ("ensure_exports", _wanted(initiator="*")),
            ("ensure_exports", _wanted(parent=OTHER_PARENT)),
            ("ensure_exports", _wanted(chap={"user": "u", "secret": "123456789012\nmutual"})),
            ("ensure_exports", {"wanted": [*_wanted()["wanted"], *_wanted(zvol="-rf")["wanted"]]}),
        ),
    ),
    "adopt-and-release-by-other-names": (
        INVALID,
        (
            ("adopt_zvol", {"source": "../other/volume-theirs"}),
            ("adopt_zvol", {"source": f"{OTHER_PARENT}/volume-theirs"}),
            ("adopt_zvol", {"source": "foreign@kept"}),
            ("adopt_zvol", {"zvol": "-f"}),
            ("adopt_zvol", {"former": "none"}),
            ("adopt_zvol", {"adopt_from": OTHER_PARENT}),
            ("adopt_snapshot", {"source": f"zolder-clone-{TAKEN_ID}"}),
            ("adopt_snapshot", {"snapshot": "../x"}),
            ("release_zvol", {"zvol": "-r"}),
            ("release_snapshot", {"snapshot": f"zolder-clone-{TAKEN_ID}"}),
            ("list_found_snapshots", {"zvol": ""}),
        ),
    ),
    "move-to-other-names": (
        INVALID,
        (
            ("move_zvol", {"to": f"{PARENT}/../other"}),
            ("move_zvol", {"to": ""}),
            ("move_zvol", {"to": None}),
            ("move_zvol", {"name": "../other/volume-theirs"}),
            ("move_zvol", {"name": f"{OTHER_PARENT}/volume-theirs"}),
            ("move_zvol", {"name": "-f"}),
            ("move_zvol", {"name": "volume-own@snap-own"}),
            ("move_zvol", {"volume_id": "none"}),
            ("move_zvol", {"force": True}),
        ),
    ),
    "snapshot-many-in-other-ways": (
        INVALID,
        (
            ("create_snapshots", {"members": None}),
            ("create_snapshots", {"members": {}}),
            ("create_snapshots", {"members": []}),
            ("create_snapshots", {"members": [None]}),
            ("create_snapshots", {"members": ["volume-own"]}),
            ("create_snapshots", _members({})),
            ("create_snapshots", _members({"name": "snap-2"})),
            ("create_snapshots", _members({"zvol": "../other/volume-theirs"})),
            ("create_snapshots", _members({"zvol": "volume-taken", "name": f"zolder-clone-{TAKEN_ID}"})),
            ("create_snapshots", _members({"zvol": "volume-taken", "options": ["-r"]})),
        ),
    ),
    "clone-many-in-other-ways": (
        INVALID,
        (
            ("clone_zvols", {"copies": None}),
            ("clone_zvols", {"copies": []}),
            ("clone_zvols", {"copies": ["volume-own"]}),
            ("clone_zvols", {"moment": None}),
            ("clone_zvols", {"moment": "snap-own"}),
            ("clone_zvols", {"moment": FRESH_ID + "/../x"}),
            ("clone_zvols", _copies({})),
            ("clone_zvols", _copies({"source": "volume-taken"})),
            ("clone_zvols", _copies({"source": "volume-taken", "zvol": "../other/x"})),
            ("clone_zvols", _copies({"source": "volume-own@snap-own", "zvol": "volume-2"})),
            ("clone_zvols", _copies({"source": "volume-taken", "zvol": "volume-2", "snapshot": "snap-own"})),
            ("clone_zvols", _copies({"source": "volume-taken", "zvol": "volume-2", "volsize_bytes": -MIB})),
            ("clone_zvols", _copies({"source": "volume-taken", "zvol": "volume-2", "sparse": 1})),
            ("clone_zvols", _copies({"source": "volume-taken", "zvol": "volume-2", "volblocksize": "512"})),
        ),
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
            ("export_snapshot", {"chap": {"user": "u", "secret": "123456789012\nmutual"}}),
        ),
    ),
    "say-how-contents-are-to-go": (
        INVALID,
        (
            ("write_zvol", {"resumed": 1}),
            ("write_zvol", {"resumed": None}),
            ("write_zvol", {"device": "/dev/vda"}),
            ("write_zvol", {"zvol": "../other/volume-theirs"}),
            ("read_zvol", {"zvol": "volume-own@snap-own"}),
            ("read_zvol", {"resumed": False}),
            ("read_zvol", {"begin": 0}),
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
    "snapshot-an-unmarked-zvol-among-many": (
        "create_snapshots", _members({"zvol": "foreign"}), NOT_PERMITTED
    ),
    "snapshot-a-view-among-many": ("create_snapshots", _members({"zvol": VIEW}), NOT_PERMITTED),
    "snapshot-the-others-zvol-among-many": (
        "create_snapshots", _members({"parent": OTHER_PARENT, "zvol": "volume-theirs"}), NOT_PERMITTED
    ),
    "take-somebody-elses-snapshot-for-one-of-many": (
        "create_snapshots", {"members": [{"parent": PARENT, "zvol": "volume-own", "name": "autosnap"}]},
        frozenset({"already_exists"}),
    ),
    "clone-an-unmarked-zvol-among-many": (
        "clone_zvols", _copies({"source": "foreign", "zvol": "volume-2"}), NOT_PERMITTED
    ),
    "clone-over-an-unmarked-zvol-among-many": (
        "clone_zvols", _copies({"source": "volume-taken", "zvol": "foreign"}), NOT_PERMITTED
    ),
    "clone-a-view-among-many": ("clone_zvols", _copies({"source": VIEW, "zvol": "volume-2"}), NOT_PERMITTED),
    "clone-the-others-zvol-among-many": (
        "clone_zvols", _copies({"parent": OTHER_PARENT, "source": "volume-theirs", "zvol": "volume-2"}),
        NOT_PERMITTED,
    ),
    "clone-with-a-daring-property-among-many": (
        "clone_zvols",
        _copies({"source": "volume-taken", "zvol": "volume-2", "properties": {"sync": "disabled"}}),
        NOT_PERMITTED,
    ),
    # Its policy does not let this identity adopt.
    "adopt-an-unmarked-zvol": ("adopt_zvol", {}, NOT_PERMITTED),
    "adopt-an-unmarked-zvol-in-place": (
        "adopt_zvol", {"zvol": "foreign", "volsize_bytes": 16 * MIB}, NOT_PERMITTED
    ),
    "adopt-a-file-system": ("adopt_zvol", {"source": "files"}, NOT_PERMITTED),
    "adopt-a-received-copy": ("adopt_zvol", {"source": "received"}, NOT_PERMITTED),
    "adopt-a-view": ("adopt_zvol", {"source": VIEW}, NOT_PERMITTED),
    "adopt-somebody-elses-snapshot": ("adopt_snapshot", {}, NOT_PERMITTED),
    "move-an-unmarked-zvol": ("move_zvol", {"zvol": "foreign"}, NOT_PERMITTED),
    "move-a-file-system": ("move_zvol", {"zvol": "files"}, NOT_PERMITTED),
    "move-a-received-copy": ("move_zvol", {"zvol": "received", "to": "fast/volumes"}, NOT_PERMITTED),
    "move-a-view": ("move_zvol", {"zvol": VIEW}, NOT_PERMITTED),
    "move-to-the-others-parent": ("move_zvol", {"to": OTHER_PARENT}, NOT_PERMITTED),
    "move-out-of-the-others-parent": (
        "move_zvol", {"parent": OTHER_PARENT, "zvol": "volume-theirs", "to": PARENT}, NOT_PERMITTED
    ),
    "move-out-of-all-parents": ("move_zvol", {"to": "data"}, NOT_PERMITTED),
    "move-over-an-unmarked-zvol": (
        "move_zvol", {"zvol": "volume-taken", "to": PARENT, "name": "foreign"}, frozenset({"already_exists"})
    ),
    "move-over-a-volume": (
        "move_zvol", {"zvol": "volume-taken", "to": PARENT, "name": "volume-own"},
        frozenset({"already_exists"}),
    ),
    "move-to-a-name-of-the-agents": (
        "move_zvol", {"zvol": "volume-taken", "name": "zolder-deleted-0000000000000001"}, NOT_PERMITTED
    ),
    "release-an-unmarked-zvol": ("release_zvol", {"zvol": "foreign"}, UNCHANGED),
    "release-a-file-system": ("release_zvol", {"zvol": "files"}, UNCHANGED),
    "release-a-received-copy": ("release_zvol", {"zvol": "received"}, UNCHANGED),
    "release-a-view": ("release_zvol", {"zvol": VIEW}, UNCHANGED),
    "release-somebody-elses-snapshot": ("release_snapshot", {"snapshot": "autosnap"}, UNCHANGED),
    "release-the-snapshot-of-an-unmarked-zvol": (
        "release_snapshot", {"zvol": "foreign", "snapshot": "kept"}, UNCHANGED
    ),
    "look-for-snapshots-of-an-unmarked-zvol": (
        "list_found_snapshots", {"zvol": "foreign"}, NOT_PERMITTED
    ),
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
    **{
        f"{method.partition('_')[0]}-the-contents-of-{what}": (method, {"zvol": zvol}, NOT_PERMITTED)
        for method in RIGHT_CONTENTS
        for what, zvol in (
            ("an-unmarked-zvol", "foreign"),
            ("a-file-system", "files"),
            ("a-received-copy", "received"),
            ("a-view", VIEW),
        )
    },
    "write-what-is-exported": ("write_zvol", {}, frozenset({"busy"})),
    "go-on-writing-what-was-never-begun": (
        "write_zvol", {"resumed": True, "zvol": "volume-taken"}, frozenset({"busy"})
    ),
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
    "read-an-unmarked-zvols-snapshot": (
        "export_snapshot", {"zvol": "foreign", "snapshot": "kept"}, NOT_PERMITTED
    ),
    "read-somebody-elses-snapshot": ("export_snapshot", {"snapshot": "autosnap"}, NOT_PERMITTED),
    "read-a-received-copys-snapshot": ("export_snapshot", {"zvol": "received"}, NOT_PERMITTED),
    "read-a-snapshot-that-is-not-there": (
        "export_snapshot", {"snapshot": "snap-none"}, frozenset({"not_found"})
    ),
    "read-the-agents-own-snapshot": (
        "export_snapshot", {"snapshot": f"zolder-clone-{TAKEN_ID}"}, INVALID
    ),
    "read-another-snapshot-by-a-views-id": (
        "export_snapshot", {"zvol": "foreign", "snapshot": "kept", "view_id": VIEW_ID},
        frozenset({"already_exists"}),
    ),
    "withdraw-a-view-that-is-none": ("withdraw_snapshot", {"view_id": TAKEN_ID}, UNCHANGED),
    "look-at-a-view-as-a-volume": ("get_zvol", {"zvol": VIEW}, NOT_PERMITTED),
    "delete-a-view-as-a-volume": ("delete_zvol", {"zvol": VIEW}, NOT_PERMITTED),
    "grow-a-view": ("grow_zvol", {"zvol": VIEW}, NOT_PERMITTED),
    "snapshot-a-view": ("create_snapshot", {"zvol": VIEW}, NOT_PERMITTED),
    "delete-a-views-snapshot": ("delete_snapshot", {"zvol": VIEW}, UNCHANGED),
    "create-a-volume-over-a-view": ("create_zvol", {"zvol": VIEW}, NOT_PERMITTED),
    "clone-over-a-view": ("clone_zvol", {"zvol": VIEW}, NOT_PERMITTED),
    "clone-a-view": ("clone_zvol", {"source": VIEW, "snapshot": None}, NOT_PERMITTED),
    "clone-a-views-snapshot": ("clone_zvol", {"source": VIEW}, frozenset({"not_found"})),
    "export-a-view-for-writing": ("export_zvol", {"zvol": VIEW}, NOT_PERMITTED),
    "export-a-view-among-many": ("ensure_exports", _wanted(zvol=VIEW), UNCHANGED),
    "read-a-view-through-a-view": ("export_snapshot", {"zvol": VIEW}, frozenset({"not_found"})),
    "withdraw-a-view-as-a-volume": (
        "withdraw_zvol", {"zvol": VIEW, "initiator": STRANGER}, NOT_PERMITTED
    ),
    "withdraw-a-view-from-a-stranger": (
        "withdraw_snapshot", {"view_id": VIEW_ID, "initiator": STRANGER}, UNCHANGED
    ),
    "export-an-unmarked-zvol-among-many": ("ensure_exports", _wanted(zvol="foreign"), UNCHANGED),
    "export-over-a-foreign-target-among-many": ("ensure_exports", _wanted(zvol="volume-taken"), UNCHANGED),
    "export-a-thousand-times-what-is-not-ours": (
        "ensure_exports", {"wanted": _wanted(zvol="foreign")["wanted"] * 1000},
        UNCHANGED | {"deadline_exceeded"},
    ),
    "export-more-at-once-than-a-line-holds": (
        "ensure_exports", {"wanted": _wanted(zvol="foreign")["wanted"] * 4000}, BROKEN | {"closed"}
    ),
    "export-over-another-exporter-while-in-use": (
        "export_zvol", {"route": {**ROUTE, "exporter": "tgt"}}, frozenset({"busy"})
    ),
    **{
        f"export-a-{zvol}": ("export_zvol", {"zvol": zvol}, frozenset({"backend"}))
        for zvol in RECORDS
        if zvol.startswith(("record-of-", "record-without-sense"))
    },
    "export-over-a-foreign-target": (
        "export_zvol", {"zvol": "volume-taken"}, frozenset({"already_exists"})
    ),
    "withdraw-a-foreign-target": (
        "withdraw_zvol", {"zvol": "volume-taken", "initiator": None},
        UNCHANGED | {"already_exists", "not_permitted"},
    ),
    "withdraw-a-foreign-targets-initiator": (
        "withdraw_zvol", {"zvol": "volume-taken", "initiator": STRANGER},
        UNCHANGED | {"already_exists", "not_permitted"},
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
        "export_zvol", {"zvol": "volume-theirs"}
    ),
}  # fmt: skip


_THEIRS: Final = {"parent": OTHER_PARENT, "zvol": "volume-theirs", "snapshot": "snap-theirs"}


def _right(method: str, changed: dict[str, Any]) -> dict[str, Any]:
    return frame(method, {**RIGHT, **RIGHT_CONTENTS}[method] | changed)


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
        for method in (*RIGHT, *RIGHT_CONTENTS)
    ),
    *(
        _as_other("parent", f"{method}-below-labs-parent-as-other", method, {})
        for method in (
            "get_figures",
            "delete_zvol",
            "withdraw_zvol",
            "create_zvol",
            "ensure_exports",
            "export_snapshot",
            "withdraw_snapshot",
            "list_attachments",
            "read_zvol",
            "write_zvol",
        )
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
