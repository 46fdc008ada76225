"""An agent whose one zvol has a file for its device: the real loop, carrying and blocks above it.

``file_agent.py DEVICE REPORT``: how much memory it had at most, in bytes, goes to a file at its end.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.contract.ground import MIB, PARENT
from tests.support.fake_agent import nobody
from zolder.fake import FakeStorage
from zolder.frames import Sink, Source
from zolder.model import Change
from zolder.names import DatasetName, Identity, VolumeId, ZvolName
from zolder.san.agent import Agent
from zolder.san.blocks import Blocks
from zolder.san.channel import Channel
from zolder.san.policy import Policy
from zolder.san.serve import serve

ZVOL = ZvolName("volume-1")


class FileStorage(FakeStorage):
    """A SAN in memory, but for the contents of its zvol."""

    def __init__(self, device: Path) -> None:
        """Have one zvol, as large as the file."""
        super().__init__((PARENT,))
        self._device = device
        self._size = device.stat().st_size // MIB * MIB
        volume_id = VolumeId("00000000-0000-4000-8000-000000000001")
        self.create_zvol(PARENT, ZVOL, volume_id=volume_id, volsize_bytes=self._size, sparse=True)

    def write_zvol(self, parent: DatasetName, zvol: ZvolName, source: Source) -> Change[None]:
        """Write the file as the device of a zvol is written."""
        descriptor = os.open(self._device, os.O_WRONLY)
        Blocks(descriptor, f"{parent}/{zvol}", self._size).write(source)
        os.close(descriptor)
        return Change(changed=True, value=None)

    def read_zvol(self, parent: DatasetName, zvol: ZvolName, sink: Sink) -> int:
        """Read it so."""
        descriptor = os.open(self._device, os.O_RDONLY)
        Blocks(descriptor, f"{parent}/{zvol}", self._size).read(sink)
        os.close(descriptor)
        return self._size


def peak_bytes(process: str = "self") -> int:
    """Return the most memory that a process has had resident: VmHWM in proc(5).

    Not getrusage(2): that counts what was resident before the program was started, too.
    """
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def main(device: str, report: str) -> None:
    """Serve until standard input ends."""
    storage = FileStorage(Path(device))
    policy = Policy(Identity("lab"), parents=(PARENT,))
    agent = Agent(lambda: policy, storage_for=lambda _, __: storage, zfs_version=lambda: "fake")
    serve(Channel(sys.stdin.fileno(), sys.stdout.fileno()), agent, record=nobody)
    Path(report).write_text(str(peak_bytes()))


if __name__ == "__main__":
    main(*sys.argv[1:])
