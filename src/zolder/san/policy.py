"""What an identity may do, checked before every request. Pure; zolder.san.policies reads it from the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from zolder.api import check_volsize
from zolder.errors import InvalidRequest, NotPermitted
from zolder.model import Route
from zolder.names import DatasetName, Identity, Name, Portal, TargetPrefix, is_between
from zolder.properties import Daring, daring

GIB: Final = 2**30

# To look is not to read what guests keep: `read_zvol` is not among them.
_READING: Final = ("find_", "get_", "list_", "read_holders")
# What makes ours what others made: a parent has to be listed for it by itself.
_ADOPTING: Final = "adopt_"
# What the agent asks of root about what is its own, too.
_LOOKING_AT_OWN: Final = "read_holders"
# How the requests begin that each role may ask for. A role that is not written down is "volumes". What a
# replica receives comes with replication; until then its identity looks.
ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "volumes": ("",),
    "read-only": _READING,
    "replication-receive": (*_READING, "receive_"),
}
# More than the largest pool of a control node has, and little enough memory.
MAX_CHANNELS: Final = 32


@dataclass(frozen=True, slots=True)
class Policy:
    """One identity's rights. The limits hold below each of its parents; None is no limit."""

    identity: Identity
    parents: tuple[DatasetName, ...]
    portals: tuple[Portal, ...] = ()
    target_prefixes: tuple[TargetPrefix, ...] = ()
    shared_parents: tuple[DatasetName, ...] = ()
    adopt_from: tuple[DatasetName, ...] = ()
    daring_properties: tuple[Daring, ...] = ()
    role: str = "volumes"
    max_volume_gib: int | None = None
    max_volumes: int | None = None
    max_total_gib: int | None = None
    max_channels: int = MAX_CHANNELS

    def check(self, method: str, arguments: Mapping[str, Any]) -> None:
        """Check a request and its typed arguments against this identity's rights.

        :raises NotPermitted: the role has no such request, or one of its arguments is beyond it.
        :raises InvalidRequest: a size that no zvol can have, or an export without a portal.
        """
        if not self.allows(method):
            message = f"identity {self.identity} is {self.role} in this SAN's policy: it may not {method}"
            raise NotPermitted(message)
        self._check_listed("parent", [arguments["parent"]], self.parents)
        if method != _LOOKING_AT_OWN:
            self._check_names(arguments)
        if "to" in arguments:
            self._check_listed("parent", [arguments["to"]], self.parents)
        members = (*arguments.get("members", ()), *arguments.get("copies", ()))
        self._check_listed("parent", [member.parent for member in members], self.parents)
        if method.startswith(_ADOPTING):
            self._check_listed("place to adopt from", [arguments["parent"]], self.adopt_from)
        if "route" in arguments:
            self.check_route(arguments["route"])
        if "properties" in arguments:
            self._check_listed("daring property", daring(arguments["properties"]), self.daring_properties)
        if "volsize_bytes" in arguments:
            self._check_size(arguments["volsize_bytes"])
        for copy in arguments.get("copies", ()):
            self._check_listed("daring property", daring(copy.properties), self.daring_properties)
            self._check_size(copy.volsize_bytes)

    def _check_size(self, volsize_bytes: int) -> None:
        check_volsize(volsize_bytes)
        if self.max_volume_gib is not None and volsize_bytes > self.max_volume_gib * GIB:
            self._refuse("max_volume_gib", f"{self.max_volume_gib} GiB in one volume")

    @staticmethod
    def _check_names(arguments: Mapping[str, Any]) -> None:
        """Keep requests off what is no volume any more, or none yet: its names are the agent's own."""
        named = [arguments.get(key) for key in ("zvol", "source", "name")]
        named += [one.zvol for one in (*arguments.get("members", ()), *arguments.get("wanted", ()))]
        named += [name for copy in arguments.get("copies", ()) for name in (copy.source, copy.zvol)]
        for name in named:
            if isinstance(name, str) and is_between(name):
                message = f"{name} is no volume: such names are the agent's own"
                raise NotPermitted(message)

    def allows(self, method: str) -> bool:
        """Say whether its role has such a request."""
        return method.startswith(ROLES[self.role])

    def check_route(self, route: Route) -> None:
        """Check how something is to be exported.

        :raises NotPermitted: a portal or a prefix is not among this identity's.
        :raises InvalidRequest: there is no portal, or one twice.
        """
        self._check_listed("portal", route.portals, self.portals)
        self.check_prefix(route.prefix)
        if not 0 < len(route.portals) == len(set(route.portals)):
            message = "an export needs at least one portal, and each once"
            raise InvalidRequest(message)

    def check_prefix(self, prefix: TargetPrefix) -> None:
        """Check what a target's name is to begin with.

        :raises NotPermitted: it is none of this identity's.
        """
        self._check_listed("target prefix", [prefix], self.target_prefixes)

    @property
    def limits_sum(self) -> bool:
        """Whether `check_sum` has anything to check."""
        return self.max_volumes is not None or self.max_total_gib is not None

    def check_sum(self, zvol_count: int, provisioned_bytes: int) -> None:
        """Check what a parent would hold with the change that is asked for.

        :raises NotPermitted: it is more than this identity may have there.
        """
        if self.max_volumes is not None and zvol_count > self.max_volumes:
            self._refuse("max_volumes", f"{self.max_volumes} volumes below one parent")
        if self.max_total_gib is not None and provisioned_bytes > self.max_total_gib * GIB:
            self._refuse("max_total_gib", f"{self.max_total_gib} GiB below one parent")

    def _refuse(self, limit: str, what: str) -> None:
        message = f"identity {self.identity} may have {what} and no more ({limit} in this SAN's policy)"
        raise NotPermitted(message)

    def _check_listed(self, what: str, asked: Any, listed: tuple[Name, ...]) -> None:  # noqa: ANN401 - names
        for name in asked:
            if name not in listed:
                message = f"{what} {name} is not among those of identity {self.identity} in this SAN's policy"
                raise NotPermitted(message)
