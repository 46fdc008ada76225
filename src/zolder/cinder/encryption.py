"""Makes LUKS of a raw image without the kernel: by qemu-img, through Cinder's own helper.

The passphrase goes from Cinder's key manager into a file that this user alone may read and that lives as long
as qemu-img runs; it is never in an argument. Source: cinder/volume/drivers/rbd.py, _encrypt_image.
"""

from __future__ import annotations

import binascii
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from castellan import key_manager
from cinder import exception
from cinder.image import image_utils
from cinder.volume import volume_utils
from oslo_config import cfg

from zolder.cinder.objects import Volume
from zolder.cinder.translate import size_bytes

# The key material of LUKS1 for the smallest key that there is: 8 slots of 4,000 stripes of 16 bytes.
_LEAST_HEADER_BYTES: Final = 8 * 4000 * 16


@contextmanager
def encrypt_image(context: object, volume: Volume, path: str, image_id: str, *, suffix: str) -> Iterator[str]:
    """Yield the path of a raw image as LUKS with a volume's own key.

    :param suffix: of the temporary files, by which Cinder finds what a killed cinder-volume left.
    :raises VolumeDriverException: the volume's encryption is none that qemu-img makes (LUKS alone).
    :raises ImageUnacceptable: with LUKS's header it is larger than the volume.
    """
    # What cannot fit is not encrypted first, which takes as long as writing it.
    _require_room(Path(path).stat().st_size + _LEAST_HEADER_BYTES, volume, image_id)
    encryption: dict[str, Any] = volume_utils.check_encryption_provider(volume, context)
    key = key_manager.API(cfg.CONF).get(context, encryption["encryption_key_id"])
    passphrase = binascii.hexlify(key.get_encoded() or b"").decode()
    cipher = image_utils.decode_cipher(encryption["cipher"], encryption["key_size"])
    with image_utils.temporary_file(prefix="zolder_luks_", suffix=suffix) as encrypted:
        # NamedTemporaryFile's mode is 0600.
        with tempfile.NamedTemporaryFile(
            "w", dir=volume_utils.image_conversion_dir(), suffix=suffix
        ) as secret:
            secret.write(passphrase)
            secret.flush()
            image_utils.convert_image(
                path,
                encrypted,
                "luks",
                src_format="raw",
                run_as_root=False,
                cipher_spec=cipher,
                passphrase_file=secret.name,
                image_id=image_id,
            )
        _require_room(Path(encrypted).stat().st_size, volume, image_id)
        yield encrypted


def _require_room(length: int, volume: Volume, image_id: str) -> None:
    if length > size_bytes(volume.size):
        reason = (
            f"with the header of LUKS it has {length} bytes or more, and the volume"
            f" {size_bytes(volume.size)}: make the volume 1 GiB larger than the image"
        )
        raise exception.ImageUnacceptable(image_id=image_id, reason=reason)
