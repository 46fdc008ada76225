"""What the policy of a real SAN holds an identity to, beyond its parents."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.contract.ground import MIB, OTHER_PARENT
from tests.support.san import ssh_target
from zolder.client.pool import Pool
from zolder.client.remote import RemoteStorage
from zolder.errors import NotPermitted
from zolder.names import VolumeId, ZvolName

if TYPE_CHECKING:
    from lab import Lab

GIB = 1024 * MIB


@pytest.fixture(scope="module", autouse=True)
def pristine(lab: Lab) -> None:
    """A SAN that nobody has used."""
    lab.reset()


@contextmanager
def other(lab: Lab) -> Iterator[RemoteStorage]:
    """Yield the SAN as the lab's second identity reaches it, over a channel that reads the policy anew."""
    key = lab.environment()["other_key"]
    pool = Pool(dataclasses.replace(ssh_target(lab), private_key=key))
    try:
        storage = RemoteStorage(pool, deadline_seconds=60)
        storage.get_figures(OTHER_PARENT)
        yield storage
    finally:
        pool.close()


def make(storage: RemoteStorage, name: str, size_bytes: int) -> None:
    """Create a sparse zvol."""
    storage.create_zvol(
        OTHER_PARENT,
        ZvolName(name),
        volume_id=VolumeId(str(uuid.uuid5(uuid.NAMESPACE_OID, name))),
        volsize_bytes=size_bytes,
        sparse=True,
    )


def test_limits(lab: Lab) -> None:
    """Size, number and sum are held at the limit, by create, clone and grow; the refused count no more."""
    with other(lab) as storage:
        with pytest.raises(NotPermitted, match="1 GiB in one volume"):
            make(storage, "volume-large", GIB + MIB)
        make(storage, "volume-1", GIB)
        make(storage, "volume-2", 768 * MIB)
        with pytest.raises(NotPermitted, match="2 GiB below one parent"):
            make(storage, "volume-3", 768 * MIB)
        make(storage, "volume-3", 16 * MIB)
        for _ in range(2):
            with pytest.raises(NotPermitted, match="3 volumes below one parent"):
                make(storage, "volume-4", MIB)
        with pytest.raises(NotPermitted, match="3 volumes below one parent"):
            storage.clone_zvol(
                OTHER_PARENT,
                ZvolName("volume-3"),
                None,
                ZvolName("volume-4"),
                volume_id=VolumeId(str(uuid.uuid4())),
                volsize_bytes=16 * MIB,
                sparse=True,
            )
        with pytest.raises(NotPermitted, match="2 GiB below one parent"):
            storage.grow_zvol(OTHER_PARENT, ZvolName("volume-3"), volsize_bytes=512 * MIB)
        figures = storage.get_figures(OTHER_PARENT)
        assert (figures.zvol_count, figures.provisioned_bytes) == (3, (1024 + 768 + 16) * MIB)
        make(storage, "volume-3", 16 * MIB)  # asked again at the limit
        storage.delete_zvol(OTHER_PARENT, ZvolName("volume-1"))
        make(storage, "volume-4", MIB)
    assert lab.san.succeed(f"zfs list -H -o name -r -t all {OTHER_PARENT}").split()[1:] == [
        f"{OTHER_PARENT}/volume-{number}" for number in (2, 3, 4)
    ]


def test_a_reader_looks_and_changes_nothing(lab: Lab) -> None:
    """The role counts from the next channel on, and the figures go on being shown."""
    lab.san.succeed("sed -i '/identity.other/a role = \"read-only\"' /etc/zolder/san.toml")
    with other(lab) as storage:
        before = storage.list_zvols(OTHER_PARENT)
        for change in (
            lambda: make(storage, "volume-5", MIB),
            lambda: storage.delete_zvol(OTHER_PARENT, before[0].name),
            lambda: storage.withdraw_zvol(OTHER_PARENT, before[0].name, None, attachment=None),
        ):
            with pytest.raises(NotPermitted, match="is read-only in this SAN's policy: it may not"):
                change()
        assert storage.list_zvols(OTHER_PARENT) == before
