"""What every implementation stands on in the contract suite: names, and two things Zolder did not make."""

from __future__ import annotations

from typing import Final

from zolder.fake import FakeStorage
from zolder.model import Route
from zolder.names import (
    LIO,
    NVMET,
    TGT,
    DatasetName,
    InitiatorName,
    Portal,
    SnapshotName,
    TargetPrefix,
    VolumeId,
    ZvolName,
)

PARENT: Final = DatasetName("data/volumes")
OTHER_PARENT: Final = DatasetName("data/other")
# Of the same identity, in the same zpool and in another.
MORE: Final = DatasetName("data/more")
FAST: Final = DatasetName("fast/volumes")
PARENTS: Final = (PARENT, MORE, FAST)
PREFIX: Final = TargetPrefix("iqn.2010-10.org.openstack:")
PORTALS: Final = (Portal("192.168.77.1:3260"),)
INITIATOR: Final = InitiatorName("iqn.2004-10.org.zolder:compute")
SECOND_INITIATOR: Final = InitiatorName("iqn.2004-10.org.zolder:second")
ROUTE: Final = Route(LIO, PREFIX, PORTALS)

# Each exporter's route, and two initiators of its kind.
ROUTES: Final = {
    LIO: (ROUTE, INITIATOR, SECOND_INITIATOR),
    TGT: (Route(TGT, PREFIX, (Portal("192.168.77.1:3261"),)), INITIATOR, SECOND_INITIATOR),
    NVMET: (
        Route(NVMET, PREFIX, (Portal("192.168.77.1:4420"),)),
        InitiatorName("nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-0000000000c1"),
        InitiatorName("nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-0000000000c2"),
    ),
}

MIB: Final = 2**20
# About what the lab's small zpool has: a thick zvol of this size never fits.
CAPACITY_BYTES: Final = 2**30
NEVER_FITS_BYTES: Final = 2**44

# Put there beforehand: a zvol without our mark, and a zvol of ours with a snapshot that is not ours.
FOREIGN: Final = ZvolName("contract-foreign")
PLANTED: Final = ZvolName("contract-planted")
PLANTED_ID: Final = VolumeId("00000000-0000-4000-8000-00000000f00d")
AUTOSNAP: Final = SnapshotName("autosnap_2026-01-01")
PLANTED_BYTES: Final = 16 * MIB


def prepare_fake(storage: FakeStorage) -> None:
    """Put the foreign things into a fake SAN."""
    storage.plant_foreign_zvol(PARENT, FOREIGN)
    storage.create_zvol(PARENT, PLANTED, volume_id=PLANTED_ID, volsize_bytes=PLANTED_BYTES, sparse=True)
    storage.plant_foreign_snapshot(PARENT, PLANTED, AUTOSNAP)


# On the lab's SAN, as its administrator would: let its identity adopt below the first parent.
LET_ADOPT: Final = f"""sed -i '/^.identity.lab.$/a adopt_from = ["{PARENT}"]' /etc/zolder/san.toml"""

# The same on real ZFS, as an administrator would type it.
PREPARE_ZFS: Final = f"""
zfs create -s -V {PLANTED_BYTES} {PARENT}/{FOREIGN}
zfs create -s -V {PLANTED_BYTES} -o zolder:volume={PLANTED_ID} {PARENT}/{PLANTED}
zfs snapshot {PARENT}/{PLANTED}@{AUTOSNAP}
"""
