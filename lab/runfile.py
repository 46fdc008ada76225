"""What a running lab is made of, written down in its run folder for whichever process comes next.

It is written last when a lab starts and removed first when it ends, and says itself whether the machines
reached their pristine state: what a killed command left half done is never taken for a lab that is up.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lab.cache import read_json, write_json
from lab.errors import LabError


@dataclass(frozen=True)
class State:
    """A lab that was started."""

    image: str
    golden: str
    accelerator: str
    ssh_ports: dict[str, int]
    # Both machines were restored, or booted, to the end.
    ready: bool = False
    # The digest of the code on the SAN.
    installed: str = ""

    @property
    def entries(self) -> list[str]:
        """The cache's entries that the running machines stand on."""
        return [self.image, self.golden]


class RunFile:
    """The file of one lab."""

    def __init__(self, folder: Path) -> None:
        """Use a lab's run folder."""
        self._path = folder / "state.json"

    def stamp(self) -> tuple[int, int]:
        """Return what differs after each change by anybody; zeros while there is no file."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return (0, 0)
        return (status.st_mtime_ns, status.st_ino)

    def read(self) -> State | None:
        """Return what was started, None for nothing.

        :raises LabError: when another version of the lab wrote it.
        """
        if not self._path.exists():
            return None
        written = read_json(self._path)
        written.pop("entries", None)
        try:
            return State(**written)  # type: ignore[arg-type] # written by `write`, from the same class
        except TypeError as err:
            raise LabError(
                f"{self._path} was written by another version of the lab; `python -m lab down` ends that one"
            ) from err

    def write(self, state: State) -> None:
        """Write down what runs."""
        write_json(self._path, asdict(state) | {"entries": state.entries})

    def change(self, *, ready: bool | None = None, installed: str | None = None) -> None:
        """Write down that something about the running lab changed.

        :raises LabError: when nothing was started.
        """
        state = self.read()
        if state is None:
            raise LabError(f"{self._path} is gone: somebody ended this lab meanwhile")
        if ready is not None:
            state = replace(state, ready=ready)
        if installed is not None:
            state = replace(state, installed=installed)
        self.write(state)

    def remove(self) -> None:
        """Forget what ran."""
        self._path.unlink(missing_ok=True)
