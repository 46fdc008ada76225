"""Volume types: what a back end says it can do, what a volume's type comes to, and retype in place."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from cinder.volume import volume_utils

from zolder.cinder.base import DriverBase
from zolder.cinder.objects import Volume, VolumeType
from zolder.cinder.translate import translated, zvol_of
from zolder.cinder.volume_types import PREFIX, SPECS, TEXTS, Kind, read_kind
from zolder.errors import AlreadyExists

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

        The manager (29) calls it only where the encryption stays and the back end is this one, and goes on to
        migrate, within the user's policy, where this is False or fails.

        :raises VolumeBackendAPIException: the type asks for what there is not, or to be thick takes more than
            there is; the volume stays as it was.
        """
        if (diff or {}).get("encryption"):
            LOG.info("Volume %s: another encryption is another content: it has to be migrated.", volume.id)
            return False
        here, there = (self._pool_of(volume, place) for place in (volume.host, host["host"]))
        if here != there:
            LOG.info("Volume %s: %s is another pool: it has to be migrated.", volume.id, there)
            return False
        kind = self._kind(new_type.extra_specs or {})
        with translated():
            try:
                self._san.storage.set_zvol_properties(
                    self._parent_of(volume),
                    zvol_of(volume),
                    sparse=kind.sparse,
                    properties=kind.properties,
                    volblocksize=kind.volblocksize,
                )
            except AlreadyExists as err:
                reason = err.message
            else:
                return True
        LOG.info("Volume %s has to be migrated: %s.", volume.id, reason)
        return False

    def _pool_of(self, volume: Volume, place: str | None) -> str:
        pool: str | None = volume_utils.extract_host(place, "pool") if place else None
        return pool or self.get_pool(volume)

    def _kind(self, specs: Mapping[str, str]) -> Kind:
        return read_kind(specs, sparse=self._settings.sparse)
