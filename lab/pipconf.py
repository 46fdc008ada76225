"""This machine's pip settings, handed to a pip that runs in the guest's tree.

They travel as `PIP_...` variables, and files that they name are bound into the tree for the time of the run;
nothing of them stays in the image. Credentials in them are never printed: they go through the environment.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Where pip itself looks, weakest first: "pip config" in pip's user guide.
CONFIG_FILES = ("/etc/xdg/pip/pip.conf", "/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf")
PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
SYSTEM_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def read_settings(environ: Mapping[str, str], files: list[Path]) -> dict[str, str]:
    """Return pip's settings as `PIP_...` variables: files first, the environment over them."""
    settings: dict[str, str] = {}
    for path in files:
        if not path.is_file():
            continue
        parser = configparser.RawConfigParser()
        parser.read(path)
        for section in ("global", "install"):
            if parser.has_section(section):
                for name, value in parser.items(section):
                    settings[f"PIP_{name.upper().replace('-', '_')}"] = " ".join(value.split())
    settings |= {
        name: value
        for name, value in environ.items()
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE"
    }
    # It would let pip write outside the guest's environment, or not at all.
    for name in ("PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_CACHE_DIR"):
        settings.pop(name, None)
    return settings


def config_files(environ: Mapping[str, str]) -> list[Path]:
    """Return the configuration files that pip would read here, weakest first."""
    files = [Path(name).expanduser() for name in CONFIG_FILES]
    files.append(Path(sys.prefix) / "pip.conf")
    if named := environ.get("PIP_CONFIG_FILE"):
        files.append(Path(named))
    return files


def local_paths(settings: Mapping[str, str]) -> list[Path]:
    """Return the files and folders of this machine that settings name, by path or `file:` address."""
    found = []
    for value in settings.values():
        for word in value.split():
            path = Path(word)
            if word.startswith("file:"):  # an index's pages point at archives beside it
                path = Path(unquote(urlsplit(word).path)).parent
            if path.is_absolute() and path.exists() and path != Path("/"):
                found.append(path)
    return sorted(set(found))


def pip_environment() -> tuple[dict[str, str], list[Path]]:
    """Return the variables for a guest's pip and the paths that must be visible to it."""
    settings = read_settings(os.environ, config_files(os.environ))
    if Path(SYSTEM_CERTIFICATES).exists():
        settings.setdefault("PIP_CERT", SYSTEM_CERTIFICATES)
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    paths = local_paths(settings)
    netrc = Path("~/.netrc").expanduser()
    if netrc.exists():
        passed["NETRC"] = str(netrc)
        paths.append(netrc)
    return settings | passed, paths


def without_secrets(text: str) -> str:
    """Blank the user part of addresses, for logs."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)
