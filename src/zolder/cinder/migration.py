"""Migration: within a SAN by the SAN itself, between two by this driver, and what Cinder's own way leaves.

The manager (29) asks migrate_volume only where nobody has the volume attached, and goes its generic way where
that answers False: a new volume, attached beside the old one to a control node, as root. That is said only
where nothing has been begun. An error is never handed on to it, and ends the migration: each of them, a
snapshot that the source has, room that is lacking, would be in its way too, after it has copied all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from cinder import context as cinder_context
from cinder import exception
from cinder.db import api as database
from oslo_config import cfg

from zolder.cinder.connection import provider_location
from zolder.cinder.copying import Copying
from zolder.cinder.destination import Location, NotHere, Place, find_location, read_destination, section_of
from zolder.cinder.exports import Exports
from zolder.cinder.objects import Volume
from zolder.cinder.retyping import TypeVerbs
from zolder.cinder.settings import Settings
from zolder.cinder.storage import San
from zolder.cinder.translate import size_bytes, translated, volume_id_of, zvol_of
from zolder.cinder.volume_types import read_kind
from zolder.errors import (
    Busy,
    Error,
    NotFound,
    NotPermitted,
    PoolSuspended,
    PoolUnavailable,
    ProtocolError,
    TransportError,
)
from zolder.names import VolumeId, ZvolName

CONF = cfg.CONF
LOG = logging.getLogger(__name__)

Update: TypeAlias = dict[str, Any]


class MigrationVerbs(TypeVerbs):
    """Volumes that change their place."""

    def migrate_volume(
        self,
        context: object,  # noqa: ARG002 - Cinder's interface
        volume: Volume,
        host: Mapping[str, Any],
    ) -> tuple[bool, Update | None]:
        """Move a volume that nobody has attached, where this control node can; a repeat ends what was cut.

        :return: whether it has been moved, and what changes in Cinder's record with that.
        :raises VolumeIsBusy: somebody may reach it, a process holds it or it has snapshots; it stays.
        :raises VolumeBackendAPIException: it could not be moved; where it is, is said, or it is as it was.
        """
        location, section = find_location(host), section_of(host["host"])
        if location is None:
            return _left(volume, host, "what its location_info says is none of Zolder's pools")
        with translated(Busy, to=lambda err: exception.VolumeIsBusy(err.message)):
            if _is_at(self._san, location):
                self._san.storage.move_zvol(
                    self._parent_of(volume),
                    zvol_of(volume),
                    to=location.parent,
                    name=zvol_of(volume),
                    volume_id=volume_id_of(volume),
                )
                return True, self._described_at(volume, section)
            another = f"the SAN of [{section}] in this control node's cinder.conf is another one"
            if section == self.configuration.config_group:
                return _left(volume, host, another)
            try:
                settings = read_destination(section)
            except NotHere as err:
                return _left(volume, host, str(err))
            there = self._connect(settings)
            try:
                if not _is_at(there, location):
                    return _left(volume, host, another)
                self._copying(volume, location, settings, there).run()
            finally:
                there.close()
            return True, Exports(settings, there).describe(volume)

    def update_migrated_volume(
        self,
        ctxt: object,  # noqa: ARG002 - Cinder's interface
        volume: Volume,
        new_volume: Volume,
        original_volume_status: str,
    ) -> Update:
        """Give the copy that Cinder's generic way made the volume's name; it keeps its own where it cannot.

        The manager gives each key to the volume and the volume's own value to ``new_volume``, which is the
        source from then on and is deleted next. The secret stays with the copy: finish_volume_migration
        swaps ``provider_auth``.

        :raises VolumeBackendAPIException: nobody knows which name the copy has; Cinder deletes neither.
        """
        kept = {"_name_id": new_volume.name_id, "provider_location": new_volume.provider_location}
        if original_volume_status != "available":
            # The serial derives from the mark, and whoever has it attached would see another disk.
            LOG.info("Volume %s is in use: its zvol keeps the name %s", volume.id, new_volume.name)
            return kept
        name = ZvolName(CONF.volume_name_template % volume.id)
        with translated():
            parent = self._parent_of(new_volume)
            try:
                self._san.storage.move_zvol(
                    parent, zvol_of(new_volume), to=parent, name=name, volume_id=VolumeId(volume.id)
                )
            except (TransportError, ProtocolError):
                raise
            except Error as err:
                reason = err.message
            else:
                return {"_name_id": None, "provider_location": provider_location(self._settings, name)}
        LOG.info("Volume %s: its zvol keeps the name %s: %s", volume.id, new_volume.name, reason)
        return kept

    def _described_at(self, volume: Volume, section: str) -> Update | None:
        """Return what changes in Cinder's record of a volume that another back end over this SAN has now.

        What is not known here its create_export says at the next attachment; a secret stays what it is.
        """
        if section == self.configuration.config_group:
            return self._exports.describe(volume)
        try:
            settings = read_destination(section)
        except NotHere:
            return None
        return Exports(settings, self._san).describe(volume)

    def _copying(self, volume: Volume, location: Location, settings: Settings, there: San) -> Copying:
        specs = volume.volume_type.extra_specs if volume.volume_type_id else {}
        return Copying(
            zvol=zvol_of(volume),
            volume_id=volume_id_of(volume),
            size_bytes=size_bytes(volume.size),
            kind=read_kind(specs or {}, sparse=settings.sparse),
            here=Place(self._san.storage, self._parent_of(volume), self._settings.san_address),
            there=Place(there.storage, location.parent, settings.san_address),
            require_unused=_require_unused(volume),
        )


def _left(volume: Volume, host: Mapping[str, Any], reason: str) -> tuple[bool, None]:
    LOG.info("Volume %s to %s is left to Cinder's generic migration: %s", volume.id, host["host"], reason)
    return False, None


def _is_at(san: San, location: Location) -> bool:
    """Say whether a SAN has a parent, and this identity may use it there."""
    try:
        return san.storage.get_guid(location.parent) == location.guid
    except (NotPermitted, NotFound, PoolUnavailable, PoolSuspended):
        return False


def _require_unused(volume: Volume) -> Callable[[], None]:
    """Return what raises where a volume has been attached or changed since, if only for a while.

    Cinder's API (29) lets a volume that migrates be attached, extended and restored to, unless it was locked
    (_attachment_reserve asks only the status): what was written then would be in no copy. Rows of attachments
    that have ended stay until they are purged; a restore has none, but changes the volume's row.
    """
    before = _uses_ever(volume)

    def require_unused() -> None:
        if _uses_ever(volume) != before:
            message = (
                f"volume {volume.id} was attached or changed while it was copied: what was written then is"
                " not in the copy. Migrate it with --lock-volume"
            )
            raise Busy(message, holders=["an attachment, or whoever changed it"])

    return require_unused


def _uses_ever(volume: Volume) -> tuple[frozenset[str], object, object]:
    everything = cinder_context.get_admin_context(read_deleted="yes")
    rows = database.volume_attachment_get_all(everything, filters={"volume_id": volume.id})
    row = database.volume_get(everything, volume.id)
    return frozenset(attachment.id for attachment in rows), row.updated_at, row.status
