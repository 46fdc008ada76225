"""A SAN that exports over tgt: a daemon, a disk and the exporter between them.

A module that needs its fixture takes it by name: ``san = tgt_san.san``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import EllipsisType

import pytest

from tests.unit.tgt_daemon import Daemon, serve
from zolder.model import Chap
from zolder.names import DatasetName, InitiatorName, Portal, TargetPrefix, VolumeId, ZvolName, chap_user
from zolder.san.exporter import Subject
from zolder.san.tgt import Tgt
from zolder.san.tgtd import Tgtd
from zolder.san.tgtplaces import numbers_of

SUBJECT = Subject(DatasetName("data/volumes"), ZvolName("volume-1"), TargetPrefix("iqn.2012-12.org.example:"))
TARGET = "iqn.2012-12.org.example:volume-1"
VOLUME_ID = VolumeId("3f0c6a1e-8d2b-4c5f-a7e0-9b1d2c3f4a5b")
ALICE = InitiatorName("iqn.1993-08.org.debian:alice")
BOB = InitiatorName("iqn.1993-08.org.debian:bob")
CAROL = InitiatorName("iqn.1993-08.org.debian:carol")
PORTAL = Portal("192.0.2.1:3261")
TID, SECOND_TID = numbers_of(SUBJECT.dataset)
# Stands before the accounts of a target, that it never lacks one.
GUARD = f"zolder-guard-{TID}"


def chap_of(initiator: InitiatorName) -> Chap:
    """Return an account that only this initiator has."""
    return Chap(chap_user(TARGET, initiator), f"not-for-any-log-{initiator[-5:]}")


class San:
    """A daemon, a disk and the exporter between them."""

    def __init__(self, folder: Path, daemon: Daemon) -> None:
        """Lay a disk into a folder where the daemon listens."""
        self.daemon = daemon
        self.socket = folder / "socket"
        self.device = folder / "zd16"
        self.device.write_bytes(bytes(4096))
        self.blocks = folder / "block"
        self.queue = self.blocks / "zd16" / "queue"
        self.queue.mkdir(parents=True)
        (self.queue / "physical_block_size").write_text("16384\n")
        (self.queue / "write_zeroes_max_bytes").write_text("0\n")
        self.tgt = self.over(Tgtd(self.socket))

    def over(self, tgtd: Tgtd) -> Tgt:
        """Return an exporter that takes another way to the daemon."""
        return Tgt(tgtd, block_devices=self.blocks, return_seconds=0)

    def ensure(
        self,
        initiator: InitiatorName = ALICE,
        *,
        tgt: Tgt | None = None,
        subject: Subject = SUBJECT,
        portals: tuple[Portal, ...] = (PORTAL,),
        chap: Chap | EllipsisType | None = ...,
        read_only: bool = False,
    ) -> bool:
        """Ask for the export of these tests, with what differs."""
        return (tgt or self.tgt).ensure_export(
            subject,
            device=self.device,
            volume_id=VOLUME_ID,
            portals=portals,
            initiator=initiator,
            chap=chap_of(initiator) if chap is ... else chap,
            read_only=read_only,
        )

    def grow(self, tgt: Tgt | None = None, *, seconds: float = 20) -> None:
        """Have the export of these tests show its device's size."""
        (tgt or self.tgt).grow_export(SUBJECT, device=self.device, seconds=seconds)

    def log_in(self, initiator: InitiatorName, account_of: InitiatorName | None = None) -> str:
        """Log in with one's own or with another's account."""
        chap = chap_of(account_of or initiator)
        return self.daemon.log_in(TARGET, initiator, chap.user, chap.secret)

    def picture(self) -> object:
        """Return all that the daemon keeps, but for the order of what has none."""
        targets = copy.deepcopy(self.daemon.targets)
        accounts = {user: secret for user, secret in self.daemon.accounts.items() if user != GUARD}
        for target in targets.values():
            target.accounts = [user for user in target.accounts if user]
            target.iqns.sort()
        return targets, accounts, GUARD in self.daemon.accounts, list(self.daemon.portals)


@pytest.fixture
def san(tmp_path: Path) -> Iterator[San]:
    """Return a SAN whose daemon was not killed in the end."""
    with serve(tmp_path / "socket", Daemon()) as daemon:
        yield San(tmp_path, daemon)
    assert not daemon.dead
