"""Images to volumes and back on the fake SAN, with Cinder's own helpers and real files by qemu-img."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import cinder.privsep
import pytest
from cinder import context, exception, objects

from tests.driver.conftest import PARENT, new_volume
from tests.support.imageservice import IMAGE, ImageService
from tests.support.memory import random_bytes, whole
from zolder.cinder.driver import ZolderDriver
from zolder.fake import FakeStorage
from zolder.fake_state import BLOCK_BYTES

MIB = 2**20
GIB = 2**30
ADMIN = context.get_admin_context()
# The first byte, holes, across a mebibyte, and an end within a block.
PIECES = {0: b"\x01" * 100, 3 * MIB - 5000: random_bytes(10_000, 1), 40 * MIB: random_bytes(2 * MIB, 2)}


@pytest.fixture(autouse=True)
def in_process() -> Iterator[None]:
    """Cinder looks at a format in a process that it starts by sudo; here it does so in this one."""
    cinder.privsep.sys_admin_pctxt.set_client_mode(False)
    yield
    cinder.privsep.sys_admin_pctxt.set_client_mode(True)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A sparse raw image whose size is no multiple of a block."""
    path = tmp_path / "image.raw"
    with path.open("wb") as file:
        for begin, data in PIECES.items():
            file.seek(begin)
            file.write(data)
        file.truncate(64 * MIB + 512)
    return path


@pytest.fixture
def volume(driver: ZolderDriver) -> objects.Volume:
    """A volume of 1 GiB that has just been created."""
    made = new_volume()
    driver.create_volume(made)
    return made


