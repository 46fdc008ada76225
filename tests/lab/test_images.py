"""Images on real ZFS: both ways through the driver, over data of before, and lines that are cut midway."""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.contract.ground import MIB, PARENT
from tests.support.imageservice import IMAGE, ImageService
from tests.support.labdriver import ADMIN, lab_driver, new_volume
from tests.support.memory import MemorySink, MemorySource, random_bytes, whole
from tests.support.san import connected
from zolder.errors import Busy
from zolder.frames import Frame
from zolder.model import Zvol
from zolder.names import SnapshotName, VolumeId, ZvolName

if TYPE_CHECKING:
    from cinder import objects

    from lab import Lab
    from zolder.cinder.driver import ZolderDriver
    from zolder.client.remote import RemoteStorage

GIB = 2**30
# 12 MiB and some bytes in an image of 64 MiB and 512 bytes.
PIECES = {
    0: random_bytes(100, 1),
    3 * MIB - 5000: random_bytes(4 * MIB + 10_000, 2),
    40 * MIB: random_bytes(8 * MIB, 3),
}
IMAGE_BYTES = 64 * MIB + 512
DATA_BYTES = sum(len(piece) for piece in PIECES.values())
ZVOL_BYTES = 96 * MIB
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def driver(
    lab: Lab, storage: RemoteStorage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ZolderDriver]:
    """The driver as cinder-volume has it, on the lab's SAN; Cinder looks at formats in this process."""
    del storage  # its reset comes first
    with lab_driver(lab, tmp_path_factory.mktemp("state")) as found:
        yield found


@pytest.fixture
def volume(driver: ZolderDriver) -> Iterator[objects.Volume]:
    """A volume of 1 GiB that has just been created."""
    made = new_volume()
    driver.create_volume(made)
    yield made
    driver.delete_volume(made)


@pytest.fixture
def zvol(storage: RemoteStorage) -> Iterator[Zvol]:
    """A sparse zvol."""
    name = ZvolName(f"volume-contents-{next(_numbers)}")
    made = storage.create_zvol(
        PARENT, name, volume_id=VolumeId(str(uuid.uuid4())), volsize_bytes=ZVOL_BYTES, sparse=True
    ).value
    yield made
    storage.delete_zvol(PARENT, name)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> ImageService:
    """An image as qcow2."""
    folder = tmp_path_factory.mktemp("image")
    raw, path = folder / "image.raw", folder / "image.qcow2"
    with raw.open("wb") as file:
        for begin, data in PIECES.items():
            file.seek(begin)
            file.write(data)
        file.truncate(IMAGE_BYTES)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(path)], check=True)
    return ImageService(path, "qcow2")


def checksum(lab: Lab, dataset: str, length: int) -> str:
    """Return the SHA-256 of a zvol's first bytes, as the SAN reads them."""
    return lab.san.succeed(f"head -c {length} /dev/zvol/{dataset} | sha256sum").split()[0]


def is_zeros(lab: Lab, dataset: str, begin_mib: int, count_mib: int) -> bool:
    """Say whether so much of a zvol is zeros."""
    read = f"dd if=/dev/zvol/{dataset} bs=1M skip={begin_mib} count={count_mib} status=none"
    return lab.san.run(f"{read} | cmp -n {count_mib * MIB} - /dev/zero").exit_status == 0


def referenced(lab: Lab, dataset: str) -> int:
    """Return the bytes that a zvol has allocated."""
    lab.san.succeed("zpool sync data")
    return int(lab.san.succeed(f"zfs get -Hpo value referenced {dataset}"))


def carried(caplog: pytest.LogCaptureFixture) -> int:
    """Return how many MiB the last line in the log says were carried."""
    [*_, last] = [text for text in caplog.messages if " MiB carried in " in text]
    assert "100 %" in last
    found = re.search(r"(\d+) MiB carried", last)
    assert found
    return int(found[1])


