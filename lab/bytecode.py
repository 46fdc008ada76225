"""Modules compiled once by the guests' Python and carried along from then on.

Compiling the agent takes ten seconds under emulation and a reset forgets it, so what one guest compiled is
kept here by the source's content, and put beside the source at the next installation. The files carry a hash
of their source (PEP 552), so Python itself refuses one that does not fit.
"""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from pathlib import Path, PurePosixPath

from lab.cache import Cache
from lab.machine import Machine

COMPILE = "/usr/bin/python3 -m compileall -q --invalidation-mode checked-hash"


class Bytecode:
    """The compiled modules of one guest image."""

    def __init__(self, cache: Cache, image: str) -> None:
        """Use the cache's folder for an image, whose Python compiled them."""
        self._folder = cache.root / "bytecode" / image

    def find(self, source: Path) -> tuple[str, bytes] | None:
        """Return a compiled module's file name and content; None where it was never compiled."""
        for path in self._folder.glob(f"{self._key(source)}.*"):
            return path.name.partition(".")[2], path.read_bytes()
        return None

    def compile(self, san: Machine, place: str, sources: dict[str, Path]) -> None:
        """Have the guest compile modules, and keep what comes out.

        :param sources: by path below ``place``.
        :raises CommandFailed: when one does not compile.
        """
        names = " ".join(sources)
        caches = " ".join(sorted({str(PurePosixPath(name).parent / "__pycache__") for name in sources}))
        made = san.succeed(f"cd {place} && {COMPILE} {names} && tar -c -f - {caches} | base64 -w0")
        self._folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(made))) as archive:
            for entry in archive:
                path = PurePosixPath(entry.name)
                source = sources.get(str(path.parent.parent / f"{path.name.partition('.')[0]}.py"))
                content = archive.extractfile(entry)
                if source is not None and content is not None:
                    self._keep(f"{self._key(source)}.{path.name}", content.read())

    def _keep(self, name: str, content: bytes) -> None:
        scratch = self._folder / f".{name}"
        scratch.write_bytes(content)
        scratch.rename(self._folder / name)

    @staticmethod
    def _key(source: Path) -> str:
        return hashlib.sha256(source.read_bytes()).hexdigest()[:32]
