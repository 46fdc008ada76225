"""Opens each parent's two sides, looks, and mends. Nothing of one parent's trouble touches the next.

A SAN is asked over one channel, and left before the next one is asked; Cinder's own channels are not used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import Final

from oslo_db import exception as database_errors

from zolder.cinder.settings import Settings
from zolder.cinder.storage import San
from zolder.cli.backends import Ground
from zolder.cli.cinder_side import CinderReader, prepare
from zolder.cli.finding import Finding, Kind
from zolder.cli.looking import Seen, look
from zolder.cli.progress import Progress
from zolder.cli.repair import Outcome, Repair
from zolder.cli.report import Looked
from zolder.cli.san_side import Said, SanReader
from zolder.errors import Error

# The second is what a connection gives that cannot be begun, and no DBError.
_DATABASE_ERRORS: Final = (database_errors.DBError, database_errors.CantStartEngineError)


@dataclass(frozen=True, slots=True)
class Inspection:
    """How it is looked at: with how much patience, and for what."""

    settle_seconds: float
    deadline_seconds: float
    kinds: frozenset[Kind]
    connect: Callable[[Settings], San]
    said: Said = field(default_factory=lambda: Progress(sys.stderr))

    def look(self, ground: Ground) -> Looked:
        """Compare one parent's two sides; what keeps it from being looked at is said in the result."""
        prepare()
        try:
            with closing(self._open(ground)) as san:
                seen = look(
                    CinderReader(ground),
                    SanReader(san.storage, ground.parent, self.said),
                    settle_seconds=self.settle_seconds,
                    said=self.said,
                )
        except (Error, *_DATABASE_ERRORS) as err:
            return Looked(ground, trouble=_sentence(err))
        findings = tuple(found for found in seen.findings if found.kind in self.kinds)
        return Looked(ground, seen, findings, trouble=_nothing_here(ground, seen))

    def mend(self, looked: Looked) -> Iterator[tuple[Finding, Outcome]]:
        """Mend what can be mended of one parent, one after the other, and return what came of each."""
        repairable = [finding for finding in looked.findings if finding.repairable]
        if not repairable:
            return
        with ExitStack() as opened:
            repair: Repair | None = None
            for finding in repairable:
                try:
                    if repair is None:
                        san = opened.enter_context(closing(self._open(looked.ground)))
                        repair = Repair(CinderReader(looked.ground), san.storage, looked.ground.parent)
                    outcome = repair.mend(finding)
                except (Error, *_DATABASE_ERRORS) as err:
                    outcome = Outcome(mended=False, what=f"failed: {_sentence(err)}")
                looked.outcomes[finding.key] = outcome
                yield finding, outcome

    def _open(self, ground: Ground) -> San:
        # Lists take longer than what Cinder waits for, and one channel does.
        settings = replace(
            ground.settings, min_channels=1, max_channels=1, deadline_seconds=int(self.deadline_seconds)
        )
        return self.connect(settings)


def _nothing_here(ground: Ground, seen: Seen) -> str:
    """Return what is wrong where all that is on the SAN is Cinder's, and none of it this configuration's.

    Most likely the names of these back ends are not those that cinder-volume has: then nothing was compared.
    """
    others = seen.cinder.others
    if seen.cinder.volumes or not seen.san.zvols or seen.san.zvols.keys() - others.keys():
        return ""
    here = ", ".join(back_end.cluster or back_end.host for back_end in ground.back_ends)
    there = ", ".join(sorted({others[name].host.partition("#")[0] for name in seen.san.zvols}))
    return (
        f"Cinder has no volume at {here}, and all {len(seen.san.zvols)} zvols here at {there}, so nothing was"
        " compared: see that host, backend_host and cluster are what cinder-volume has"
    )


def _sentence(err: Exception) -> str:
    if isinstance(err, Error):
        return err.message
    # SQLAlchemy adds the statement and its values on further lines.
    return f"Cinder's database cannot be asked: {type(err).__name__}: {str(err).partition(chr(10))[0]}"
