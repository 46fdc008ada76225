"""What ``zolder orphans`` finds, and what is no finding: what is on its way, or another back end's."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from cinder.db import api as database

from tests.driver.cloud import ADMIN, GIB, MACHINE, PARENT, ROUTE, STRANGER, Cloud, name_of
from zolder.cli import backends
from zolder.cli.cinder_side import CinderReader
from zolder.cli.finding import Kind
from zolder.cli.sides import SanSide
from zolder.model import Access
from zolder.names import (
    AttachmentId,
    DatasetName,
    SnapshotName,
    VolumeId,
    ZvolName,
    copied_name,
    copying_name,
)


def test_nothing_found(cloud: Cloud) -> None:
    """Where both sides have the same volumes, snapshots and attachments, the exit status is 0."""
    volume = cloud.add_volume()
    cloud.add_snapshot(volume)
    _, access = cloud.attach(volume)
    cloud.open(access)
    status, said = cloud.run()
    assert status == 0
    assert "1 volumes in Cinder and 1 zvols compared: nothing is on one side only." in said


def test_pages(cloud: Cloud) -> None:
    """What Cinder has is read whole, however many pages it takes."""
    for _ in range(5):
        cloud.add_snapshot(cloud.add_volume())
    backends.read_configuration([str(cloud.configuration)])
    (ground,) = backends.read_grounds(["one"])
    for page in (1, 2, 5, 6):
        side = CinderReader(ground, page=page).read(SanSide())
        assert (len(side.volumes), len(side.snapshots)) == (5, 5)


def test_shared_parent(cloud: Cloud) -> None:
    """Two back ends over one parent are compared together, also where only one of them is asked for."""
    cloud.add_volume()
    cloud.add_volume(host=f"control@two#{PARENT}")
    assert cloud.kinds() == cloud.kinds("--backend", "one") == []
    assert len(cloud.asked) == 2


def test_other_control_node(cloud: Cloud) -> None:
    """Volumes that Cinder has at a back end that is not configured here are noted, and are no finding."""
    cloud.add_volume()
    cloud.add_volume(host=f"control2@one#{PARENT}")
    migrated = cloud.add_volume(row=False)
    cloud.add_volume(zvol=False, host=f"control2@one#{PARENT}", _name_id=migrated)
    status, said = cloud.run()
    assert status == 0
    assert f"the volumes of 2 zvols here at control2@one#{PARENT}" in said


def test_nothing_but_another_control_nodes(cloud: Cloud) -> None:
    """Where this configuration has no volume, and Cinder all zvols elsewhere, nothing was compared: 2."""
    cloud.add_volume(host=f"control2@one#{PARENT}")
    status, said = cloud.run()
    assert status == 2
    assert "Cinder has no volume at control@one, control@two, and all 1 zvols here at control2@one" in said
    cloud.add_volume(row=False)
    assert cloud.run()[0] == 1


def test_cluster(cloud: Cloud) -> None:
    """In a cluster the volumes of its other members are this back end's too."""
    text = cloud.configuration.read_text().replace("host = control\n", "host = control\ncluster = pair\n")
    cloud.configuration.write_text(text)
    lost = cloud.add_volume(zvol=False, host=f"control2@one#{PARENT}", cluster_name=f"pair@one#{PARENT}")
    assert [finding["volume_id"] for finding in cloud.findings()] == [lost]


def test_migrated_volume(cloud: Cloud) -> None:
    """A volume whose zvol bears the id of its migration is found by it; what it left behind is left over."""
    moved = str(uuid.uuid4())
    volume = cloud.add_volume()
    database.volume_update(ADMIN, volume, {"_name_id": moved})
    cloud.add_volume(row=False, id=moved)
    assert [finding["object"] for finding in cloud.findings()] == [f"{PARENT}/{name_of(volume)}"]


@pytest.mark.parametrize("first", [0, 1])
def test_last_moment_of_a_migration(cloud: Cloud, first: int) -> None:
    """While both rows of a migration name the same zvol, the one that still moves decides."""
    user, target = sorted(str(uuid.uuid4()) for _ in range(2))[:: 1 if first else -1]
    cloud.add_volume(zvol=False, id=user, _name_id=target)
    cloud.add_volume(zvol=False, id=target, migration_status=f"target:{user}")
    assert cloud.kinds() == []
    database.volume_update(ADMIN, target, {"migration_status": None})
    assert cloud.kinds() == [Kind.VOLUME_ONLY_IN_CINDER]


