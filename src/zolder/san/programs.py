"""What is asked of ZFS by channel programs, which read.

The Lua texts are constants and take their arguments as data, so nothing is ever built into a program. A
reading program sees one consistent state of the zpool. Source: zfs-program(8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from zolder.errors import BackendError
from zolder.san.lzc import ZfsLibrary
from zolder.san.nvlist import Value
from zolder.san.privileged import Properties, Property
from zolder.shapes import MAX_TEXT

_READ: Final = """
args = ...
out = {}
for dataset, properties in pairs(args) do
    if zfs.exists(dataset) then
        found = {}
        for _, property in ipairs(properties) do
            value, source = zfs.get_prop(dataset, property)
            if value ~= nil then
                found[property] = {value = value, source = source}
            end
        end
        out[dataset] = found
    end
end
return out
"""

_LIST: Final = """
args = ...
out = {}
for dataset in zfs.list[args.what](args.of) do
    found = {}
    for _, property in ipairs(args.properties) do
        value, source = zfs.get_prop(dataset, property)
        if value ~= nil then
            found[property] = {value = value, source = source}
        end
    end
    out[dataset] = found
end
return out
"""

_CLONES: Final = """
args = ...
out = {}
for snapshot in zfs.list.snapshots(args.of) do
    clones = {}
    for clone in zfs.list.clones(snapshot) do
        clones[clone] = true
    end
    out[snapshot] = clones
end
return out
"""


def read(library: ZfsLibrary, zpool: str, wanted: Mapping[str, Sequence[str]]) -> dict[str, Properties]:
    """Return the wanted properties of those datasets that exist, in one consistent look.

    Each dataset and each property costs some milliseconds under emulation: ask for what is needed.
    """
    return _table(library.run_program(zpool, _READ, dict(wanted)))


def list_children(
    library: ZfsLibrary, zpool: str, parent: str, properties: Sequence[str]
) -> dict[str, Properties]:
    """Return the datasets directly below a parent with their properties; costs some ms for each."""
    arguments: dict[str, Value] = {"what": "children", "of": parent, "properties": list(properties)}
    return _table(library.run_program(zpool, _LIST, arguments))


def list_clones(library: ZfsLibrary, zpool: str, zvol: str) -> dict[str, tuple[str, ...]]:
    """Return every snapshot of a zvol with the clones that depend on it."""
    answer = library.run_program(zpool, _CLONES, {"of": zvol})
    if not isinstance(answer, Mapping):
        return {}
    return {
        name: tuple(sorted(clones)) if isinstance(clones, Mapping) else () for name, clones in answer.items()
    }


def _table(answer: Value) -> dict[str, Properties]:
    if not isinstance(answer, Mapping):
        return {}
    return {
        dataset: {name: _property(found) for name, found in properties.items()}
        for dataset, properties in answer.items()
        if isinstance(properties, Mapping)
    }


def _property(found: Value) -> Property:
    if not isinstance(found, Mapping) or not isinstance(found.get("value"), str | int):
        message = "a channel program returned what it should not"
        raise BackendError(message)
    source, value = found.get("source"), found["value"]
    if isinstance(value, str) and not (len(value) <= MAX_TEXT and value.isprintable()):
        value = ""  # none of ours, and nothing that could be shown
    return Property(value if isinstance(value, int) else str(value), str(source) if source else None)