def test_an_image_costs_what_is_in_it(
    lab: Lab,
    driver: ZolderDriver,
    volume: objects.Volume,
    image: ImageService,
    caplog: pytest.LogCaptureFixture,
    note: Callable[[str], None],
) -> None:
    """It arrives byte for byte, zeros behind it; what was sent and what is allocated is what it has."""
    dataset = f"{PARENT}/{volume.name}"
    began = time.monotonic()
    with caplog.at_level(logging.INFO, logger="zolder"):
        driver.copy_image_to_volume(ADMIN, volume, image, IMAGE)
    seconds = time.monotonic() - began
    assert checksum(lab, dataset, 65 * MIB) == hashlib.sha256(whole(PIECES, 65 * MIB)).hexdigest()
    assert is_zeros(lab, dataset, 65, 32)
    used = referenced(lab, dataset)
    note(f"{DATA_BYTES} bytes of data: {carried(caplog)} MiB sent, {used} bytes allocated, {seconds:.1f} s")
    assert carried(caplog) * MIB <= DATA_BYTES + MIB
    # Pieces begin and end within the zvol's blocks, and there are metadata.
    assert DATA_BYTES <= used <= DATA_BYTES + 4 * MIB


def test_a_reimage_leaves_nothing_of_before(
    lab: Lab, driver: ZolderDriver, volume: objects.Volume, image: ImageService
) -> None:
    """Over random data at its beginning and its end the volume is the image alone, and space comes back."""
    dataset = f"{PARENT}/{volume.name}"
    fill = f"dd if=/dev/urandom of=/dev/zvol/{dataset} bs=1M count=70 conv=fsync status=none"
    lab.san.wait_until(f"test -b /dev/zvol/{dataset}", 30, "udev's link")
    lab.san.succeed(f"{fill} && {fill.replace('count=70', 'count=8')} seek=1016")
    assert referenced(lab, dataset) > 78 * MIB
    driver.copy_image_to_volume(ADMIN, volume, image, IMAGE, disable_sparse=True)
    assert checksum(lab, dataset, 65 * MIB) == hashlib.sha256(whole(PIECES, 65 * MIB)).hexdigest()
    assert is_zeros(lab, dataset, 65, 32)
    assert is_zeros(lab, dataset, 1000, 24)
    assert referenced(lab, dataset) <= DATA_BYTES + 4 * MIB


