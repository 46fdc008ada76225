"""The CHAP secrets of exports.

A secret is the one thing of an export that does not stand in the zpool (docs/design.md, 7): root keeps it on
this machine, in a file for each zvol that root alone can read. No secret and no line of such a file ever gets
into an error. The caller holds the zvol's lock. Which exports wait for theirs: zolder.san.missing.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

from zolder.errors import BackendError, InvalidRequest
from zolder.model import Chap
from zolder.names import DatasetName, InitiatorName, ZvolName, zvol_dataset
from zolder.san.missing import count_missing as count_missing  # noqa: PLC0414 - beside what is not missing
from zolder.san.missing import note_supplied as note_supplied  # noqa: PLC0414 - as above
from zolder.san.rootplaces import RootPlaces
from zolder.san.setup.writing import replace_file, sync_folder
from zolder.shapes import decode, encode

FOLDER: Final = RootPlaces().secrets


class Secrets:
    """The store of secrets of one SAN."""

    def __init__(self, folder: Path = FOLDER) -> None:
        """Use a folder; the first secret makes it."""
        self._folder = folder

    def put(self, parent: DatasetName, zvol: ZvolName, initiator: InitiatorName, chap: Chap) -> None:
        """Keep what an initiator shows; nothing is written where it is kept already.

        :raises BackendError: it cannot be kept, or what was kept is damaged.
        """
        kept = self._read(parent, zvol)
        if kept.get(initiator) == chap:
            return
        self._write(parent, zvol, kept | {initiator: chap})

    def find(self, parent: DatasetName, zvol: ZvolName, initiator: InitiatorName) -> Chap | None:
        """Return what an initiator shows; None where nothing is kept for it.

        :raises BackendError: what was kept cannot be read, or is damaged.
        """
        return self._read(parent, zvol).get(initiator)

    def remove(self, parent: DatasetName, zvol: ZvolName, initiator: InitiatorName | None) -> None:
        """Forget one initiator's secret, or all of a zvol's; a damaged file goes with all.

        :raises BackendError: that failed, or what is to stay is damaged.
        """
        path = self._path(parent, zvol)
        if initiator is None:
            remaining = {}
        else:
            kept = self._read(parent, zvol)
            remaining = {name: chap for name, chap in kept.items() if name != initiator}
            if len(remaining) == len(kept):
                return
        if remaining:
            self._write(parent, zvol, remaining)
            return
        try:
            path.unlink()
            sync_folder(self._folder)
        except FileNotFoundError:
            return
        except OSError as err:
            message = _say("cannot remove", path, err)
            raise BackendError(message, errno=err.errno or 0) from err

    def prune(self, parent: DatasetName, zvol: ZvolName, keep: Collection[InitiatorName]) -> None:
        """Forget a zvol's secrets but those of some initiators, and what a write that was cut short left.

        :raises BackendError: that failed, or what is to stay is damaged.
        """
        path = self._path(parent, zvol)
        try:
            for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
                left.unlink()
        except OSError as err:
            message = _say("cannot remove what was left of", path, err)
            raise BackendError(message, errno=err.errno or 0) from err
        if not keep:
            self.remove(parent, zvol, None)
        for initiator in sorted(self._read(parent, zvol).keys() - set(keep)):
            self.remove(parent, zvol, initiator)

    def list_zvols(self, parent: DatasetName) -> tuple[ZvolName, ...]:
        """Return the zvols below a parent of which something is kept, sorted.

        :raises BackendError: the folder cannot be read.
        """
        begin = f"{parent}/".replace("/", ":")
        try:
            names = [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            return ()
        except OSError as err:
            message = _say("cannot list", self._folder, err)
            raise BackendError(message, errno=err.errno or 0) from err
        found = set()
        for name in names:
            # A write that was cut short left .NAME.PID
            whole = name[1:].rpartition(".")[0] if name.startswith(".") else name
            if whole.startswith(begin) and ":" not in (leaf := whole.removeprefix(begin)):
                with suppress(InvalidRequest):
                    found.add(ZvolName(leaf))
        return tuple(sorted(found))

    def _path(self, parent: DatasetName, zvol: ZvolName) -> Path:
        # No name of ZFS's has a colon here (zolder.names), and none begins with a dot.
        return self._folder / zvol_dataset(parent, zvol).replace("/", ":")

    def _read(self, parent: DatasetName, zvol: ZvolName) -> dict[InitiatorName, Chap]:
        path = self._path(parent, zvol)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as err:
            message = _say("cannot read", path, err)
            raise BackendError(message, errno=err.errno or 0) from err
        try:
            table = json.loads(content)
            return {InitiatorName(name): decode(Chap, chap) for name, chap in table.items()}
        except (ValueError, AttributeError, RecursionError, InvalidRequest):
            message = (
                f"{path} is damaged: remove it as root, then run 'zolder-san restore', and cinder-volume"
                " sends its secrets again"
            )
            raise BackendError(message) from None  # those errors show what stands in the file

    def _write(self, parent: DatasetName, zvol: ZvolName, kept: dict[InitiatorName, Chap]) -> None:
        path = self._path(parent, zvol)
        text = json.dumps({name: encode(kept[name]) for name in sorted(kept)})
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, text, 0o600, owner=os.geteuid(), group=os.getegid())
        except OSError as err:
            message = _say("cannot write", path, err)
            raise BackendError(message, errno=err.errno or 0) from err


def _say(what: str, path: Path, err: OSError) -> str:
    return f"{what} {path}: {err.strerror}"
