"""Sends CHAP secrets that a SAN lacks, beside the report that told of it.

Another SAN has taken the zpool over, and secrets never lie in it (docs/design.md, 7): those exports stay shut
until theirs come. The SAN counts them by parent, which back ends may share: what one has none for may be
another's. What Cinder has no row for (a backup's view, what Cinder attaches for itself) nobody can send, so
what is still missing behind a round that left nothing out is left for a while. A round can take minutes, and
the report must not wait for it: it has a thread of its own, one at a time, which eventlet makes a green one
where Cinder runs under it. It never raises and is never waited for; a daemon, so that a cinder-volume that
stops does not wait either.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from zolder.cinder.reconciliation import Sent
from zolder.names import DatasetName

LOG = logging.getLogger(__name__)

# Between rounds of which no more is to be expected. Cinder's rows change, so it is not for ever.
_PAUSE_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class _Round:
    """One sending: how many exports lacked secrets before it, and whether all that Cinder has was taken."""

    missing: int
    complete: bool
    ended: float


class MissingSecrets:
    """The secrets that the SAN lacks of one parent, on which other back ends may have their volumes, too."""

    def __init__(
        self,
        backend_name: str,
        parent: DatasetName,
        send: Callable[[], Sent],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Have ``send`` send all that Cinder has of this back end; it does not raise."""
        self._backend_name = backend_name
        self._parent = parent
        self._send = send
        self.clock = clock
        self._lock = threading.Lock()
        self._sending = False
        self._last: _Round | None = None
        # Of how many the log has said that theirs were sent, and that nobody has them. The round's own while
        # one is under way, and notice's otherwise.
        self._told = 0
        self._hopeless = 0

    def notice(self, missing: int, asked: float) -> None:
        """Begin to send where that can be of use, and return at once.

        :param missing: how many exports below the parent the SAN says are shut for want of a secret.
        :param asked: when the SAN was asked for that, by ``clock``. Before a round's end is too early.
        """
        with self._lock:
            last = self._last
            if self._sending or (last is not None and asked < last.ended):
                return
            if not missing:
                self._last, self._told, self._hopeless = None, 0, 0
                return
            if last is not None and last.complete and last.missing == missing:
                self._say_hopeless(missing)
                if self.clock() - last.ended < _PAUSE_SECONDS:
                    return
            self._sending = True
        worker = threading.Thread(target=self._carry_out, args=(missing,), name="zolder-secrets", daemon=True)
        worker.start()

    def _carry_out(self, missing: int) -> None:
        sent = Sent(0, complete=False)
        try:
            sent = self._send()
            if sent.count and missing != self._told:  # a line a change, not a round
                self._told = missing
                LOG.warning(
                    "%d exports below %s lacked their CHAP secrets: back end %s sent those of %d attachments",
                    missing,
                    self._parent,
                    self._backend_name,
                    sent.count,
                )
        finally:
            with self._lock:
                self._sending = False
                self._last = _Round(missing, sent.complete, self.clock())

    def _say_hopeless(self, missing: int) -> None:
        if missing == self._hopeless:
            return
        self._hopeless = missing
        LOG.warning(
            "%d exports below %s wait for CHAP secrets that no attachment of back end %s has, and stay shut:"
            " 'zolder orphans' shows which",
            missing,
            self._parent,
            self._backend_name,
        )