def contents(san: FakeStorage, volume: objects.Volume) -> bytes:
    """Return what a volume has in it, up to 64 MiB and a bit; behind that it has nothing."""
    blocks = san.read_blocks(f"{PARENT}/{volume.name}")
    assert all(number < 65 * MIB // BLOCK_BYTES for number in blocks)
    return whole({number * BLOCK_BYTES: data for number, data in blocks.items()}, 65 * MIB)


def converted(path: Path, disk_format: str, *options: str) -> Path:
    """Return an image in another format."""
    target = path.with_suffix(f".{disk_format}")
    command = ["qemu-img", "convert", "-f", "raw", "-O", disk_format, *options, str(path), str(target)]
    subprocess.run(command, check=True)
    return target


def empty(folder: Path, length: int) -> Path:
    """Return an image that has a size and no data."""
    path = folder / "empty.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(length)], check=True)
    return path


@pytest.mark.parametrize("disk_format", ["raw", "qcow2", "vmdk", "vdi", "vhdx"])
def test_an_image_becomes_a_volume(
    driver: ZolderDriver, san: FakeStorage, volume: objects.Volume, raw: Path, disk_format: str
) -> None:
    """Every format that Cinder takes arrives byte for byte, and all behind it is zeros."""
    path = raw if disk_format == "raw" else converted(raw, disk_format)
    driver.copy_image_to_volume(ADMIN, volume, ImageService(path, disk_format), IMAGE)
    assert contents(san, volume) == whole(PIECES, 65 * MIB)


@pytest.mark.parametrize("disable_sparse", [True, False])
def test_a_volume_that_had_data_is_the_image_alone(
    driver: ZolderDriver, san: FakeStorage, volume: objects.Volume, raw: Path, *, disable_sparse: bool
) -> None:
    """Nothing of what a reimaged volume had before shines through, whatever Cinder says of it."""
    dataset = f"{PARENT}/{volume.name}"
    for number in range(0, 65 * MIB // BLOCK_BYTES, 3):
        san.write_block(dataset, number, b"\xff" * BLOCK_BYTES)
    service = ImageService(raw, "raw")
    driver.copy_image_to_volume(ADMIN, volume, service, IMAGE, disable_sparse=disable_sparse)
    assert contents(san, volume) == whole(PIECES, 65 * MIB)


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_a_volume_becomes_an_image(
    driver: ZolderDriver, volume: objects.Volume, raw: Path, tmp_path: Path, disk_format: str
) -> None:
    """What is uploaded is the volume, in the format that was asked for; zeros take no room on the way."""
    driver.copy_image_to_volume(ADMIN, volume, ImageService(raw, "raw"), IMAGE)
    volume.volume_type = objects.VolumeType(extra_specs={})
    volume.glance_metadata = {}
    uploaded = ImageService(tmp_path / "uploaded", disk_format)
    driver.copy_volume_to_image(ADMIN, volume, uploaded, uploaded.meta)
    back = tmp_path / "back.raw"
    subprocess.run(
        ["qemu-img", "convert", "-f", disk_format, "-O", "raw", str(uploaded.path), str(back)], check=True
    )
    assert back.stat().st_size == GIB
    with back.open("rb") as file:
        assert file.read(65 * MIB) == whole(PIECES, 65 * MIB)
    assert back.stat().st_blocks * 512 < 8 * MIB


def test_clones_are_left_to_cinder(driver: ZolderDriver, volume: objects.Volume) -> None:
    """The driver clones no image by itself: Cinder checks whose it is first."""
    assert driver.clone_image(ADMIN, volume, ("cinder://x", None), {"id": IMAGE}, None) == (None, False)


def test_nothing_is_left_behind(
    driver: ZolderDriver, volume: objects.Volume, raw: Path, tmp_path: Path
) -> None:
    """Temporary files go with the copy, and with one that failed."""
    driver.copy_image_to_volume(ADMIN, volume, ImageService(raw, "raw"), IMAGE)
    driver.delete_volume(volume)
    with pytest.raises(exception.VolumeBackendAPIException, match="does not exist"):
        driver.copy_image_to_volume(ADMIN, volume, ImageService(raw, "raw"), IMAGE)
    assert [path for path in (tmp_path / "conversion").rglob("*") if path.is_file()] == []


class TestRefused:
    """What Cinder's own helpers refuse before a byte goes to the SAN."""

    @pytest.fixture(autouse=True)
    def untouched(self, san: FakeStorage, volume: objects.Volume) -> Iterator[None]:
        """The volume has nothing in it afterwards."""
        yield
        assert san.read_blocks(f"{PARENT}/{volume.name}") == {}

    def test_a_backing_file(self, driver: ZolderDriver, volume: objects.Volume, tmp_path: Path) -> None:
        """An image whose header names a file of this control node is refused."""
        path = tmp_path / "attack.qcow2"
        secret = tmp_path / "secret"
        secret.write_bytes(b"keep" * 128 * 1024)
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(secret), "-F", "raw", str(path)], check=True
        )
        with pytest.raises(exception.Invalid):
            driver.copy_image_to_volume(ADMIN, volume, ImageService(path, "qcow2"), IMAGE)

    def test_another_format_than_is_said(
        self, driver: ZolderDriver, volume: objects.Volume, raw: Path
    ) -> None:
        """An image that claims to be raw and is qcow2 is refused."""
        path = converted(raw, "qcow2")
        with pytest.raises(exception.ImageUnacceptable, match="different format"):
            driver.copy_image_to_volume(ADMIN, volume, ImageService(path, "raw"), IMAGE)

    def test_larger_than_the_volume(
        self, driver: ZolderDriver, volume: objects.Volume, tmp_path: Path
    ) -> None:
        """An image that does not fit is refused with both sizes."""
        path = empty(tmp_path, GIB + 512)
        with pytest.raises(exception.ImageUnacceptable, match="2GB and doesn't fit in a volume of size 1GB"):
            driver.copy_image_to_volume(ADMIN, volume, ImageService(path, "qcow2"), IMAGE)


