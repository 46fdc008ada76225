"""Carries an image as the driver does: ``image_carrier.py write|read IMAGE DEVICE REPORT`` says what it took.

IMAGE is the raw file, DEVICE that of the agent (tests.support.file_agent), a child of this process. Prints
the most memory that this process has had resident, in bytes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.contract.ground import PARENT
from tests.support.file_agent import ZVOL, peak_bytes
from zolder.cinder.imagefile import ImageSink, ImageSource
from zolder.client.local import LocalAgent
from zolder.client.pool import Pool
from zolder.client.remote import RemoteStorage


def main(way: str, image: str, device: str, report: str) -> None:
    """Carry it once."""
    agent = LocalAgent((sys.executable, "-m", "tests.support.file_agent", device, report))
    pool = Pool(agent, max_channels=1)
    storage = RemoteStorage(pool, deadline_seconds=60)
    descriptor = os.open(image, os.O_RDWR | os.O_CREAT, 0o600)
    if way == "write":
        storage.write_zvol(PARENT, ZVOL, ImageSource(descriptor, "image"))
    else:
        storage.read_zvol(PARENT, ZVOL, ImageSink(descriptor, "image", Path(device).stat().st_size))
    os.close(descriptor)
    pool.close()
    sys.stdout.write(str(peak_bytes()))


if __name__ == "__main__":
    main(*sys.argv[1:])
