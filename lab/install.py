"""Puts the code under test into the running SAN, from the working tree, as an installation would look.

It is never part of an image, so a change is tested at once. The new tree replaces the old one in one rename;
modules come compiled where that was done before. What has been installed already is skipped.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path, PurePosixPath

from lab.bytecode import Bytecode
from lab.cache import tree_digest
from lab.machine import Machine
from lab.policy import CONFIGURATION

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "src/zolder"
PLACE = "/usr/local/lib/zolder"

# -I -S -E: nothing of the environment, the user or site-packages: the standard library alone.
LAUNCHER = f"""#!/bin/sh
exec /usr/bin/python3 -I -S -E -c 'import sys
sys.path.insert(0, "{PLACE}")
from zolder.san.cli import main
sys.exit(main())' "$@"
"""

# The archive is unpacked beside the old tree, and a symbolic link is renamed over the old one, so nobody ever
# finds a half tree.
UNPACK = f"""
set -eu
new=$(mktemp -d {PLACE}-XXXXXX)
chmod 755 "$new"
tar -x -C "$new" -f -
old=$(readlink {PLACE} || true)
install -m 755 "$new/zolder-san" /usr/local/bin/zolder-san
install -m 644 "$new/san.toml" /etc/zolder/san.toml
ln -s "$new" {PLACE}.link
mv -T {PLACE}.link {PLACE}
systemctl --no-block restart zolder-helper.service
[ -z "$old" ] || rm -rf "$old"
"""


def code_digest() -> str:
    """Return a digest of everything that would be installed."""
    here = Path(__file__)
    return tree_digest(PACKAGE, here, here.with_name("policy.py"))


def install_code(san: Machine, bytecode: Bytecode) -> None:
    """Install the working tree's code, compiled.

    :raises CommandFailed: when the SAN refuses it.
    """
    sources = {str(path.relative_to(PACKAGE.parent)): path for path in sorted(PACKAGE.rglob("*.py"))}
    compiled = {name: found for name, path in sources.items() if (found := bytecode.find(path))}
    san.succeed(UNPACK, input=make_archive(sources, compiled), timeout_seconds=60)
    missing = {name: path for name, path in sources.items() if name not in compiled}
    if missing:
        bytecode.compile(san, PLACE, missing)


def make_archive(sources: dict[str, Path], compiled: dict[str, tuple[str, bytes]]) -> bytes:
    """Return what goes to the SAN, as a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, path in sources.items():
            archive.add(path, arcname=name, filter=owned_by_root)
        for name, (file_name, content) in compiled.items():
            add_bytes(archive, str(PurePosixPath(name).parent / "__pycache__" / file_name), content)
        add_bytes(archive, "zolder-san", LAUNCHER.encode())
        add_bytes(archive, "san.toml", CONFIGURATION.encode())
    return buffer.getvalue()


def add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file of root's that is nowhere on this machine."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Let the SAN's root own a file, whoever works on this machine."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry
