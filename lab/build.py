r"""Builds what the guests boot from: packages, modules, root image. What is in the cache is not built again.

The steps depend on each other like this, and what can run side by side does:

    versions --> packages (rootfs) ------------------+--> image --> golden state (lab.golden)
            \-> builder -> configure -> compile -----+
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lab import image, packages, rootfs, zfsmodule
from lab.cache import Cache, read_json
from lab.command import stop_running
from lab.debian import Suite, Versions
from lab.errors import LabError
from lab.keys import ensure_keys
from lab.progress import Progress
from lab.together import run_together

# Seconds on two cores, for the first build on a machine.
EXPECTED = {
    "build": 540.0,
    "packages of this machine": 35.0,
    "package lists": 5.0,
    "guest packages": 150.0,
    "compiler and headers": 90.0,
    "configure zfs": 120.0,
    "compile zfs": 290.0,
    "root image": 8.0,
    "first boot and zpools": 80.0,
}


@dataclass(frozen=True)
class Image:
    """A root image in the cache, with what belongs to it."""

    folder: Path
    key: str
    keys: Path


def find_image(cache: Cache) -> Image | None:
    """Return the image for the lab as it is now, if it has been built."""
    found = cache.find("rootfs", rootfs.rootfs_key())
    if found is None:
        return None
    versions = read_versions(found)
    modules = cache.find("zfs", zfsmodule.zfs_key(versions))
    keys = cache.find("keys", "1")
    if modules is None or keys is None:
        return None
    key = image.image_key(found.name, modules.name, keys)
    folder = cache.find("image", key)
    return Image(folder, key, keys) if folder else None


def build_image(cache: Cache, progress: Progress) -> Image:
    """Return the image, with everything built that is missing.

    :raises LabError: saying what is missing on this machine and how to get it.
    """
    ensure_packages(cache, packages.TOOLS, progress)
    if found := find_image(cache):
        return found
    if os.geteuid() != 0:
        raise LabError(
            "building the lab's image needs root, for a tree of Debian packages; run this once, it installs "
            f"what it needs:\n    sudo --preserve-env=HOME,XDG_CACHE_HOME {sys.executable} -m lab build"
        )
    with cache.locked("build"):
        cache.require_free(rootfs.NEEDS_BYTES + zfsmodule.NEEDS_BYTES)
        ensure_packages(cache, packages.BUILD_TOOLS, progress)
        keys = ensure_keys(cache)
        tree, modules, versions = build_parts(cache, progress)
        key = image.image_key(tree.name, modules.name, keys)

        def make(folder: Path) -> None:
            with progress.step("root image"):
                image.make_image(
                    folder,
                    rootfs=tree,
                    modules=modules,
                    keys=keys,
                    versions=versions,
                    log=cache.logs / "image.log",
                )

        return Image(cache.ensure("image", key, make, needs_bytes=image.NEEDS_BYTES), key, keys)


def ensure_packages(cache: Cache, tools: dict[str, str], progress: Progress) -> None:
    """Install what this machine itself lacks, if anything.

    :raises LabError: naming the command to run, when we are not root.
    """
    if packages.missing_packages(tools):
        with progress.step("packages of this machine"), tempfile.TemporaryDirectory() as folder:
            packages.ensure_packages(tools, Path(folder), cache.logs / "host-packages.log")


def build_parts(cache: Cache, progress: Progress) -> tuple[Path, Path, Versions]:
    """Return the tree of packages and the modules, built side by side where they are missing."""
    tree = cache.find("rootfs", rootfs.rootfs_key())
    versions = read_versions(tree) if tree else None
    if tree and versions and (modules := cache.find("zfs", zfsmodule.zfs_key(versions))):
        return tree, modules, versions
    scratch = cache.root / ".apt"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        suite = Suite(scratch, cache.logs / "lists.log")
        with progress.step("package lists"):
            suite.update()
        versions = versions or suite.versions()
        builds = [build_modules, build_rootfs]
        jobs = [partial(build, cache, suite, versions, progress) for build in builds]
        modules, tree = run_together(jobs, stop=stop_running)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return tree, modules, versions


def build_rootfs(cache: Cache, suite: Suite, versions: Versions, progress: Progress) -> Path:
    """Return the tree of packages, built if it is missing."""
    log = cache.logs / "rootfs.log"

    def make(folder: Path) -> None:
        with progress.step("guest packages"):
            rootfs.make_rootfs(folder, suite, versions, log)

    return cache.ensure("rootfs", rootfs.rootfs_key(), make, needs_bytes=rootfs.NEEDS_BYTES)


def build_modules(cache: Cache, suite: Suite, versions: Versions, progress: Progress) -> Path:
    """Return the compiled modules, built if they are missing."""

    def make(folder: Path) -> None:
        build = zfsmodule.ModuleBuild(folder, suite, versions, cache.logs / "zfs.log", os.cpu_count() or 1)
        with progress.step("compiler and headers"):
            build.make_builder()
        with progress.step("configure zfs"):
            build.configure()
        with progress.step("compile zfs"):
            build.compile()

    return cache.ensure("zfs", zfsmodule.zfs_key(versions), make, needs_bytes=zfsmodule.NEEDS_BYTES)


def read_versions(tree: Path) -> Versions:
    """Return the versions that a tree of packages was built for."""
    written = read_json(tree / "versions.json")
    return Versions(str(written["kernel"]), str(written["zfs"]))
