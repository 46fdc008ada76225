from __future__ import annotations

import os
import uuid
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from zolder.api import METHODS
from zolder.errors import InvalidRequest, NotPermitted
from zolder.model import Route, ZvolCopy, ZvolSnapshot
from zolder.names import (
    LIO,
    DatasetName,
    Identity,
    Portal,
    SnapshotName,
    TargetPrefix,
    VolumeId,
    ZvolName,
    put_aside_name,
    reverted_name,
)
from zolder.properties import Checksum, Copies, Dedup, Sync, ZvolProperties
from zolder.san.policies import PolicyError, load_policy
from zolder.san.policy import GIB, Policy

GOOD = """
[identity.lab]
parents = ["data/volumes", "fast/volumes"]
portals = ["192.0.2.1:3260", "[2001:db8::1]:3260"]
target_prefixes = ["iqn.2010-10.org.openstack:"]
"""
LAB = Identity("lab")


def write(folder: Path, text: str) -> Path:
    """Write a policy file that is ours alone."""
    path = folder / "san.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_load(tmp_path: Path) -> None:
    """A policy is read into checked names."""
    assert load_policy(LAB, write(tmp_path, GOOD), owner=os.getuid()) == Policy(
        LAB,
        parents=(DatasetName("data/volumes"), DatasetName("fast/volumes")),
        portals=(Portal("192.0.2.1:3260"), Portal("[2001:db8::1]:3260")),
        target_prefixes=(TargetPrefix("iqn.2010-10.org.openstack:"),),
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "tables"),
        ("[identity", "Expected"),
        (GOOD + "more = 1\n", r"line 6: .* 'more' is no key"),
        (GOOD.replace("parents", "parent"), r"line 3: .* 'parent' is no key"),
        (
            GOOD.replace('portals = ["192.0.2.1:3260", "[2001:db8::1]:3260"]', ""),
            "line 2: .* portals is missing",
        ),
        (GOOD + 'role = "admin"\n', "line 6: .* one of volumes, read-only, replication-receive is needed"),
        (GOOD + "role = []\n", "one of volumes, read-only, replication-receive is needed"),
        (GOOD + "max_volumes = -1\n", "line 6: .* not negative"),
        (GOOD + "max_total_gib = true\n", "line 6: .* not negative"),
        (GOOD + 'max_volume_gib = "1"\n', "line 6: .* not negative"),
        (GOOD + 'shared_parents = ["data/else"]\n', "line 6: .* not among the parents"),
        (GOOD + '[identity."lab x"]\nparents = ["a/b"]\nrole = "read-only"\n', "line 6"),
        (GOOD.replace("data/volumes", "data/../x"), "dataset"),
        (GOOD.replace("data/volumes", "-o"), "dataset"),
        (GOOD.replace('["data/volumes", "fast/volumes"]', "7"), "a list with one or more"),
        (GOOD.replace('["data/volumes", "fast/volumes"]', '"data"'), "a list with one or more"),
        (GOOD.replace('["data/volumes", "fast/volumes"]', "[]"), "a list with one or more"),
        (GOOD.replace("192.0.2.1:3260", "192.0.2.1"), "portal"),
        (GOOD + "[other]\n", "other"),
        (GOOD.replace("identity.lab", "identity.else"), r"\[identity.lab\]"),
    ],
)
def test_refused(tmp_path: Path, text: str, reason: str) -> None:
    """A policy that is wrong is refused with the file and the reason."""
    path = write(tmp_path, text)
    with pytest.raises(PolicyError, match=reason) as refused:
        load_policy(LAB, path, owner=os.getuid())
    assert str(path) in str(refused.value)


def test_missing(tmp_path: Path) -> None:
    """Without a policy nothing is served, and the message says what to write where."""
    with pytest.raises(PolicyError, match="does not exist"):
        load_policy(LAB, tmp_path / "san.toml")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_writable_by_others(tmp_path: Path, mode: int) -> None:
    """A policy that others may write is refused."""
    path = write(tmp_path, GOOD)
    path.chmod(mode)
    with pytest.raises(PolicyError, match="only root"):
        load_policy(LAB, path, owner=os.getuid())


def test_another_s(tmp_path: Path) -> None:
    """A policy that is not its owner's is refused."""
    with pytest.raises(PolicyError, match="root owns"):
        load_policy(LAB, write(tmp_path, GOOD), owner=os.getuid() + 1)


