"""Opens each parent's two sides, looks, and mends. Nothing of one parent's trouble touches the next.

A SAN is asked over one channel, and left before the next one is asked; Cinder's own channels are not used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from oslo_db import exception as database_errors

from zolder.api import Storage
from zolder.cinder.settings import Settings
from zolder.cinder.storage import open_san
from zolder.cli.backends import Ground
from zolder.cli.cinder_side import CinderReader, prepare
from zolder.cli.finding import Finding, Kind
from zolder.cli.looking import look
from zolder.cli.progress import Progress
from zolder.cli.repair import Outcome, Repair
from zolder.cli.report import Looked
from zolder.cli.san_side import Said, SanReader
from zolder.errors import Error
from zolder.names import DatasetName

# The second is what a connection gives that cannot be begun, and no DBError.
_DATABASE_ERRORS: Final = (database_errors.DBError, database_errors.CantStartEngineError)


def open_storage(settings: Settings) -> Storage:
    """Open a way to a back end's SAN.

    :raises Error: the SAN cannot be reached or used; the message says what to do.
    """
    return open_san(settings).storage


@dataclass(frozen=True, slots=True)
class Inspection:
    """How it is looked at: with how much patience, and for what."""

    settle_seconds: float
    deadline_seconds: float
    kinds: frozenset[Kind]
    connect: Callable[[Settings], Storage]
    said: Said = field(default_factory=lambda: Progress(sys.stderr))
    _storages: dict[tuple[str, DatasetName], Storage] = field(default_factory=dict)

    def look(self, ground: Ground) -> Looked:
        """Compare one parent's two sides; what keeps it from being looked at is said in the result."""
        prepare()
        try:
            storage = self._storage(ground)
            seen = look(
                CinderReader(ground),
                SanReader(storage, ground.parent, self.said),
                settle_seconds=self.settle_seconds,
                said=self.said,
            )
        except (Error, *_DATABASE_ERRORS) as err:
            return Looked(ground, trouble=_sentence(err))
        return Looked(ground, seen, tuple(found for found in seen.findings if found.kind in self.kinds))

    def mend(self, looked: Looked) -> Iterator[tuple[Finding, Outcome]]:
        """Mend what can be mended of one parent, one after the other, and return what came of each."""
        repairable = [finding for finding in looked.findings if finding.repairable]
        if not repairable:
            return
        repair = Repair(CinderReader(looked.ground), self._storage(looked.ground), looked.ground.parent)
        for finding in repairable:
            try:
                outcome = repair.mend(finding)
            except _DATABASE_ERRORS as err:
                outcome = Outcome(mended=False, what=f"failed: {_sentence(err)}")
            looked.outcomes[finding.key] = outcome
            yield finding, outcome

    def _storage(self, ground: Ground) -> Storage:
        key = (ground.san, ground.parent)
        if key not in self._storages:
            # Lists take longer than what Cinder waits for, and one channel does.
            settings = replace(
                ground.settings, min_channels=1, max_channels=1, deadline_seconds=int(self.deadline_seconds)
            )
            self._storages[key] = self.connect(settings)
        return self._storages[key]


def _sentence(err: Exception) -> str:
    if isinstance(err, Error):
        return err.message
    # SQLAlchemy adds the statement and its values on further lines.
    return f"Cinder's database cannot be asked: {type(err).__name__}: {str(err).partition(chr(10))[0]}"