def test_progress_is_in_the_log(
    driver: ZolderDriver,
    volume: objects.Volume,
    raw: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line says how far an image has come, and the last that it is whole and what it cost."""
    monkeypatch.setattr("zolder.cinder.imagefile._LEAST_SECONDS", -1.0)
    with caplog.at_level(logging.INFO, logger="zolder"):
        driver.copy_image_to_volume(ADMIN, volume, ImageService(raw, "raw"), IMAGE)
    lines = [text for text in caplog.messages if text.startswith(f"Image {IMAGE} to volume {volume.id}: ")]
    assert len(lines) >= 2
    assert "100 % (64 of 64 MiB), 2 MiB carried" in lines[-1]


class TestEncrypted:
    """Volumes whose type encrypts, as LUKS that qemu-img makes without the kernel."""

    @pytest.fixture(autouse=True)
    def key(self, monkeypatch: pytest.MonkeyPatch) -> bytes:
        """The volume's key, and what Cinder knows of its encryption."""
        key = random_bytes(32, 11)

        class KeyManager:
            def get(self, _: object, key_id: str) -> KeyManager:
                assert key_id == "the-key"
                return self

            def get_encoded(self) -> bytes:
                return key

        encryption = {
            "provider": "luks",
            "cipher": "aes-xts-plain64",
            "key_size": 256,
            "encryption_key_id": "the-key",
        }
        monkeypatch.setattr("castellan.key_manager.API", lambda _: KeyManager())
        monkeypatch.setattr("cinder.db.api.volume_encryption_metadata_get", lambda *_: dict(encryption))
        return key

    def test_an_image_becomes_luks(
        self,
        driver: ZolderDriver,
        san: FakeStorage,
        volume: objects.Volume,
        raw: Path,
        tmp_path: Path,
        key: bytes,
    ) -> None:
        """What is on the SAN is LUKS, opens with the volume's key, and is the image; no file is left."""
        driver.copy_image_to_encrypted_volume(ADMIN, volume, ImageService(raw, "raw"), IMAGE)
        blocks = san.read_blocks(f"{PARENT}/{volume.name}")
        encrypted = tmp_path / "encrypted"
        size = (max(blocks) + 1) * BLOCK_BYTES
        encrypted.write_bytes(whole({number * BLOCK_BYTES: data for number, data in blocks.items()}, size))
        assert encrypted.read_bytes()[:4] == b"LUKS"
        secret = tmp_path / "secret"
        secret.write_text(key.hex())
        back = tmp_path / "back.raw"
        opened = f"driver=luks,key-secret=s,file.filename={encrypted}"
        command = ["qemu-img", "convert", "--object", f"secret,id=s,file={secret}", "--image-opts", opened]
        subprocess.run([*command, "-O", "raw", str(back)], check=True)
        assert back.read_bytes()[: 64 * MIB] == whole(PIECES, 65 * MIB)[: 64 * MIB]
        assert [path for path in (tmp_path / "conversion").rglob("*") if path.is_file()] == []

    @pytest.mark.parametrize("length", [GIB, GIB - 400 * 1024])
    def test_one_that_the_header_makes_too_large(
        self, driver: ZolderDriver, san: FakeStorage, volume: objects.Volume, tmp_path: Path, length: int
    ) -> None:
        """An image as large as the volume does not fit with LUKS's header, and the error says what does."""
        path = empty(tmp_path, length)
        with pytest.raises(exception.ImageUnacceptable, match="make the volume 1 GiB larger"):
            driver.copy_image_to_encrypted_volume(ADMIN, volume, ImageService(path, "qcow2"), IMAGE)
        assert san.read_blocks(f"{PARENT}/{volume.name}") == {}


def test_attached_where_that_is_wished(
    make_driver: Callable[..., ZolderDriver], raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With zolder_image_transfer = attach each of the three is Cinder's own, through an attachment."""
    driver = make_driver("zolder_image_transfer = attach")
    volume = new_volume()
    driver.create_volume(volume)
    asked: list[str] = []

    def refuse(*_: object) -> None:
        asked.append("attach")
        raise exception.VolumeDriverException(message="no initiator here")

    monkeypatch.setattr(driver, "_attach_volume", refuse)
    monkeypatch.setattr("cinder.volume.volume_utils.brick_get_connector_properties", lambda *_: {})
    service = ImageService(raw, "raw")
    attempts: tuple[Callable[[], object], ...] = (
        lambda: driver.copy_image_to_volume(ADMIN, volume, service, IMAGE),
        lambda: driver.copy_image_to_encrypted_volume(ADMIN, volume, service, IMAGE),
        lambda: driver.copy_volume_to_image(ADMIN, volume, service, service.meta),
    )
    for attempt in attempts:
        with pytest.raises(exception.VolumeDriverException, match="no initiator here"):
            attempt()
    assert len(asked) == 3
