"""Moves a volume to another SAN: its contents are copied, and then the copy takes its place.

Each step can be cut or repeated, and no state between two of them can be mistaken for another:

- the copy is ``copying-ID``, with a mark of this attempt alone, until it is whole; from then on it bears the
  volume's name and mark;
- the volume moves with one rename, of its source to ``copied-ID``, which the SAN refuses while anybody may
  reach it and behind which nobody can; what had been done to it before then is looked for behind that, and
  brings it back; until then the source is untouched, and the copy can be taken away;
- the source is deleted last.

So where the source has its name, whatever there is at the destination is left over, for Cinder's record and
the source agree; and where it has not and a copy bears the volume's name, that is the volume. A twin, which
only a cinder-volume that was thought dead can be, looks at the source behind each rename of the copy, as this
one looks at the copy behind the rename of the source: one of them sees the other, and nothing is lost.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from zolder.cinder.destination import Place
from zolder.cinder.imagefile import Progress
from zolder.cinder.pump import pump
from zolder.cinder.volume_types import Kind
from zolder.errors import AlreadyExists, Busy, Error, NotFound, RequestError, StateError, error_of
from zolder.model import Zvol
from zolder.names import VolumeId, ZvolName, copied_name, copying_name

LOG = logging.getLogger(__name__)

# How often the log says how far a copy is, at the most.
_TOLD_EACH_SECONDS: Final = 10.0
_PARTS: Final = 1000
# As long as an agent may take to see that nobody is there any more, and how often it is asked meanwhile.
_RELEASED_SECONDS: Final = 20.0
_PAUSE_SECONDS: Final = 1.0
# The SAN has answered with these: what was asked for was not done, and will not be.
_ANSWERED: Final = (StateError, RequestError)


@dataclass(frozen=True, slots=True)
class Copying:
    """One volume's way from one SAN to another.

    ``require_unused`` raises where somebody has used the volume since it began.
    """

    zvol: ZvolName
    volume_id: VolumeId
    size_bytes: int
    kind: Kind
    here: Place
    there: Place
    require_unused: Callable[[], None]
    # By which this attempt knows its own copy.
    attempt: VolumeId = field(default_factory=lambda: VolumeId(str(uuid.uuid4())))

    def run(self) -> None:
        """Bring the volume to its destination; if it is there and not here, there is only tidying left.

        :raises Busy: the source, or what is left at the destination, is in use or has snapshots; named.
        :raises AlreadyExists: the destination has another volume of that name.
        :raises Error: the copy failed; the source is as it was.
        """
        if not self._has_source() and self._has_moved():
            self._tidy(self.there, self._under_way)
        else:
            self._require_no_snapshots(self.zvol)
            # Of a move from here before it came back, and stale since then.
            self.here.storage.delete_zvol(self.here.parent, self._behind)
            self._clear()
            try:
                self._copy()
            except Error as err:
                message = (
                    f"copying {self.here.name(self.zvol)} to {self.there.parent} on {self.there.san} failed"
                )
                raise error_of(err.code, f"{message}: {err.message}", err.details) from err
        self._tidy(self.here, self._behind)

    @property
    def _under_way(self) -> ZvolName:
        return copying_name(self.volume_id)

    @property
    def _behind(self) -> ZvolName:
        return copied_name(self.volume_id)

    def _has_source(self) -> bool:
        return self.here.find(self.zvol) is not None

    def _has_moved(self) -> bool:
        """Say whether the volume is at its destination, of the two; called where the source has no name.

        A source whose copy somebody has taken away gets its name again.

        :raises NotFound: the volume is at neither.
        """
        copy = self._find_copy()
        if copy is not None and copy.volsize_bytes == self.size_bytes:
            LOG.info(
                "%s is the volume: its migration was cut behind the last step", self.there.name(self.zvol)
            )
            return True
        try:
            self._rename(self.here, self._behind, self.zvol)
        except NotFound as err:
            message = (
                f"{self.here.name(self.zvol)} does not exist, and {self.there.name(self.zvol)} is no copy"
            )
            raise NotFound(message) from err
        return False

    def _find_copy(self) -> Zvol | None:
        copy = self.there.find(self.zvol)
        if copy is not None and copy.volume_id != self.volume_id:
            message = f"{self.there.name(self.zvol)} exists and is volume {copy.volume_id}"
            raise AlreadyExists(message)
        return copy

    def _require_no_snapshots(self, zvol: ZvolName) -> None:
        # As between two zpools of one SAN: with any, whoever took them, the source could not be deleted.
        found = self.here.storage.list_found_snapshots(self.here.parent, zvol)
        if found:
            names = [snapshot.name for snapshot in found]
            message = f"{self.here.name(self.zvol)} has snapshots that must go first: {', '.join(names)}"
            raise Busy(message, holders=names)

    def _clear(self) -> None:
        """Delete what copies there are, as long as the volume is at its source.

        :raises NotFound: the source has moved meanwhile.
        """
        storage, parent = self.there.storage, self.there.parent
        self.here.storage.get_zvol(self.here.parent, self.zvol)
        storage.delete_zvol(parent, self._under_way)
        if self._find_copy() is None:
            return
        # Refused while anybody may reach it, which a mere deletion would not be.
        self._rename(self.there, self.zvol, self._under_way)
        try:
            self.here.storage.get_zvol(self.here.parent, self.zvol)
        except NotFound:
            self._rename(self.there, self._under_way, self.zvol)
            raise
        storage.delete_zvol(parent, self._under_way)

    def _copy(self) -> None:
        """Make the copy and have it take the volume's place; until it has, a failure takes it away."""
        with ExitStack() as undo:
            # Before it is created: where the answer is lost it may have been.
            undo.callback(self._discard)
            self.there.storage.create_zvol(
                self.there.parent,
                self._under_way,
                volume_id=self.attempt,
                volsize_bytes=self.size_bytes,
                sparse=self.kind.sparse,
                properties=self.kind.properties,
                volblocksize=self.kind.volblocksize,
            )
            progress = Progress(
                f"{self.here.name(self.zvol)} to {self.there.parent} on {self.there.san}",
                self.size_bytes,
                parts=_PARTS,
                least_seconds=_TOLD_EACH_SECONDS,
            )
            pump(
                lambda sink: self.here.storage.read_zvol(self.here.parent, self.zvol, sink),
                lambda source: self.there.storage.write_zvol(self.there.parent, self._under_way, source),
                progress,
            )
            self.require_unused()
            self._rename(self.there, self._under_way, self.zvol, former=self.attempt)
            try:
                self._leave()
            except _ANSWERED:
                raise
            except Error as err:
                undo.pop_all()
                message = (
                    f"{err.message} The copy is whole, and nobody knows whether it has taken the source's"
                    " place: neither is deleted; migrate the volume once more, which finds out"
                )
                raise error_of(err.code, message, err.details) from err
            undo.pop_all()

    def _leave(self) -> None:
        """Take the source's name from it: with this the volume has moved.

        :raises Busy: somebody may reach it, a process holds it, or it was used or changed since it was read.
        """
        self._rename(self.here, self.zvol, self._behind)
        with ExitStack() as back:
            back.callback(self._rename, self.here, self._behind, self.zvol)
            # From here on nobody reaches it, so what is seen now is all that was done to it.
            self.require_unused()
            self._require_no_snapshots(self._behind)
            source = self.here.storage.get_zvol(self.here.parent, self._behind)
            if source.volsize_bytes != self.size_bytes:
                message = f"{self.here.name(self.zvol)} has grown to {source.volsize_bytes} bytes meanwhile"
                raise Busy(message, holders=["whoever made it larger"])
            copy = self.there.find(self.zvol)
            if copy is None or copy.volume_id != self.volume_id:
                message = f"{self.there.name(self.zvol)} was taken away by another migration of this volume"
                raise Busy(message, holders=["another migration"])
            back.pop_all()

    def _discard(self) -> None:
        """Take the copy away; what stands in the way is only logged, for the first error is what counts.

        An agent whose line has ended in the middle of a write has the copy for a moment longer.
        """
        until = time.monotonic() + _RELEASED_SECONDS
        while True:
            try:
                self._clear()
            except Busy as err:
                trouble = err.message
                if time.monotonic() > until:
                    break
            except Error as err:
                trouble = err.message
                break
            else:
                return
            time.sleep(_PAUSE_SECONDS)
        LOG.warning(
            "Part of a copy may be left at %s, which nobody needs: delete it on the SAN, or leave it to the"
            " next migration of the volume: %s",
            self.there.name(self._under_way),
            trouble,
        )

    def _tidy(self, place: Place, zvol: ZvolName) -> None:
        """Delete what is of no use now that the volume has moved; a failure is told and nothing more.

        Nothing is lost by that, and no volume is doubled: no name that Cinder has leads to it.
        """
        try:
            place.storage.delete_zvol(place.parent, zvol)
        except Error as err:
            trouble = err.message
        else:
            return
        LOG.warning(
            "The volume has moved to %s, and %s, which nobody needs, is left to be deleted on the SAN: %s",
            self.there.name(self.zvol),
            place.name(zvol),
            trouble,
        )

    def _rename(
        self, place: Place, zvol: ZvolName, name: ZvolName, *, former: VolumeId | None = None
    ) -> None:
        place.storage.move_zvol(
            place.parent, zvol, to=place.parent, name=name, volume_id=self.volume_id, former=former
        )
