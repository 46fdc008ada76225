"""What the cloud's parts stand on: a folder, ports, secrets, environments; and how they get their files.

Everything that is configured is in `etc`, readable by nobody else, as it holds secrets. Those are made anew
for every cloud, so what a kept folder tells opens nothing.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lab.cloud.venvs import Environment
from lab.ports import free_ports

PORTS = ("postgresql", "rabbitmq", "epmd", "distribution", "keystone", "glance", "cinder", "network")
SECRETS = ("database", "broker", "admin", "cinder", "glance", "cookie")


@dataclass(frozen=True)
class Ground:
    """The place of one cloud."""

    folder: Path
    environments: Mapping[str, Environment]
    ports: Mapping[str, int] = field(default_factory=lambda: free_ports(list(PORTS)))
    secrets: Mapping[str, str] = field(
        default_factory=lambda: {name: secrets.token_hex(16) for name in SECRETS}, repr=False
    )

    @property
    def etc(self) -> Path:
        """The folder of all configuration."""
        return self.folder / "etc"

    @property
    def data(self) -> Path:
        """The folder of what the parts keep; it is removed with the cloud."""
        return self.folder / "data"

    @property
    def logs(self) -> Path:
        """The folder of logs."""
        return self.folder / "logs"

    def prepare(self) -> None:
        """Make the folders, without what an earlier cloud left."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, mode=0o700)
        for folder in (self.etc, self.data, self.logs):
            folder.mkdir(mode=0o700)

    def values(self) -> dict[str, str]:
        """Return what a configuration file's template may name."""
        ports = {f"{name}_port": str(port) for name, port in self.ports.items()}
        words = {f"{name}_secret": secret for name, secret in self.secrets.items()}
        return ports | words | {"data": str(self.data), "logs": str(self.logs), "etc": str(self.etc)}

    def write(self, name: str, template: str, **more: str) -> Path:
        """Write a configuration file, and return where it is.

        :param template: with the fields of `values` and of `more`.
        """
        return self.write_secret(name, template.format_map(self.values() | more))

    def write_secret(self, name: str, text: str) -> Path:
        """Write a file that only we may read."""
        path = self.etc / name
        path.touch(mode=0o600)
        path.write_text(text)
        return path
