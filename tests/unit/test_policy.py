from __future__ import annotations

import os
from pathlib import Path

import pytest

from zolder.errors import InvalidRequest, NotPermitted
from zolder.names import DatasetName, Identity, Portal, TargetPrefix
from zolder.san.policy import Policy, PolicyError, load_policy

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
        (GOOD + "more = 1\n", "exactly"),
        (GOOD.replace("parents", "parent"), "exactly"),
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
    policy.check({"parent": parent, "volsize_bytes": 2**20})
    policy.check({"parent": parent, "portals": policy.portals, "prefix": policy.target_prefixes[0]})
    for arguments in (
        {"parent": DatasetName("data")},
        {"parent": DatasetName("data/volumes/below")},
        {"parent": parent, "portals": (Portal("192.0.2.2:3260"),)},
        {"parent": parent, "prefix": TargetPrefix("iqn.2010-10.org.other:")},
    ):
        with pytest.raises(NotPermitted):
            policy.check(arguments)
    for wrong in ({"volsize_bytes": 1}, {"portals": ()}):
        with pytest.raises(InvalidRequest):
            policy.check({"parent": parent, **wrong})
