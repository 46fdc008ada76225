"""The Cinder volume driver: it translates Cinder's verbs to requests, and does nothing else.

One verb is one request (docs/design.md, 4). What exists and who may reach it stands on the SAN; what is kept
here is only for the log and against races. Threads and green threads may share a driver.

What the driver leaves to Cinder's base class works through it and not beside it: backups are copied through
an attachment on the control node, which needs os-brick, iscsid and root there.
"""

from __future__ import annotations

from cinder import interface

from zolder import __version__
from zolder.cinder.adoption import AdoptionVerbs
from zolder.cinder.connections import ConnectionVerbs
from zolder.cinder.images import ImageVerbs
from zolder.cinder.migration import MigrationVerbs


@interface.volumedriver
class ZolderDriver(AdoptionVerbs, MigrationVerbs, ConnectionVerbs, ImageVerbs):
    """Volumes as zvols on a SAN with OpenZFS, exported by iSCSI or by NVMe over TCP."""

    VERSION = __version__
    # The name that a third-party CI would report under; there is none yet.
    CI_WIKI_NAME = "Zolder_CI"
    # Whatever two cinder-volumes of a cluster must not do at once the SAN's own locks and records decide
    # (docs/cluster.md). Without replication there is no failover, and so no failover_completed.
    SUPPORTS_ACTIVE_ACTIVE = True