def test_second_look_clears_what_moved(cloud: Cloud) -> None:
    """What differs at the first look only, since it was being detached, is no finding."""
    volume = cloud.add_volume()
    row, access = cloud.attach(volume)
    cloud.open(access)

    def detach() -> None:
        cloud.san.withdraw_zvol(PARENT, access.zvol, MACHINE, attachment=access.attachment)
        database.volume_attachment_update(ADMIN, row, {"attach_status": "detached"})
        database.attachment_destroy(ADMIN, row)

    cloud.san.meanwhile["list_attachments"] = detach
    assert cloud.kinds() == []
    assert not cloud.san.meanwhile


def test_what_comes_between_the_looks_is_left_for_the_next(cloud: Cloud) -> None:
    """What differs at the second look only has been seen once, and is no finding yet."""
    volume = cloud.add_volume()
    old, new = (Access(name_of(volume), STRANGER, AttachmentId(str(uuid.uuid4()))) for _ in range(2))
    cloud.open(old)
    cloud.san.meanwhile["list_attachments"] = lambda: cloud.open(new)
    assert [finding["attachment"] for finding in cloud.findings()] == [old.attachment]
    assert cloud.kinds() == [Kind.ATTACHMENT_ONLY_ON_SAN] * 2


def test_view_of_another_back_end(cloud: Cloud) -> None:
    """The view of a snapshot that Cinder has at another back end is that one's."""
    volume = cloud.add_volume(host=f"control2@one#{PARENT}")
    snapshot = cloud.add_snapshot(volume)
    cloud.san.export_snapshot(
        PARENT, name_of(volume), SnapshotName(f"snapshot-{snapshot}"), MACHINE,
        view_id=VolumeId(snapshot), route=ROUTE, attachment=None, chap=None,
    )  # fmt: skip
    assert cloud.kinds() == []


@pytest.mark.parametrize("adopted", [True, False])
def test_a_management_that_failed(cloud: Cloud, *, adopted: bool) -> None:
    """It is no loss, and what is to be done about it deletes no data."""
    volume = cloud.add_volume(zvol=adopted, status="error_managing", size=0)
    [finding] = cloud.findings()
    assert f"`openstack volume delete {volume}`" in finding["advice"]
    assert "no data" in finding["advice"]


def test_what_a_create_in_another_pool_left(cloud: Cloud) -> None:
    """A zvol whose volume Cinder has in another pool by now is found, and where that is."""
    volume = cloud.add_volume(host="control@one#fast/volumes")
    cloud.configuration.write_text(
        cloud.configuration.read_text()
        .replace("[one]\n", f"[one]\nsan_zfs_volume_base = {PARENT}, fast/volumes\n")
        .replace("other, one, two", "one")
    )
    cloud.san._parents = (PARENT, DatasetName("fast/volumes"))
    found = {finding["kind"]: finding for finding in cloud.findings()}
    assert found[Kind.ZVOL_ONLY_ON_SAN]["object"] == f"{PARENT}/volume-{volume}"
    assert "control@one#fast/volumes" in found[Kind.ZVOL_ONLY_ON_SAN]["meaning"]


@pytest.mark.parametrize("name", [copying_name, copied_name])
@pytest.mark.parametrize("host", [f"control@far#{PARENT}", f"control@one#{PARENT}"], ids=["theirs", "ours"])
def test_half_of_a_migration(cloud: Cloud, name: Callable[[VolumeId], ZvolName], host: str) -> None:
    """While Cinder migrates between SANs neither half is a finding; behind a failure it says what to do."""
    cloud.add_volume()
    volume = VolumeId(cloud.add_volume(zvol=False, host=host, migration_status="migrating"))
    cloud.san.create_zvol(PARENT, name(volume), volume_id=volume, volsize_bytes=GIB, sparse=True)
    assert cloud.kinds() == []
    database.volume_update(ADMIN, volume, {"migration_status": "error"})
    found = {finding["kind"]: finding for finding in cloud.findings()}
    assert found[Kind.ZVOL_ONLY_ON_SAN]["object"] == f"{PARENT}/{name(volume)}"
    assert "migrate it once more" in found[Kind.ZVOL_ONLY_ON_SAN]["meaning"]
