"""What a second volume of an image costs with Cinder's image-volume cache, and whether LUKS is right.

Contents are compared by a checksum that the SAN takes of the zvol's device; what came over its line is what
its card has counted, with all else that the SAN was told meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from lab.cloud import cinder, glance
from lab.cloud.arrangement import DATA, FIXED_KEY
from lab.cloud.cloud import Cloud
from lab.errors import LabError
from lab.machine import Machine
from lab.waiting import wait_until

MIB = 2**20
IMAGE_BYTES = 24 * MIB
MADE_SECONDS = 300.0
# Everything else that a SAN is told while a volume is made.
NOISE_BYTES = MIB
# What qemu-img's header of LUKS may take in front of the data.
HEADER_BYTES = 8 * MIB


def image(cloud: Cloud) -> list[str]:
    """Make volumes from an image, and return what was seen, a line each.

    :raises LabError: contents differ, or the second took as long a way as the first.
    """
    api, san = cinder.api_client(cloud.identity), cloud.lab.san
    data = os.urandom(IMAGE_BYTES)
    uploaded = glance.upload_image(cloud.ground, cloud.identity.session, data)
    # The cache is a pool's own, and a clone stays in its source's.
    kind = api.volume_types.create(cloud.cinder.arrangement.image_type)
    kind.set_keys({"pool_name": DATA})
    how = {"imageRef": uploaded, "volume_type": kind.id}
    first, seconds, carried = make_volume(api, san, **how)
    lines = [
        f"first volume of an image of {IMAGE_BYTES // MIB} MiB: {seconds:.1f} s, {carried} bytes to the SAN"
    ]
    _compare(san, first, data)
    second, seconds, carried = make_volume(api, san, **how)
    _compare(san, second, data)
    place = dataset_of(second)
    origin = origin_of(san, second)
    if origin == "-" or carried > NOISE_BYTES:
        raise LabError(f"{place} is a clone of {origin}, and {carried} bytes were carried for it")
    lines.append(
        f"second one: {seconds:.1f} s, {carried} bytes to the SAN; a clone of {origin.rpartition('/')[2]}"
    )
    lines.append("both have the image's SHA-256")
    return [*lines, _encrypted(api, san, uploaded, data)]


def _encrypted(api: Any, san: Machine, uploaded: str, data: bytes) -> str:  # noqa: ANN401 - no types
    kind = api.volume_types.create("encrypted")
    api.volume_encryption_types.create(
        kind.id,
        {
            "provider": "luks",
            "cipher": "aes-xts-plain64",
            "key_size": 256,
            "control_location": "front-end",
        },
    )
    volume, seconds, _ = make_volume(api, san, imageRef=uploaded, volume_type=kind.id)
    with tempfile.TemporaryDirectory() as folder:
        container, opened, secret = (Path(folder) / name for name in ("luks", "raw", "secret"))
        count = (IMAGE_BYTES + HEADER_BYTES) // MIB
        read = f"dd if=/dev/zvol/{dataset_of(volume)} bs=1M count={count} status=none | base64"
        decode = subprocess.run(
            ["base64", "-d"], input=san.succeed(read).encode(), capture_output=True, check=True
        )
        container.write_bytes(decode.stdout)
        if not decode.stdout.startswith(b"LUKS\xba\xbe"):
            raise LabError(f"{dataset_of(volume)} does not begin as LUKS does")
        if data[:512] in decode.stdout:
            raise LabError(f"{dataset_of(volume)} has the image in clear")
        secret.touch(mode=0o600)
        secret.write_text(FIXED_KEY)
        subprocess.run(
            ["qemu-img", "convert", "--object", f"secret,id=key,file={secret}", "--image-opts",
             f"driver=luks,key-secret=key,file.driver=file,file.filename={container}",
             "-O", "raw", str(opened)],
            check=True,
        )  # fmt: skip
        with opened.open("rb") as plain:
            if plain.read(IMAGE_BYTES) != data:
                raise LabError(f"what {dataset_of(volume)} has inside LUKS is not the image")
    return f"an encrypted one: {seconds:.1f} s; LUKS on the SAN, and the image inside"


def make_volume(api: Any, san: Machine, **how: str) -> tuple[Any, float, int]:  # noqa: ANN401 - no types
    """Return a volume of 1 GiB, how long it took, and what the SAN received meanwhile."""
    before, began = count_received(san), time.monotonic()
    volume = api.volumes.create(1, **how)

    def is_made() -> Any:  # noqa: ANN401 - ditto
        found = api.volumes.get(volume.id)
        if found.status.startswith("error"):
            raise LabError(f"a volume with {how} came to {found.status}")
        return found if found.status == "available" else None

    made = wait_until(is_made, MADE_SECONDS, "a volume", interval_seconds=0.2)
    seconds = time.monotonic() - began
    return made, seconds, count_received(san) - before


def count_received(san: Machine) -> int:
    """Return how many bytes have come to the SAN since it started."""
    counted = san.succeed("cat /sys/class/net/[!l]*/statistics/rx_bytes")
    return sum(int(word) for word in counted.split())


def origin_of(san: Machine, volume: object) -> str:
    """Return the snapshot of which ZFS has a volume's zvol as a clone; "-" if it is none."""
    return san.succeed(["zfs", "get", "-H", "-o", "value", "origin", dataset_of(volume)]).strip()


def dataset_of(volume: Any) -> str:  # noqa: ANN401 - no types
    """Return the zvol of a volume in one of its back end's pools, from what Cinder says of it."""
    pool = str(getattr(volume, "os-vol-host-attr:host")).partition("#")[2]
    return f"{pool}/volume-{volume.id}"


def _compare(san: Machine, volume: object, data: bytes) -> None:
    read = f"dd if=/dev/zvol/{dataset_of(volume)} bs=1M count={len(data) // MIB} status=none | sha256sum"
    if san.succeed(read).split()[0] != hashlib.sha256(data).hexdigest():
        raise LabError(f"{dataset_of(volume)} does not begin with its image")
