"""The Python environments of the cloud's parts: each its own, as their packages ask for different versions.

They are kept in the user's cache folder, under a key of what was asked for. An environment is moved to its
place when it is whole, so its programs are started by its Python (`command`), never by their first line.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.cache import Cache, content_key
from lab.command import build_environment, run_logged
from lab.progress import Progress
from lab.together import run_together

DATABASE_DRIVER = "psycopg2-binary==2.9.13"
WEB_SERVER = "uwsgi==2.0.31"

# Since 3.3.3 Cinder's scheduler understands no filter_function and no goodness_function, not even those of
# Cinder's own documentation, and places nothing (pyparsing's issue 672).
PARSER = "pyparsing<3.3.3"

REQUIREMENTS: Mapping[str, tuple[str, ...]] = {
    "keystone": ("keystone==30.0.0", DATABASE_DRIVER, WEB_SERVER),
    # Its store of images that are volumes asks for os-brick and a client of Cinder's.
    "glance": (
        "glance==33.0.0",
        "glance-store[cinder]==5.7.0",
        "os-brick==7.1.1",
        DATABASE_DRIVER,
        WEB_SERVER,
    ),
    "cinder": ("cinder==29.0.0", "os-brick==7.1.1", DATABASE_DRIVER, WEB_SERVER, PARSER),
    "tempest": ("tempest==47.0.0",),
}
# uwsgi is compiled where it is installed.
BUILD_TOOLS = {
    "gcc": "gcc",
    "python3-dev": f"/usr/include/python{sys.version_info[0]}.{sys.version_info[1]}/Python.h",
}
NEEDS_BYTES = 2**30


@dataclass(frozen=True)
class Environment:
    """One environment in the cache."""

    folder: Path

    @property
    def etc(self) -> Path:
        """Where its packages put their configuration."""
        return self.folder / "etc"

    def command(self, program: str, *words: str) -> list[str]:
        """Return the command of one of its programs."""
        return [str(self.folder / "bin/python"), str(self.folder / "bin" / program), *words]

    def program(self, name: str) -> str:
        """Return the path of one of its programs that is no script."""
        return str(self.folder / "bin" / name)


def find_missing(cache: Cache) -> list[str]:
    """Return the names of the environments that are not in the cache."""
    return [name for name in REQUIREMENTS if cache.find("venv", key_of(name)) is None]


def ensure_environments(cache: Cache, progress: Progress) -> dict[str, Environment]:
    """Return all environments by name, made first where they are absent.

    :raises CommandFailed: pip did.
    """

    def ensure(name: str) -> Environment:
        folder = cache.find("venv", key_of(name))
        if folder is None:
            with progress.step(f"Python packages of {name}"):
                folder = cache.ensure(
                    "venv", key_of(name), lambda scratch: make(scratch, name, cache), needs_bytes=NEEDS_BYTES
                )
        return Environment(folder)

    made = run_together([lambda name=name: ensure(name) for name in REQUIREMENTS])  # type: ignore[misc]
    return dict(zip(REQUIREMENTS, made, strict=True))


def key_of(name: str) -> str:
    """Return the cache's key of an environment."""
    return f"{name}-{content_key(REQUIREMENTS[name], sys.version_info[:3], sys.base_prefix)}"


def make(folder: Path, name: str, cache: Cache) -> None:
    """Fill a folder with an environment, by pip with this machine's own settings."""
    log = cache.logs / f"venv-{name}.log"
    run_logged([sys.executable, "-m", "venv", str(folder)], log, env=build_environment())
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run_logged([*pip, *REQUIREMENTS[name]], log, env=build_environment())
