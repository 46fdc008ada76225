"""Glance, as far as Cinder's helpers for images ask it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, BinaryIO

IMAGE = "0c5e7b5c-53b7-4d24-8f8a-1f2b6f6a7d11"


class ImageService:
    """One image, as a file."""

    def __init__(self, path: Path, disk_format: str) -> None:
        """Have an image."""
        self.path = path
        self.meta = {
            "id": IMAGE,
            "disk_format": disk_format,
            "container_format": "bare",
            "size": path.stat().st_size if path.exists() else 0,
            "properties": {},
        }
        self.temp_images = None

    def show(self, _: object, image_id: str) -> dict[str, Any]:
        """Describe it."""
        assert image_id == IMAGE
        return self.meta

    def download(self, _: object, image_id: str, file: BinaryIO) -> None:
        """Give it."""
        assert image_id == IMAGE
        with self.path.open("rb") as source:
            shutil.copyfileobj(source, file)

    def update(self, _: object, image_id: str, meta: object, data: BinaryIO, **more: object) -> None:
        """Take it."""
        assert image_id == IMAGE
        assert meta == {}
        assert more.keys() == {"store_id", "base_image_ref"}
        with self.path.open("wb") as file:
            shutil.copyfileobj(data, file)
