"""What the driver uses of Cinder's objects, which have no types of their own (cinder/objects)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeAlias

# oslo.config makes an attribute of each option when it is registered.
Configuration: TypeAlias = Any
# What os-brick makes and Nova passes on. zolder.cinder.attachments writes into it.
Connector: TypeAlias = dict[str, Any]


class Attachment(Protocol):
    """A row that says to whom a volume is, or is being, attached."""

    attach_status: str | None
    # "null", the word, where attachment_create was told of none.
    attach_mode: str | None
    connector: Connector | None
    # What initialize_connection returned, its data on the same level as the rest.
    connection_info: Mapping[str, Any] | None


class VolumeType(Protocol):
    """A volume's type, and what an operator wrote into it."""

    extra_specs: Mapping[str, str] | None


class Volume(Protocol):
    """A volume. ``id`` is what users know; ``name_id`` and ``name`` are what a back end goes by."""

    id: str
    name_id: str
    name: str
    # Its back end and pool: CONTROL@BACKEND#POOL.
    host: str | None
    size: int
    status: str | None
    provider_auth: str | None
    provider_location: str | None
    volume_attachment: Iterable[Attachment] | None
    volume_type_id: str | None
    volume_type: Any  # VolumeType; Cinder loads it from its database when it is asked for
    group_id: str | None
    group: Any  # Group; loaded as the type is
    created_at: Any  # datetime


class Snapshot(Protocol):
    """A snapshot, and the name of the volume that it is of."""

    id: str
    name: str
    volume_name: str
    volume: Volume
    provider_auth: str | None
    provider_location: str | None


class Group(Protocol):
    """A generic group; its type says whether its snapshots are of one moment."""

    id: str
    group_type_id: str
    volumes: Iterable[Volume]


class GroupSnapshot(Protocol):
    """A snapshot of a whole group."""

    id: str
    group_type_id: str
