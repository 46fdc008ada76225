"""Puts the code under test into the running SAN, from the working tree, as an installation would look.

It is never part of an image, so a change is tested at once. The new tree replaces the old one in one rename;
compiled files of modules that did not change are kept. What has been installed already is skipped.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from lab.cache import tree_digest
from lab.machine import Machine

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "src/zolder"
PLACE = "/usr/local/lib/zolder"

# -I -S -E: nothing of the environment, the user or site-packages; the SAN's half needs the standard library alone.
LAUNCHER = f"""#!/bin/sh
exec /usr/bin/python3 -I -S -E -c 'import sys
sys.path.insert(0, "{PLACE}")
from zolder.san.cli import main
sys.exit(main())' "$@"
"""

CONFIGURATION = """\
[identity.lab]
parents = ["data/volumes", "fast/volumes"]
portals = ["192.168.77.1:3260"]
target_prefixes = ["iqn.2010-10.org.openstack:"]

[identity.other]
parents = ["data/other"]
portals = ["192.168.77.1:3260"]
target_prefixes = ["iqn.2010-10.org.openstack.other:"]
"""

# The archive is unpacked beside the old tree, and a symbolic link is renamed over the old one, so nobody ever
# finds a half tree. Python checks a compiled file against its source's time and size: carrying the old ones over
# is safe, and only what changed is compiled again, at first use.
UNPACK = f"""
set -eu
new=$(mktemp -d {PLACE}-XXXXXX)
chmod 755 "$new"
tar -x -C "$new" -f -
old=$(readlink {PLACE} || true)
if [ -n "$old" ]; then
    (cd "$old" && find . -name __pycache__ -print0 | tar -c --null -T - -f -) | tar -x -C "$new" -f -
fi
mkdir -p /etc/zolder
install -m 755 "$new/zolder-san" /usr/local/bin/zolder-san
install -m 600 "$new/san.toml" /etc/zolder/san.toml
ln -s "$new" {PLACE}.link
mv -T {PLACE}.link {PLACE}
[ -z "$old" ] || rm -rf "$old"
"""


def code_digest() -> str:
    """Return a digest of everything that would be installed."""
    return tree_digest(PACKAGE, Path(__file__))


def install_code(san: Machine) -> None:
    """Install the working tree's code.

    :raises CommandFailed: when the SAN refuses it.
    """
    san.succeed(UNPACK, input=make_archive(), timeout_seconds=60)


def make_archive() -> bytes:
    """Return what goes to the SAN, as a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(PACKAGE.rglob("*.py")):
            archive.add(path, arcname=str(path.relative_to(PACKAGE.parent)), filter=owned_by_root)
        for name, content in (("zolder-san", LAUNCHER), ("san.toml", CONFIGURATION)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content.encode()))
    return buffer.getvalue()


def owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Let the SAN's root own a file, whoever works on this machine."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry
