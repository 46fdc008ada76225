"""The lab's SSH keys: one set for each cache, so that images and running labs agree.

`admin` opens a root shell in both guests and exists in the lab only. `agent` and `other` reach nothing but
the agent, as in the field (lab.sanfiles). The guests' own keys are fixed, so clients can be strict.
"""

from __future__ import annotations

from pathlib import Path

from lab.cache import Cache
from lab.command import capture

CLIENT_KEYS = ("admin", "agent", "other")
MACHINE_KEYS = ("san", "compute")

# Identity in san.toml -> key.
IDENTITIES = {"lab": "agent", "other": "other"}


def ensure_keys(cache: Cache) -> Path:
    """Return the folder of keys, made at the first call."""

    def make(folder: Path) -> None:
        for name in (*CLIENT_KEYS, *(f"{machine}_host" for machine in MACHINE_KEYS)):
            path = folder / name
            capture(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"zolder-lab-{name}", "-f", str(path)]
            )

    return cache.ensure("keys", "1", make)


def public_key(keys: Path, name: str) -> str:
    """Return a public key as one line."""
    return (keys / f"{name}.pub").read_text().strip()


def known_hosts(keys: Path, ports: dict[str, int]) -> str:
    """Return a known_hosts file for the guests as reached on this machine's loopback."""
    lines = []
    for machine, port in ports.items():
        kind, key, _ = public_key(keys, f"{machine}_host").split(maxsplit=2)
        lines.append(f"[127.0.0.1]:{port} {kind} {key}\n")
    return "".join(lines)
