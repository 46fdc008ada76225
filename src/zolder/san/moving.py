"""A zvol gets another parent, another name or another mark: by a rename, or by a copy in another zpool.

Until it is at its new place it stays what it was. The mark comes first, so that what a cut leaves is found
by it; a copy that is whole has its name before the zvol ends (zolder.san.sending).
Sources: zfs_ioc_rename, dsl_dir_rename_crypt_check, for lzc_rename.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from zolder.errors import AlreadyExists, BackendError, Busy, Error, NotFound
from zolder.model import Change, Zvol
from zolder.names import DatasetName, VolumeId, ZvolName, viewed_id, zvol_dataset
from zolder.san import libzfs, zfs
from zolder.san.aside import await_holders, zvol_behind
from zolder.san.attachments import Attachments
from zolder.san.ending import ZfsEnding
from zolder.san.libzfs import MOVE_MARK, VOLUME_MARK, Properties
from zolder.san.lzc import ZfsError
from zolder.san.records import find_record
from zolder.san.reverting import settle
from zolder.san.sending import Copy, Note, State, arriving_in, destroy_copy, refuse_taken
from zolder.san.settling import settling
from zolder.san.views import views_in
from zolder.san.zpool import Zpool, is_full, local, zvol_in
from zolder.san.zvols import look_at, set_mark

LOG = logging.getLogger(__name__)

_TOLD_EACH_SECONDS: Final = 10
# What is left to do behind a copy is a few steps, but for waiting for who holds the zvol.
_END_SECONDS: Final = 60
_GIB: Final = 2**30


class ZfsMoving(ZfsEnding):
    """How zvols get another place."""

    @settling()
    def move_zvol(
        self,
        parent: DatasetName,
        zvol: ZvolName,
        *,
        to: DatasetName,
        name: ZvolName,
        volume_id: VolumeId,
        former: VolumeId | None = None,
    ) -> Change[Zvol]:
        """See ``Storage``."""
        old, new = zvol_dataset(parent, zvol), zvol_dataset(to, name)
        origin = None
        with ExitStack() as locked:
            if parent.zpool == to.zpool:
                locked.enter_context(self._locks.hold(self._operation, old, new))
            else:
                held = locked.enter_context(self._locks.hold_for_long(self._operation, old, new))
            here, there = self._zpool(parent), self._zpool(to)
            settle(here, zvol, self._operation)
            seen = {**here.look(old), **there.look(new)}
            source = zvol_in(seen, parent, zvol)
            if source is None:
                return Change(changed=False, value=_arrived(there, seen, name, volume_id, missing=old))
            if former is not None and source.volume_id not in {former, volume_id}:
                message = f"{old} is marked as volume {source.volume_id}, not {former}"
                raise AlreadyExists(message)
            wanted = replace(source, parent=to, name=name, volume_id=volume_id)
            if wanted == source:
                return Change(changed=False, value=source)
            self._require_idle(here, source, seen[old])
            if parent.zpool == to.zpool:
                if new in seen and new != old:
                    refuse_taken(old, new)
                self._rename(here, source, wanted)
            else:
                wanted = replace(wanted, origin=None)
                origin = self._send(Copy(here, there, source, wanted, self._operation), seen, held)
            self._index(parent).remove(zvol)
            if to == parent:
                self._index(to).put(name, wanted.volsize_bytes)
        self._collect(origin)
        return Change(changed=True, value=wanted)

    def _require_idle(self, here: Zpool, source: Zvol, found: Properties) -> None:
        """Make sure that nobody reaches a zvol, or reads a snapshot of it through a view.

        :raises Busy: somebody does, and is named.
        """
        dataset = zvol_dataset(source.parent, source.name)
        wish = find_record(found, dataset)
        if wish is not None:
            message = f"{dataset} is exported: detach it first"
            raise Busy(message, holders=list(wish.initiators))
        if libzfs.library().snapshots(dataset):
            clones = {clone for each in zfs.clones_of(dataset).values() for clone in each}
            near = (clone for clone in clones if clone.rpartition("/")[0] == source.parent)
            if views := views_in(here.glance(*(name for name in near if viewed_id(name.rpartition("/")[2])))):
                message = f"a snapshot of {dataset} is exported: detach it first"
                raise Busy(message, holders=[f"the view of snapshot {view}" for view in views])
        attachments = Attachments(self._policy, here, source.name)
        await_holders(here, source.name, self._operation, release=attachments.close_all)

    def _rename(self, here: Zpool, source: Zvol, wanted: Zvol) -> None:
        """Give a zvol its new place within its zpool, the mark first; a failure leaves it as it was."""
        old, new = (zvol_dataset(zvol.parent, zvol.name) for zvol in (source, wanted))
        with ExitStack() as undo:
            if wanted.parent != source.parent:
                undo.enter_context(self._counting(wanted.parent, wanted.name, wanted.volsize_bytes))
            try:
                if wanted.volume_id != source.volume_id:
                    libzfs.library().set_property(old, VOLUME_MARK, wanted.volume_id)
                if old != new:
                    here.library.rename(old, new)
            except ZfsError as err:
                if wanted.volume_id != source.volume_id:
                    _mark_again(old, source.volume_id)
                if err.errno == errno.EEXIST:
                    refuse_taken(old, new)
                if err.errno == errno.EACCES:
                    message = f"{old} is encrypted with a key of its parent's: ZFS moves it nowhere else"
                    raise BackendError(message, errno=err.errno) from err
                here.explain(err, needed_bytes=source.volsize_bytes if is_full(err) else 0)

    def _send(self, copy: Copy, seen: Mapping[str, Properties], held: int) -> str | None:
        """Make the copy and end the zvol; return what is to be collected."""
        source, wanted = copy.source, copy.wanted
        with self._counting(wanted.parent, wanted.name, wanted.volsize_bytes):
            if not copy.is_in_place(seen):
                copy.send(held, self._telling(copy))
                self._operation.allow(_END_SECONDS)
                # Who has gone meanwhile will ask again, and nobody else knows of the copy.
                self._operation.check()
                copy.complete()
            self._operation.check()
            copy.let_go()
            try:
                _, origin = self._end(copy.here, source.name)
            except Error:
                # Where that has not ended, it is the volume still, and there must not be a second one.
                if zvol_in(copy.here.glance(copy.old), source.parent, source.name) is not None:
                    copy.discard()
                raise
            copy.settle()
        return origin

    def _sweep(self, parent: DatasetName, children: Mapping[str, Properties]) -> None:
        """Also destroy the copies that a cut has left of volumes which have gone since."""
        super()._sweep(parent, children)
        if not self._policy.allows("move_zvol"):
            return
        for dataset, note in arriving_in(children):
            try:
                with self._locks.hold(self._operation, dataset, note.source):
                    self._drop_arriving(parent, dataset)
            except Busy:
                continue  # it is under way, or somebody looks at it
            except Error as err:
                LOG.warning("%s, which a move of %s has left, stays: %s", dataset, note.source, err.message)

    def _drop_arriving(self, parent: DatasetName, dataset: str) -> None:
        there = self._zpool(parent)
        found = there.glance(dataset).get(dataset)
        note = Note.read(found, dataset) if found else None
        source = zvol_behind(self._policy.parents, note.source) if note else None
        if note is None or note.state is not State.ARRIVING or source is None:
            return
        if not self._zpool(source[0]).look(note.source):
            destroy_copy(there, ZvolName(dataset.rpartition("/")[2]), self._operation)

    def _telling(self, copy: Copy) -> Callable[[int, int], None]:
        """Return what tells the client now and then how far a copy is, and ends it where nobody listens."""
        told = time.monotonic()

        def tell(sent_bytes: int, whole_bytes: int) -> None:
            nonlocal told
            self._operation.require_listener()
            if time.monotonic() - told > _TOLD_EACH_SECONDS:
                told = time.monotonic()
                of = f"{sent_bytes / _GIB:.2f} of about {whole_bytes / _GIB:.2f} GiB"
                self._operation.notify(f"{of} of {copy.old} are in {copy.wanted.parent}")

        return tell


def _arrived(
    there: Zpool, seen: Mapping[str, Properties], name: ZvolName, volume_id: VolumeId, *, missing: str
) -> Zvol:
    """Return the zvol that has been moved before.

    :raises NotFound: there is none at the new place either.
    """
    dataset = zvol_dataset(there.parent, name)
    found = zvol_in(seen, there.parent, name)
    if found is None or found.volume_id != volume_id:
        message = f"{missing} does not exist"
        raise NotFound(message)
    if local(seen[dataset], MOVE_MARK, dataset) is not None:
        set_mark(there, dataset, MOVE_MARK, None)
    return look_at(there, name)[0]


def _mark_again(dataset: str, volume_id: VolumeId) -> None:
    try:
        libzfs.library().set_property(dataset, VOLUME_MARK, volume_id)
    except ZfsError:
        # The error that led here must reach the caller; a repeat of the request goes on with the new mark.
        LOG.exception("could not mark %s as volume %s again", dataset, volume_id)
