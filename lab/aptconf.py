"""What this machine's apt says about Debian: which mirror, which keyring, which proxy.

The lab fetches other suites from the same mirror, so it needs no address of its own and goes wherever the
machine's administrator goes. Reads deb822 and one-line sources; never changes them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.command import capture
from lab.errors import LabError

ETC = Path("/etc/apt")
DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# What of apt's own configuration decides how to reach a mirror.
PASSED_ON = re.compile(r'^(Acquire::(?:http|https|ftp|Check-[A-Za-z-]+|Retries)\b[^ ]*) "(.*)";$')


@dataclass(frozen=True)
class Source:
    """One source of packages."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""

    def line(self) -> str:
        """Return it as a line of sources.list."""
        options = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb {options}{self.uri} {self.suite} {' '.join(self.components)}"


def parse_one_line(text: str) -> Iterator[Source]:
    """Read the one-line format, sources.list(5)."""
    for raw in text.splitlines():
        match = re.match(r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+)", raw.split("#")[0].strip())
        if match:
            options, uri, suite, components = match.groups()
            signed = re.search(r"signed-by=(\S+)", options or "")
            yield Source(uri, suite, tuple(components.split()), signed.group(1) if signed else "")


def parse_deb822(text: str) -> Iterator[Source]:
    """Read the deb822 format, sources.list(5)."""
    without_comments = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", without_comments):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1] in " \t":
                fields[name] = f"{fields.get(name, '')}\n{line.strip()}"
            elif ":" in line:
                name, value = line.split(":", 1)
                name = name.lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes") == "no":
            continue
        signed = fields.get("signed-by", "")
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                components = tuple(fields.get("components", "").split())
                # A key given in the stanza itself has no path that could be handed on.
                yield Source(uri, suite, components, signed if signed.startswith("/") else "")


def read_sources(etc: Path = ETC) -> list[Source]:
    """Return all enabled binary sources of this machine."""
    found: list[Source] = []
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        if path.suffix == ".sources":
            found += parse_deb822(path.read_text())
        elif path.suffix == ".list":
            found += parse_one_line(path.read_text())
    return found


def debian_sources(suite: str, components: tuple[str, ...], etc: Path = ETC) -> list[Source]:
    """Return where a Debian suite and its updates are fetched from.

    `ZOLDER_LAB_DEBIAN_MIRROR` names the mirror where this machine itself is no Debian.

    :raises LabError: when no mirror is known.
    """
    release = os_release()
    own = release.get("VERSION_CODENAME", "")
    mirror = os.environ.get("ZOLDER_LAB_DEBIAN_MIRROR", "")
    signed_by = str(DEBIAN_KEYRING) if DEBIAN_KEYRING.exists() else ""
    security = ""
    if not mirror and release.get("ID") == "debian":
        for source in read_sources(etc):
            if "main" not in source.components:
                continue
            if source.suite == own and not mirror:
                mirror, signed_by = source.uri, source.signed_by or signed_by
            elif source.suite in (f"{own}-security", f"{own}/updates") and not security:
                security = source.uri
    if not mirror:
        raise LabError(
            f"no Debian mirror found in {etc}; set ZOLDER_LAB_DEBIAN_MIRROR to the address of one "
            "(and install debian-archive-keyring)"
        )
    suites = [(mirror, suite), (mirror, f"{suite}-updates")]
    if security:
        suites.append((security, f"{suite}-security"))
    return [Source(uri, name, components, signed_by) for uri, name in suites]


def os_release() -> dict[str, str]:
    """Return the fields of /etc/os-release."""
    fields = {}
    for line in Path("/etc/os-release").read_text().splitlines():
        name, separator, value = line.partition("=")
        if separator:
            fields[name] = value.strip('"')
    return fields


def passed_on_options() -> list[str]:
    """Return this machine's apt options that decide how a mirror is reached, as `Name "value";`."""
    lines = capture(["apt-config", "dump"]).splitlines()
    return [line for line in lines if PASSED_ON.match(line)]


class PrivateApt:
    """apt with sources and lists of its own; the machine's are left as they are."""

    def __init__(self, folder: Path, sources: list[Source]) -> None:
        """Prepare a folder for it."""
        self.folder = folder
        for name in ("lists/partial", "archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "sources.list").write_text("".join(f"{source.line()}\n" for source in sources))
        (folder / "status").touch()

    def options(self, *, own_status: bool) -> list[str]:
        """Return the options that point apt here.

        :param own_status: as if nothing were installed; else with what this machine has installed.
        """
        places = {
            "Dir::Etc::sourcelist": self.folder / "sources.list",
            "Dir::Etc::sourceparts": "/nonexistent",
            "Dir::State::lists": self.folder / "lists",
            # The machine's own binary caches must not be mixed with other suites' lists.
            "Dir::Cache::pkgcache": self.folder / "pkgcache.bin",
            "Dir::Cache::srcpkgcache": self.folder / "srcpkgcache.bin",
        }
        if own_status:
            places |= {
                "Dir::State::status": self.folder / "status",
                "Dir::Etc::preferencesparts": "/nonexistent",
            }
        return [word for name, value in places.items() for word in ("-o", f"{name}={value}")]