def test_check(tmp_path: Path) -> None:
    """Only listed parents, portals and prefixes pass, and sizes that a zvol can have."""
    policy = load_policy(LAB, write(tmp_path, GOOD), owner=os.getuid())
    parent = policy.parents[0]
    policy.check("create_zvol", {"parent": parent, "volsize_bytes": 2**20})
    route = Route(LIO, policy.target_prefixes[0], policy.portals)
    policy.check("export_zvol", {"parent": parent, "route": route})
    for arguments in (
        {"parent": DatasetName("data")},
        {"parent": DatasetName("data/volumes/below")},
        {"parent": parent, "route": replace(route, portals=(Portal("192.0.2.2:3260"),))},
        {"parent": parent, "route": replace(route, portals=(*route.portals, Portal("192.0.2.1:3261")))},
        {"parent": parent, "route": replace(route, prefix=TargetPrefix("iqn.2010-10.org.other:"))},
    ):
        with pytest.raises(NotPermitted):
            policy.check("export_zvol", arguments)
    twice = (route.portals[0], route.portals[0])
    for wrong in (
        {"volsize_bytes": 1},
        {"route": replace(route, portals=())},
        {"route": replace(route, portals=twice)},
    ):
        with pytest.raises(InvalidRequest):
            policy.check("create_zvol", {"parent": parent, **wrong})


def test_each_member_of_a_group_is_checked() -> None:
    """The parent of each zvol that is snapshotted with others has to be listed, not the first alone."""
    here, there = DatasetName("data/volumes"), DatasetName("data/else")
    members = [ZvolSnapshot(place, ZvolName("volume-a"), SnapshotName("one")) for place in (here, there)]
    policy = Policy(LAB, (here,))
    policy.check("create_snapshots", {"parent": here, "members": members[:1]})
    with pytest.raises(NotPermitted, match="parent data/else"):
        policy.check("create_snapshots", {"parent": here, "members": members})


def test_each_copy_of_a_group_is_checked() -> None:
    """Its parent, its size, its properties and both of its names, and not those of the first alone."""
    here, there = DatasetName("data/volumes"), DatasetName("data/else")
    right = ZvolCopy(
        here, ZvolName("volume-a"), ZvolName("volume-b"), VolumeId(str(uuid.UUID(int=1))), GIB, sparse=True
    )
    policy = Policy(LAB, (here,), max_volume_gib=1)
    policy.check("clone_zvols", {"parent": here, "copies": [right]})
    for wrong, said in (
        (replace(right, parent=there), "parent data/else"),
        (replace(right, volsize_bytes=2 * GIB), "max_volume_gib"),
        (replace(right, properties=ZvolProperties(sync=Sync("disabled"))), "daring property"),
        (replace(right, source=put_aside_name(1)), "agent's own"),
        (replace(right, zvol=reverted_name(right.zvol)), "agent's own"),
    ):
        with pytest.raises(NotPermitted, match=said):
            policy.check("clone_zvols", {"parent": here, "copies": [right, wrong]})
    with pytest.raises(InvalidRequest):
        policy.check("clone_zvols", {"parent": here, "copies": [right, replace(right, volsize_bytes=1)]})


def test_a_route_on_record_is_held_to_the_policy() -> None:
    """What is no request's but a zvol's own record is checked in the same words; a bare policy has none."""
    route = Route(LIO, TargetPrefix("iqn.2010-10.org.openstack:"), (Portal("192.0.2.1:3260"),))
    parent = DatasetName("data/volumes")
    Policy(LAB, (parent,), route.portals, (route.prefix,)).check_route(route)
    for bare in (Policy(LAB, (parent,), route.portals), Policy(LAB, (parent,), (), (route.prefix,))):
        with pytest.raises(NotPermitted, match="is not among those of identity lab"):
            bare.check_route(route)


def test_a_reader_changes_nothing() -> None:
    """The role read-only has the requests that look, and needs neither portals nor prefixes."""
    policy = Policy(LAB, (DatasetName("data/volumes"),), role="read-only")
    allowed = []
    for method in METHODS:
        with suppress(NotPermitted):
            policy.check(method, {"parent": policy.parents[0]})
            allowed.append(method)
    assert allowed == [
        "find_zvol",
        "get_figures",
        "get_guid",
        "get_zvol",
        "list_attachments",
        "list_exports",
        "list_found_snapshots",
        "list_found_zvols",
        "list_put_aside",
        "list_snapshots",
        "list_views",
        "list_zvols",
    ]


def test_daring_properties(tmp_path: Path) -> None:
    """What may cost space or data is refused unless the policy names it; all else is the client's choice."""
    plain = load_policy(LAB, write(tmp_path, GOOD), owner=os.getuid())
    path = write(tmp_path, GOOD + 'daring_properties = ["dedup", "sync=disabled"]\n')
    daring = load_policy(LAB, path, owner=os.getuid())
    asked = {
        "dedup": ZvolProperties(dedup=Dedup("verify")),
        "sync=disabled": ZvolProperties(sync=Sync("disabled")),
        "copies": ZvolProperties(copies=Copies("3")),
        "checksum=off": ZvolProperties(checksum=Checksum("off")),
    }
    for name, properties in asked.items():
        arguments = {"parent": plain.parents[0], "properties": properties}
        with pytest.raises(NotPermitted, match=f"daring property {name} is not among those of identity lab"):
            plain.check("create_zvol", arguments)
        if name in daring.daring_properties:
            daring.check("set_zvol_properties", arguments)
        else:
            with pytest.raises(NotPermitted):
                daring.check("set_zvol_properties", arguments)
    harmless = ZvolProperties(
        dedup=Dedup("off"), sync=Sync("always"), copies=Copies("1"), checksum=Checksum("sha256")
    )
    plain.check("clone_zvol", {"parent": plain.parents[0], "properties": harmless})
    with pytest.raises(PolicyError, match="daring property: 'atime' is none of checksum=off, copies"):
        load_policy(LAB, write(tmp_path, GOOD + 'daring_properties = ["atime"]\n'), owner=os.getuid())


def test_limits() -> None:
    """The size of one volume, their number and their sum, at the limit and beyond it."""
    parent = DatasetName("data/volumes")
    policy = Policy(LAB, (parent,), max_volume_gib=2, max_volumes=3, max_total_gib=5)
    policy.check("grow_zvol", {"parent": parent, "volsize_bytes": 2 * GIB})
    with pytest.raises(NotPermitted, match="2 GiB in one volume"):
        policy.check("grow_zvol", {"parent": parent, "volsize_bytes": 3 * GIB})
    policy.check_sum(3, 5 * GIB)
    with pytest.raises(NotPermitted, match="3 volumes below one parent"):
        policy.check_sum(4, 0)
    with pytest.raises(NotPermitted, match="5 GiB below one parent"):
        policy.check_sum(0, 5 * GIB + 1)
    assert not Policy(LAB, (parent,), max_volume_gib=2).limits_sum


@pytest.mark.parametrize("other", ["data/volumes", "data", "fast/volumes/below"])
@pytest.mark.parametrize("first", [True, False])
def test_parents_of_two_are_apart(tmp_path: Path, other: str, *, first: bool) -> None:
    """Equal and nested parents are refused, in either order, unless both identities say that they share."""

    def both(lab: str, others: str) -> Path:
        tables = [
            GOOD + lab,
            f'[identity.other]\nrole = "read-only"\nparents = ["{other}"]\n{others}',
        ]
        return write(tmp_path, "\n".join(tables if first else reversed(tables)))

    sharing = f'shared_parents = ["{other}"]\n'
    for path in (both("", ""), both("", sharing)):
        with pytest.raises(PolicyError, match="part them, or list both under shared_parents"):
            load_policy(LAB, path, owner=os.getuid())
    load_policy(LAB, both('shared_parents = ["data/volumes", "fast/volumes"]\n', sharing), owner=os.getuid())


@pytest.mark.parametrize("role", ["read-only", "replication-receive"])
def test_roles_that_change_no_volume(role: str) -> None:
    """A role for monitoring or for a replica may look, and change nothing that there is today."""
    policy = Policy(LAB, (DatasetName("data/volumes"),), role=role)
    for method in METHODS:
        if not method.startswith(("find_", "get_", "list_")):
            with pytest.raises(NotPermitted, match=f"is {role} in this SAN's policy"):
                policy.check(method, {"parent": policy.parents[0]})


def test_who_may_adopt(tmp_path: Path) -> None:
    """What others made is adopted only below a parent that the policy lists for that by itself."""
    adopting = ("adopt_snapshot", "adopt_zvol")
    assert tuple(method for method in METHODS if method.startswith("adopt")) == adopting
    bare = load_policy(LAB, write(tmp_path, GOOD), owner=os.getuid())
    policy = load_policy(LAB, write(tmp_path, f'{GOOD}adopt_from = ["data/volumes"]\n'), owner=os.getuid())
    for method in adopting:
        policy.check(method, {"parent": DatasetName("data/volumes")})
        for refused, parent in ((policy, "fast/volumes"), (bare, "data/volumes")):
            with pytest.raises(NotPermitted, match=f"place to adopt from {parent} is not among those"):
                refused.check(method, {"parent": DatasetName(parent)})


@pytest.mark.parametrize("place", ["data/other", "data/volumes/below", "data"])
def test_a_place_to_adopt_from_is_a_parent(tmp_path: Path, place: str) -> None:
    """Any other dataset is refused, and the line is named."""
    path = write(tmp_path, f'{GOOD}adopt_from = ["{place}"]\n')
    with pytest.raises(PolicyError, match=rf"line \d+: .*adopt_from: {place} is not among the parents"):
        load_policy(LAB, path, owner=os.getuid())


def test_neighbours_are_not_nested(tmp_path: Path) -> None:
    """A name that begins alike is another dataset."""
    other = '[identity.other]\nrole = "read-only"\nparents = ["data/volumes2"]\n'
    load_policy(LAB, write(tmp_path, GOOD + other), owner=os.getuid())
