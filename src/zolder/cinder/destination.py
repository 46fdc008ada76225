"""Where a volume is to go: what a pool says of its place, and the back end of this cinder.conf behind it.

``location_info`` of a pool names its parent with the parent's guid, which no other has, so a driver knows its
own SAN whatever address it has. It reads configuration, and asks a SAN nothing by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cinder import exception
from cinder.volume import configuration
from oslo_config import cfg

from zolder.api import Storage
from zolder.cinder.settings import Settings, append_options, is_ours, read_settings
from zolder.errors import InvalidRequest, NotFound
from zolder.model import Zvol
from zolder.names import DatasetName, ZvolName, zvol_dataset

_LOCATION: Final = re.compile(r"zolder:([0-9a-f]{16}):(.+)", re.ASCII)


class NotHere(Exception):
    """This control node cannot write to the destination; the message says what would let it."""


@dataclass(frozen=True, slots=True)
class Location:
    """A parent, and its guid in 16 hex digits."""

    guid: str
    parent: DatasetName

    def __str__(self) -> str:
        """Return it as a pool's ``location_info``."""
        return f"zolder:{self.guid}:{self.parent}"


@dataclass(frozen=True, slots=True)
class Place:
    """A parent on a SAN, and how messages call that SAN."""

    storage: Storage
    parent: DatasetName
    san: str

    def find(self, zvol: ZvolName) -> Zvol | None:
        """Return a zvol of ours; None where it is proven absent."""
        try:
            return self.storage.get_zvol(self.parent, zvol)
        except NotFound:
            return None

    def name(self, zvol: ZvolName) -> str:
        """Return a zvol's whole name, for messages."""
        return f"{zvol_dataset(self.parent, zvol)} on {self.san}"


def find_location(host: Mapping[str, Any]) -> Location | None:
    """Return the place of a destination as Cinder's manager gives it; None where it is none of Zolder's.

    :param host: with the pool's stats as ``capabilities``.
    """
    found = _LOCATION.fullmatch(str((host.get("capabilities") or {}).get("location_info")))
    if found is None:
        return None
    try:
        return Location(found[1], DatasetName(found[2]))
    except InvalidRequest:
        return None


def section_of(place: str) -> str:
    """Return the section of cinder.conf, wherever that is, of a destination: ``CONTROL@SECTION#POOL``."""
    return place.partition("#")[0].partition("@")[2]


def read_destination(section: str) -> Settings:
    """Read the section of a back end that another process, perhaps on another control node, serves.

    It need not be in enabled_backends: the way to the SAN is all that is used of it.

    :raises NotHere: there is no such section, or it is none of Zolder's that would do.
    """
    if section not in cfg.CONF.list_all_sections():
        message = (
            f"there is no section [{section}] in this control node's cinder.conf: with a copy of the"
            " destination's own, which need not be in enabled_backends, it would go from SAN to SAN over SSH"
        )
        raise NotHere(message)
    if not is_ours(section):
        message = f"[{section}] in this control node's cinder.conf has a volume_driver that is not Zolder's"
        raise NotHere(message)
    read = configuration.Configuration([], config_group=section)
    append_options(read)
    try:
        return read_settings(read)
    except (exception.InvalidConfigurationValue, cfg.Error) as err:
        message = f"[{section}] in this control node's cinder.conf will not do: {err}"
        raise NotHere(message) from err
