"""Volume types: what a back end says it can do, what a volume's type comes to, and retype in place."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from zolder.cinder.base import DriverBase
from zolder.cinder.objects import Volume, VolumeType
from zolder.cinder.translate import translated, volume_id_of, zvol_of
from zolder.cinder.volume_types import PREFIX, SPECS, TEXTS, Kind, read_kind
from zolder.errors import AlreadyExists, BackendError, Busy, Error, InvalidRequest, NotFound
from zolder.names import DatasetName

LOG = logging.getLogger(__name__)


class TypeVerbs(DriverBase):
    """What types mean here."""

    def _init_vendor_properties(self) -> tuple[dict[str, Any], str]:
        """Return the extra specs of our own for get-capabilities, each with what is allowed."""
        properties: dict[str, Any] = {}
        for name, kind in SPECS.items():
            title, description = TEXTS[name]
            self._set_property(
                properties, f"{PREFIX}:{name}", title, description, "string", enum=list(kind.values)
            )
        return properties, PREFIX

    def _kind_of(self, volume: Volume) -> Kind:
        """Return what a volume's type asks for; a volume without one is as the back end has it.

        :raises VolumeBackendAPIException: the type asks for what there is not.
        """
        return self._kind(volume.volume_type.extra_specs if volume.volume_type_id else {})

    def retype(
        self,
        context: object,  # noqa: ARG002 - Cinder's interface
        volume: Volume,
        new_type: VolumeType,
        diff: Mapping[str, Any] | None,
        host: Mapping[str, Any],
    ) -> bool:
        """Give a volume, in use or not, what another type asks for; False where it has to be copied.

        One that nobody uses goes to another pool of this back end as well. The manager (29) calls it only
        where the encryption stays and the back end is this one, and goes on to migrate, within the user's
        policy, where this is False or fails.

        :raises VolumeBackendAPIException: the type asks for what there is not, or to be thick takes more than
            there is; the volume stays as it was, or where it is, is said.
        """
        if (diff or {}).get("encryption"):
            LOG.info("Volume %s: another encryption is another content: it has to be migrated.", volume.id)
            return False
        try:
            here, there = self._parent_of(volume), self._settings.parent_of(host["host"])
        except InvalidRequest as err:
            LOG.info("Volume %s has to be migrated: %s.", volume.id, err.message)
            return False
        kind = self._kind(new_type.extra_specs or {})
        with translated():
            try:
                if here == there:
                    self._reshape(here, volume, kind)
                else:
                    self._require_blocks(here, volume, kind)
                    self._move_and_reshape(here, there, volume, kind)
            except (AlreadyExists, Busy) as err:
                reason = err.message
            else:
                return True
        LOG.info("Volume %s has to be migrated: %s.", volume.id, reason)
        return False

    def _reshape(self, parent: DatasetName, volume: Volume, kind: Kind) -> None:
        self._san.storage.set_zvol_properties(
            parent,
            zvol_of(volume),
            sparse=kind.sparse,
            properties=kind.properties,
            volblocksize=kind.volblocksize,
        )

    def _require_blocks(self, parent: DatasetName, volume: Volume, kind: Kind) -> None:
        """Make sure of the one thing that cannot be changed where the volume goes to, before it goes.

        :raises AlreadyExists: it has another volblocksize.
        """
        try:
            found = self._san.storage.get_zvol(parent, zvol_of(volume))
        except NotFound:
            return  # it is there already: this is a repeat
        self._reshape(parent, volume, Kind(found.sparse, found.properties, kind.volblocksize))

    def _move_and_reshape(self, here: DatasetName, there: DatasetName, volume: Volume, kind: Kind) -> None:
        self._move(here, there, volume)
        try:
            self._reshape(there, volume, kind)
        except Error as err:
            try:
                self._move(there, here, volume)
            except Error as back:
                trouble = back.message
            else:
                raise
            message = (
                f"{err.message}. The volume is in {there} by now, where Cinder does not look for it, and"
                f" could not be brought back to {here} ({trouble}): retype it once more"
            )
            raise BackendError(message) from err

    def _move(self, here: DatasetName, there: DatasetName, volume: Volume) -> None:
        self._san.storage.move_zvol(
            here, zvol_of(volume), to=there, name=zvol_of(volume), volume_id=volume_id_of(volume)
        )

    def _kind(self, specs: Mapping[str, str]) -> Kind:
        return read_kind(specs, sparse=self._settings.sparse)
