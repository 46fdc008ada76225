"""Single steps on a zvol that stands: other properties, thin to thick and back. The caller holds its lock.

All of it is safe while the zvol is in use: ZFS takes up a new property with the next block that is written,
and a reservation is a figure. The step that may not fit comes first and the one that gives space back comes
last; what was done before a step that fails is undone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack

from zolder.errors import Error
from zolder.model import Zvol
from zolder.names import zvol_dataset
from zolder.properties import given
from zolder.san import libzfs, zfs
from zolder.san.lzc import ZfsError
from zolder.san.properties import numbered
from zolder.san.reservations import needed_to_reserve
from zolder.san.zpool import Zpool, is_full

LOG = logging.getLogger(__name__)


def reshape_zvol(zpool: Zpool, now: Zvol, wanted: Zvol) -> None:
    """Bring a zvol's own properties and its reservation to what is wanted; a failure leaves it as it was.

    :raises InvalidRequest: this SAN's OpenZFS knows no such value.
    :raises NoSpace: what it lacks to be thick does not fit.
    """
    numbered(wanted.properties)
    dataset = zvol_dataset(now.parent, now.name)
    with ExitStack() as undo:
        try:
            if now.sparse and not wanted.sparse:
                zfs.reserve(dataset)
                undo.callback(_undo, dataset, lambda: zfs.release(dataset))
            before, after = given(now.properties), given(wanted.properties)
            for name in before.keys() - after.keys():
                libzfs.library().set_property(dataset, name, None)
                undo.callback(_undo, dataset, _setting(dataset, name, before[name]))
            if changed := {name: value for name, value in after.items() if before.get(name) != value}:
                # One that is refused keeps none of the others from being set (zfs_set_prop_nvlist).
                for name in changed:
                    undo.callback(_undo, dataset, _setting(dataset, name, before.get(name)))
                libzfs.library().set_properties(dataset, changed)
            if wanted.sparse and not now.sparse:
                zfs.release(dataset)
        except ZfsError as err:
            zpool.explain(err, needed_bytes=needed_to_reserve(zpool, wanted) if is_full(err) else 0)
        undo.pop_all()


def _setting(dataset: str, name: str, value: str | None) -> Callable[[], None]:
    return lambda: libzfs.library().set_property(dataset, name, value)


def _undo(dataset: str, step: Callable[[], None]) -> None:
    try:
        step()
    except (ZfsError, Error):
        # The error that led here must reach the caller; a repeat of the request completes what is left.
        LOG.exception("could not give %s back what it had", dataset)
