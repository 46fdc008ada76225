"""Opens the way to a back end's SAN and makes sure that the agent there can do what the driver needs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from zolder import __version__
from zolder.api import Storage
from zolder.cinder.settings import Settings
from zolder.client.pool import Pool
from zolder.client.remote import RemoteStorage
from zolder.errors import VersionMismatch

LOG = logging.getLogger(__name__)

# What the driver asks of an agent beside the exporter (zolder.wire.FEATURES): that it counts attachments,
# gives zvols what their types say, keeps what clones need, snapshots groups, adopts and moves.
_NEEDED: Final = ("attachments", "properties", "revert", "groups", "adoption", "moves")
# And where images go over a channel: that it carries contents.
_CONTENTS: Final = "contents"
# Cinder asks for figures every minute (backend_stats_polling_interval); the next round shall not wait.
_FIGURES_SECONDS: Final = 20


@dataclass(frozen=True, slots=True)
class San:
    """One SAN's storage: ``storage`` with the time that an operation has, ``soon`` with little patience.

    ``soon`` has a channel of its own: long operations on all others must not look like a SAN that is dead.
    """

    storage: Storage
    soon: Storage
    pools: tuple[Pool, ...] = ()

    def close(self) -> None:
        """Close all channels; a request that is under way is answered still, and the next is refused."""
        for pool in self.pools:
            pool.close()


def open_san(settings: Settings) -> San:
    """Open a first channel, and keep the pool that it belongs to.

    :raises Error: the SAN cannot be reached or used; the message says what to do.
    """
    way = settings.way
    pool = Pool(way, min_channels=settings.min_channels, max_channels=settings.max_channels)
    storage = RemoteStorage(pool, deadline_seconds=settings.deadline_seconds)
    try:
        welcome = storage.greet()
        images = (_CONTENTS,) if settings.image_transfer == "channel" else ()
        for needed in (settings.route.exporter, *_NEEDED, *images):
            if needed not in welcome.features:
                message = (
                    f"zolder-san {welcome.version} at {way.peer} lacks the feature {str(needed)!r}, which"
                    f" this zolder {__version__} needs: upgrade zolder-san on the SAN."
                )
                raise VersionMismatch(message, missing=str(needed))
    except BaseException:
        pool.close()
        raise
    LOG.info(
        "%s is zolder-san %s, identity %s, on ZFS %s; this is zolder %s",
        way.peer,
        welcome.version,
        welcome.identity,
        welcome.zfs_version,
        __version__,
    )
    seconds = min(_FIGURES_SECONDS, settings.deadline_seconds)
    patient, quick = pool, Pool(way, max_channels=1)
    return San(storage, RemoteStorage(quick, deadline_seconds=seconds), (patient, quick))