def test_a_volume_becomes_an_image(
    lab: Lab,
    driver: ZolderDriver,
    volume: objects.Volume,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is uploaded is what the SAN reads, and zeros do not go over the channel."""
    dataset = f"{PARENT}/{volume.name}"
    lab.san.wait_until(f"test -b /dev/zvol/{dataset}", 30, "udev's link")
    lab.san.succeed(
        f"for at in 0 5 90; do dd if=/dev/urandom of=/dev/zvol/{dataset} bs=1M count=3 seek=$at conv=fsync"
        " status=none; done"
    )
    uploaded = ImageService(tmp_path / "uploaded", "raw")
    with caplog.at_level(logging.INFO, logger="zolder"):
        driver.copy_volume_to_image(ADMIN, volume, uploaded, uploaded.meta)
    assert uploaded.path.stat().st_size == GIB
    assert carried(caplog) == 9
    digest = hashlib.sha256()
    with uploaded.path.open("rb") as file:
        digest.update(file.read(96 * MIB))
        assert not any(file.read())
    assert digest.hexdigest() == checksum(lab, dataset, 96 * MIB)


class Meddling(MemorySource):
    """A source that does something once, when so much was sent."""

    def __init__(self, data: bytes, at: int, deed: Callable[[], None]) -> None:
        """Take one piece."""
        super().__init__({0: data})
        self._at = at
        self._deed: Callable[[], None] | None = deed

    def frames(self, limit_bytes: int) -> Iterator[Frame]:
        """See ``Source``."""
        for frame in super().frames(limit_bytes):
            yield frame
            if self._deed and frame.offset_bytes >= self._at:
                deed, self._deed = self._deed, None
                deed()


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_a_line_that_is_cut(lab: Lab, storage: RemoteStorage, zvol: Zvol, signal: str) -> None:
    """Cut in the middle it goes on behind what lies safe, and clears nothing of that."""
    data = random_bytes(ZVOL_BYTES)
    # Answered or not, all that runs there as that user is gone, this machine's other channels too.
    source = Meddling(data, 70 * MIB, lambda: void(lab.san.run(f"pkill -{signal} -u zolder")))
    assert storage.write_zvol(PARENT, zvol.name, source).changed
    assert checksum(lab, f"{PARENT}/{zvol.name}", ZVOL_BYTES) == hashlib.sha256(data).hexdigest()
    assert ZVOL_BYTES < source.sent_bytes <= ZVOL_BYTES + 70 * MIB
    assert source.acknowledged == sorted(source.acknowledged)
    note = lab.san.succeed(f"zfs get -Hpo value zolder:contents {PARENT}/{zvol.name}")
    assert note.endswith(" written\n")


def void(_: object) -> None:
    """Return nothing."""


def test_a_read_that_is_cut(lab: Lab, storage: RemoteStorage, zvol: Zvol) -> None:
    """It goes on where it was."""
    data = random_bytes(ZVOL_BYTES, 5)
    storage.write_zvol(PARENT, zvol.name, MemorySource({0: data}))

    class Cutting(MemorySink):
        is_cut = False

        def put(self, frame: Frame) -> None:
            super().put(frame)
            if not self.is_cut and self.position > 20 * MIB:
                self.is_cut = True
                lab.san.run("pkill -KILL -u zolder")

    sink = Cutting()
    assert storage.read_zvol(PARENT, zvol.name, sink) == ZVOL_BYTES
    assert sink.contents == data
    assert sink.data_bytes == ZVOL_BYTES


def test_what_others_are_told_meanwhile(lab: Lab, storage: RemoteStorage, zvol: Zvol) -> None:
    """While a zvol is written, what would change it is refused at once, and what only looks is answered."""
    refused: list[float] = []

    def meddle() -> None:
        for attempt in (
            lambda: storage.delete_zvol(PARENT, zvol.name),
            lambda: storage.create_snapshot(PARENT, zvol.name, SnapshotName("snapshot-1")),
            lambda: storage.grow_zvol(PARENT, zvol.name, volsize_bytes=2 * ZVOL_BYTES),
        ):
            began = time.monotonic()
            with pytest.raises(Busy, match="is being written to"):
                attempt()
            refused.append(time.monotonic() - began)
        assert storage.get_zvol(PARENT, zvol.name) == zvol
        # Who else wants to write it has a claim on the device to come by as well.
        assert lab.san.run(
            f"dd if=/dev/zero of=/dev/zvol/{PARENT}/{zvol.name} oflag=excl count=1"
        ).exit_status

    data = random_bytes(ZVOL_BYTES)
    storage.write_zvol(PARENT, zvol.name, Meddling(data, 20 * MIB, meddle))
    assert len(refused) == 3
    assert max(refused) < 10
    assert checksum(lab, f"{PARENT}/{zvol.name}", ZVOL_BYTES) == hashlib.sha256(data).hexdigest()


def test_who_went_away_holds_nothing(lab: Lab, zvol: Zvol) -> None:
    """A client that goes in the middle leaves a zvol that others may have at once, and that is theirs."""

    class Gone(Exception):
        pass

    def leave() -> None:
        raise Gone

    with connected(lab) as first:
        with pytest.raises(Gone):
            first.write_zvol(PARENT, zvol.name, Meddling(random_bytes(ZVOL_BYTES), 20 * MIB, leave))
        data = random_bytes(8 * MIB, 6)
        began = time.monotonic()
        first.write_zvol(PARENT, zvol.name, MemorySource({0: data}))
        assert time.monotonic() - began < 60
    dataset = f"{PARENT}/{zvol.name}"
    assert checksum(lab, dataset, 8 * MIB) == hashlib.sha256(data).hexdigest()
    assert is_zeros(lab, dataset, 8, 88)


def test_a_zvol_that_a_process_holds(lab: Lab, storage: RemoteStorage, zvol: Zvol) -> None:
    """Who holds it on the SAN is named, and it is not written."""
    dataset = f"{PARENT}/{zvol.name}"
    lab.san.wait_until(f"test -b /dev/zvol/{dataset}", 30, "udev's link")
    lab.san.succeed(f"sleep 300 </dev/zvol/{dataset} >/dev/null 2>&1 & echo $! >/run/holder")
    try:
        with pytest.raises(Busy, match=r"process \d+ \(sleep\)"):
            storage.write_zvol(PARENT, zvol.name, MemorySource({0: random_bytes(MIB)}))
    finally:
        lab.san.succeed("kill $(cat /run/holder)")
