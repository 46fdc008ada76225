"""Runs one command inside a guest's tree.

    python -m lab.chroot TREE [--bind=PATH]... -- COMMAND...

Meant to be started through `lab.command.run_contained`: its mounts live in that private namespace and end
with it. It binds given paths of this machine read-only at the same place.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lab.errors import LabError


def bind(source: Path, tree: Path) -> None:
    """Make a file or folder of this machine visible in a tree, at the same path."""
    place = tree / source.relative_to("/")
    if place.is_symlink():  # it would lead out of the tree
        place.unlink()
    if source.is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    subprocess.run(["mount", "--bind", "-o", "ro", str(source), str(place)], check=True)


def would_create(tree: Path, sources: list[Path]) -> list[Path]:
    """Return the topmost paths that binding these would leave in the tree, to be removed afterwards."""
    found = []
    for source in sources:
        place = tree / source.relative_to("/")
        if place.exists():
            continue
        while not place.parent.exists():
            place = place.parent
        found.append(place)
    return sorted(set(found))


def remove_placeholders(places: list[Path]) -> None:
    """Remove empty mount points from a tree.

    :raises LabError: something was written into one, which would be lost with it.
    """
    for place in places:
        for folder, _, files in os.walk(place, topdown=False):
            for name in files:
                _remove_empty_file(Path(folder) / name)
            Path(folder).rmdir()
        if place.exists():
            _remove_empty_file(place)


def _remove_empty_file(path: Path) -> None:
    if path.stat().st_size:
        raise LabError(f"{path} was to be an empty mount point and has something in it")
    path.unlink()


def main(argv: list[str]) -> None:
    """Mount, enter and become the command."""
    tree = Path(argv[0])
    split = argv.index("--")
    subprocess.run(["mount", "-t", "proc", "proc", str(tree / "proc")], check=True)
    subprocess.run(["mount", "--rbind", "/dev", str(tree / "dev")], check=True)
    for path in argv[1:split]:
        bind(Path(path.removeprefix("--bind=")), tree)
    os.chroot(tree)
    os.chdir("/")
    command = argv[split + 1 :]
    os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
