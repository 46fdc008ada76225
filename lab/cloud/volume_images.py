"""What an image costs that is a volume: Cinder's own path, by `cinder://` locations.

A volume that is uploaded is cloned inside the SAN, and Glance is told of the clone; a volume of that image
is a clone of it again. The source is changed before it is uploaded: nothing else has its contents.
"""

from __future__ import annotations

import os
import time
from typing import Any

from cinderclient import exceptions

from lab.cloud import cinder, glance
from lab.cloud.cloud import Cloud
from lab.cloud.imaging import (
    IMAGE_BYTES,
    MADE_SECONDS,
    NOISE_BYTES,
    count_received,
    dataset_of,
    make_volume,
    origin_of,
)
from lab.errors import LabError
from lab.machine import Machine
from lab.waiting import wait_until

CHANGE = "dd if=/dev/urandom of={node} bs=1M count=3 seek=8 oflag=direct conv=fsync,notrunc status=none"
# Under emulation the SAN reads and hashes some 20 MiB a second.
HASH_SECONDS = 300.0


def upload_and_clone(cloud: Cloud) -> list[str]:
    """Upload a volume, make one of its image, delete the image, and return what was seen, a line each.

    The type of such volumes is there (`lab.cloud.imaging.image`).

    :raises LabError: data were carried, contents differ, or the image's volume stayed.
    """
    api, san, session = cinder.api_client(cloud.identity), cloud.lab.san, cloud.identity.session
    kind = api.volume_types.find(name=cloud.cinder.arrangement.image_type).id
    filled = glance.upload_image(cloud.ground, session, os.urandom(IMAGE_BYTES))
    source, _, _ = make_volume(api, san, imageRef=filled, volume_type=kind)
    was = _hash(san, source)
    san.succeed(CHANGE.format(node=f"/dev/zvol/{dataset_of(source)}"))
    wanted = _hash(san, source)
    if wanted == was:
        raise LabError(f"{dataset_of(source)} is as its image: nothing is compared")

    image, seconds, carried = _upload(cloud, api, source)
    (location,) = glance.locations_of(cloud.ground, session, image)
    if not location.startswith("cinder://"):
        raise LabError(f"the image of volume {source.id} is at {location}")
    held = api.volumes.get(location.rpartition("/")[2])
    _check_clone(san, held, source, carried)
    lines = [f"a volume uploaded: {seconds:.1f} s, {carried} bytes to the SAN; {location}, a clone of it"]

    copy, seconds, carried = make_volume(api, san, imageRef=image, volume_type=kind)
    _check_clone(san, copy, held, carried)
    _check_hash(san, copy, wanted)
    lines.append(
        f"a volume of that image: {seconds:.1f} s, {carried} bytes to the SAN; a clone of the image's"
    )
    lines.append("it has the source's SHA-256, all of it")

    glance.delete_image(cloud.ground, session, image)
    wait_until(lambda: _is_gone(api, held.id), MADE_SECONDS, f"volume {held.id} to go with its image {image}")
    _check_hash(san, copy, wanted)
    lines.append("the image deleted: Cinder has its volume no more, and the one made of it is as before")
    return lines


def _upload(cloud: Cloud, api: Any, volume: Any) -> tuple[str, float, int]:  # noqa: ANN401 - no types
    """Return the id of an image made of a volume, how long it took, and what the SAN received meanwhile."""
    before, began = count_received(cloud.lab.san), time.monotonic()
    _, answer = api.volumes.upload_to_image(
        volume, force=False, image_name="a volume", container_format="bare", disk_format="raw",
        visibility="private", protected=False,
    )  # fmt: skip
    image = str(answer["os-volume_upload_image"]["image_id"])

    def is_uploaded() -> bool:
        status = api.volumes.get(volume.id).status
        if status.startswith("error"):
            raise LabError(f"volume {volume.id}, which was uploaded, came to {status}")
        # Glance takes the location after it has answered Cinder.
        return (
            status == "available"
            and glance.status_of(cloud.ground, cloud.identity.session, image) == "active"
        )

    wait_until(is_uploaded, MADE_SECONDS, f"image {image} to be active", interval_seconds=0.2)
    seconds = time.monotonic() - began
    return image, seconds, count_received(cloud.lab.san) - before


def _check_clone(san: Machine, clone: object, source: object, carried: int) -> None:
    origin = origin_of(san, clone)
    if origin.partition("@")[0] != dataset_of(source) or carried > NOISE_BYTES:
        raise LabError(
            f"{dataset_of(clone)} is a clone of {origin}, not of {dataset_of(source)}, or was carried:"
            f" {carried} bytes"
        )


def _check_hash(san: Machine, volume: object, wanted: str) -> None:
    if (found := _hash(san, volume)) != wanted:
        raise LabError(f"{dataset_of(volume)} has the SHA-256 {found}, and its source {wanted}")


def _hash(san: Machine, volume: object) -> str:
    """Return the SHA-256 of all of a volume's zvol."""
    return san.succeed(f"sha256sum /dev/zvol/{dataset_of(volume)}", timeout_seconds=HASH_SECONDS).split()[0]


def _is_gone(api: Any, volume: str) -> bool:  # noqa: ANN401 - no types
    try:
        api.volumes.get(volume)
    except exceptions.NotFound:
        return True
    return False
