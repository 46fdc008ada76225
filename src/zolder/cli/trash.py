"""``zolder trash``: volumes that Cinder has deleted and whose data clones still need, with what holds them.

Asks each parent's SAN once and changes nothing. Cinder's database is not asked.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Final

from zolder.cinder.settings import Settings
from zolder.cinder.storage import San
from zolder.cli.backends import Ground
from zolder.cli.progress import Progress
from zolder.errors import Error
from zolder.model import PutAside
from zolder.names import DatasetName

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB")
_STEP: Final = 1024


@dataclass(frozen=True, slots=True)
class Trash:
    """What is put aside below one parent. ``trouble`` says why that could not be asked."""

    parent: DatasetName
    san: str
    volumes: tuple[PutAside, ...] = ()
    trouble: str = ""


def look(ground: Ground, connect: Callable[[Settings], San], *, deadline_seconds: float) -> Trash:
    """Ask a parent's SAN what is put aside there.

    :param deadline_seconds: for its answer; the list's cost grows with the parent's zvols.
    """
    settings = replace(
        ground.settings, min_channels=1, max_channels=1, deadline_seconds=int(deadline_seconds)
    )
    try:
        with closing(connect(settings)) as san, Progress(sys.stderr)(f"asking for {ground.parent}"):
            return Trash(ground.parent, ground.san, san.storage.list_put_aside(ground.parent))
    except Error as err:
        return Trash(ground.parent, ground.san, trouble=err.message)


def as_text(each: Sequence[Trash]) -> Iterator[str]:
    """Return the lines for people."""
    for trash in each:
        yield f"{trash.parent} on {trash.san}"
        if trash.trouble:
            yield f"  could not be asked: {trash.trouble}"
        for volume in trash.volumes:
            became = "before it was reverted" if volume.reverted else "deleted"
            yield (
                f"  volume {volume.volume_id}, {became} {volume.deleted_at or 'at a time that nobody knows'}:"
                f" {_size(volume.used_bytes)} in {trash.parent}/{volume.name}, held by"
            )
            yield from (f"    {holder}" for holder in volume.holders)
            if not volume.holders:
                yield "    nothing any more: it goes within the hour"
    volumes = [volume for trash in each for volume in trash.volumes]
    held = _size(sum(volume.used_bytes for volume in volumes))
    yield f"{len(volumes)} deleted volumes are put aside, with {held}."


def as_json(each: Sequence[Trash]) -> dict[str, Any]:
    """Return all of it for scripts; the keys stay as they are."""
    return {
        "parents": [
            {
                "parent": str(trash.parent),
                "san": trash.san,
                "trouble": trash.trouble or None,
                "put_aside": [
                    {
                        "volume_id": str(volume.volume_id),
                        "dataset": f"{trash.parent}/{volume.name}",
                        "deleted_at": volume.deleted_at or None,
                        "reverted": volume.reverted,
                        "used_bytes": volume.used_bytes,
                        "holders": list(volume.holders),
                    }
                    for volume in trash.volumes
                ],
            }
            for trash in each
        ]
    }


def _size(size_bytes: int) -> str:
    size, unit = size_bytes / _STEP, _UNITS[0]
    for larger in _UNITS[1:]:
        if size < _STEP:
            break
        size, unit = size / _STEP, larger
    return f"{size:.1f} {unit}"
