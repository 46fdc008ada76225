"""Where root keeps what no agent may change: the CHAP secrets, its locks, which secrets are missing.

``state`` survives a restart, ``run`` does not. Both are made by the units (zolder.san.setup.units), and here
where root's commands are run by hand or without systemd. Only root writes there; ``run`` may be read by
everybody, so that an agent can count the missing secrets, but for the locks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RootPlaces:
    """Root's own folders on this SAN."""

    state: Path = Path("/var/lib/zolder-helper")
    run: Path = Path("/run/zolder-helper")

    @property
    def secrets(self) -> Path:
        """The folder of CHAP secrets."""
        return self.state / "secrets"

    @property
    def missing(self) -> Path:
        """The list of the exports that wait for their secrets."""
        return self.run / "secrets-missing"

    @property
    def locks(self) -> Path:
        """The file whose bytes root's processes lock (zolder.san.locks)."""
        return self.run / "locks"

    @property
    def restore_lock(self) -> Path:
        """The file that one restore at a time locks; apart, for it takes the other locks too."""
        return self.run / "restore-lock"

    def make_run(self) -> None:
        """Make ``run`` where no unit of systemd did.

        :raises OSError: that failed.
        """
        self.run.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.run.chmod(0o755)  # whatever the umask: every agent reads there
