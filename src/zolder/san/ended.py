"""Which attachments have ended on this SAN, so that a list that was read before does not open them again.

A cinder-volume that starts has every attachment opened that it found in Cinder's database; another one of
its cluster may have ended some of them meanwhile, and Cinder strikes the row out only behind that. An
attachment's id never comes back by itself. Only whoever names it alone (``export_zvol``) means it.

One file with a place for each of many digests: it neither grows nor has to be cleaned up, and the newest of
two that share a place stays. It is of this SAN's runtime: what another SAN takes over it has no list from
before of. The caller holds the zvol's lock, so a note and what it is about are one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from zolder.names import AttachmentId

_PLACES: Final = 2**15
_DIGEST_BYTES: Final = 16


class Ended:
    """The attachments that ended."""

    def __init__(self, file: Path) -> None:
        """Use (and make) the file that all agents of this SAN share."""
        self._file = file

    def add(self, dataset: str, attachment: AttachmentId | None) -> None:
        """Note that an attachment to a zvol has ended; one without an id is none that could be told again."""
        if attachment is not None:
            digest, offset = _place_of(dataset, attachment)
            with self._opened() as descriptor:
                os.pwrite(descriptor, digest, offset)

    def has(self, dataset: str, attachment: AttachmentId | None) -> bool:
        """Say whether an attachment is known to have ended."""
        if attachment is None:
            return False
        digest, offset = _place_of(dataset, attachment)
        with self._opened() as descriptor:
            return os.pread(descriptor, _DIGEST_BYTES, offset) == digest

    def forget(self, dataset: str, attachment: AttachmentId | None) -> None:
        """Have an attachment count as never ended: it was opened anew by its name."""
        if attachment is not None and self.has(dataset, attachment):
            _, offset = _place_of(dataset, attachment)
            with self._opened() as descriptor:
                os.pwrite(descriptor, bytes(_DIGEST_BYTES), offset)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _place_of(dataset: str, attachment: AttachmentId) -> tuple[bytes, int]:
    digest = hashlib.sha256(f"{dataset} {attachment}".encode()).digest()[:_DIGEST_BYTES]
    return digest, int.from_bytes(digest[:4]) % _PLACES * _DIGEST_BYTES
