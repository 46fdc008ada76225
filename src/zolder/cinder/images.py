"""The verbs that bring an image into a volume and a volume into an image, over a channel.

Formats are looked at and converted by Cinder's own helpers alone (cinder/image/image_utils.py), between files
in ``image_conversion_dir``; what goes to the SAN and comes from it is raw. The SAN clears a zvol before it
writes it, whatever Cinder knows of it, so nothing of what was there before shines through an image's holes.
With ``zolder_image_transfer = attach`` all is Cinder's: the volume is attached to this control node, as root.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from cinder.image import image_utils
from cinder.volume import volume_utils

from zolder.cinder.base import DriverBase
from zolder.cinder.encryption import encrypt_image
from zolder.cinder.imagefile import ImageSink, ImageSource
from zolder.cinder.objects import Volume
from zolder.cinder.translate import size_bytes, translated, zvol_of

ATTACH: Final = "attach"


class ImageVerbs(DriverBase):
    """Images."""

    def clone_image(
        self,
        context: object,  # noqa: ARG002 - Cinder's interface, as the next four
        volume: Volume,  # noqa: ARG002
        image_location: object,  # noqa: ARG002
        image_meta: object,  # noqa: ARG002
        image_service: object,  # noqa: ARG002
    ) -> tuple[None, bool]:
        """Leave it to Cinder, which checks owner, format and encryption and then has this driver clone.

        That serves the image-volume cache and ``cinder://`` locations (flows/manager/create_volume.py).
        """
        return None, False

    def copy_image_to_volume(
        self,
        context: object,
        volume: Volume,
        image_service: Any,  # noqa: ANN401 - Cinder's interface, as below
        image_id: str,
        disable_sparse: bool = False,  # noqa: FBT001, FBT002 - Cinder's interface
    ) -> None:
        """Write an image to a volume.

        :param disable_sparse: whether the volume may have had data before, as when it is reimaged; the SAN
            clears it in any case.
        :raises ImageUnacceptable: the image does not fit, or is not what it is said to be.
        """
        if self._settings.image_transfer == ATTACH:
            super().copy_image_to_volume(context, volume, image_service, image_id, disable_sparse)
            return
        with self._fetched(context, volume, image_service, image_id) as path:
            self._send(path, volume, image_id)

    def copy_image_to_encrypted_volume(
        self,
        context: object,
        volume: Volume,
        image_service: Any,  # noqa: ANN401
        image_id: str,
        disable_sparse: bool = False,  # noqa: FBT001, FBT002 - Cinder's interface
    ) -> None:
        """Write an image to a volume that is encrypted, as LUKS made by qemu-img in userspace.

        :raises ImageUnacceptable: as `copy_image_to_volume`; the header of LUKS takes room as well.
        """
        if self._settings.image_transfer == ATTACH:
            super().copy_image_to_encrypted_volume(context, volume, image_service, image_id, disable_sparse)
            return
        with (
            self._fetched(context, volume, image_service, image_id) as path,
            encrypt_image(context, volume, path, image_id, suffix=self._suffix) as encrypted,
        ):
            self._send(encrypted, volume, image_id)

    def copy_volume_to_image(
        self,
        context: object,
        volume: Volume,
        image_service: Any,  # noqa: ANN401
        image_meta: Mapping[str, Any],
    ) -> None:
        """Read a volume into a sparse file, which Cinder's helper converts and uploads."""
        if self._settings.image_transfer == ATTACH:
            super().copy_volume_to_image(context, volume, image_service, image_meta)
            return
        with image_utils.temporary_file(prefix="zolder_upload_", suffix=self._suffix) as path:
            self._receive(path, volume, image_meta["id"])
            volume_utils.upload_volume(
                context, image_service, image_meta, path, volume, run_as_root=False, compress=True
            )

    @property
    def _suffix(self) -> str:
        """How a temporary file ends, for cinder-volume to remove it at its start where it was killed."""
        return str(volume_utils.extract_host(self.cluster_name or self.host))

    @contextmanager
    def _fetched(
        self,
        context: object,
        volume: Volume,
        image_service: Any,  # noqa: ANN401
        image_id: str,
    ) -> Iterator[str]:
        """Yield the path of an image as raw, no larger than the volume."""
        with image_utils.temporary_file(prefix=f"zolder_image_{image_id}_", suffix=self._suffix) as path:
            image_utils.fetch_to_raw(
                context,
                image_service,
                image_id,
                path,
                self.configuration.volume_dd_blocksize,
                size=volume.size,
                run_as_root=False,
            )
            yield path

    def _send(self, path: str, volume: Volume, image_id: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            source = ImageSource(descriptor, f"Image {image_id} to volume {volume.id}")
            with translated():
                self._san.storage.write_zvol(self._parent_of(volume), zvol_of(volume), source)
        finally:
            os.close(descriptor)

    def _receive(self, path: str, volume: Volume, image_id: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            what = f"Volume {volume.id} to image {image_id}"
            sink = ImageSink(descriptor, what, size_bytes(volume.size))
            with translated():
                self._san.storage.read_zvol(self._parent_of(volume), zvol_of(volume), sink)
        finally:
            os.close(descriptor)
