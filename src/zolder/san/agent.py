"""What the agent answers: the storage contract, to one identity, within its policy.

What the client asked ssh to run is never looked at: who it is comes from the forced command alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from zolder import __version__, shapes
from zolder.api import CONTENTS_METHODS, METHODS, ContentsRequests, Storage
from zolder.errors import BackendError, VersionMismatch
from zolder.san.carrying import CarriedContents
from zolder.san.operation import Operation
from zolder.san.policies import PolicyError
from zolder.san.policy import Policy
from zolder.san.serve import dispatch, parameters_of
from zolder.wire import FEATURES, PROTOCOLS, Greeting, Request, Welcome

_PARAMETERS: Final = parameters_of(Storage, METHODS)
_CONTENTS_PARAMETERS: Final = parameters_of(ContentsRequests, CONTENTS_METHODS)


class Agent:
    """The service of one channel."""

    def __init__(
        self,
        policy_now: Callable[[], Policy],
        *,
        storage_for: Callable[[Policy, Operation], Storage],
        zfs_version: Callable[[], str],
    ) -> None:
        """Answer within a policy.

        :param policy_now: returns the policy, as it is at each request.
        :param storage_for: builds the storage that one operation acts through.
        :param zfs_version: the version of OpenZFS here; raises BackendError where there is none.
        """
        self._policy_now = policy_now
        self._storage_for = storage_for
        self._zfs_version = zfs_version

    def greet(self, params: shapes.Json) -> shapes.Json:
        """Say who the client is taken for and what this agent is.

        :raises VersionMismatch: there is no protocol that both speak.
        """
        greeting: Greeting = shapes.decode(Greeting, params)
        common = set(greeting.protocols) & set(PROTOCOLS)
        if not common:
            message = (
                f"the agent {__version__} speaks protocol {_listed(PROTOCOLS)}, the client"
                f" {greeting.version} {_listed(greeting.protocols)}: upgrade the older of the two"
            )
            raise VersionMismatch(message, agent_version=__version__)
        welcome = Welcome(max(common), __version__, FEATURES, self._policy().identity, self._zfs_version())
        return shapes.encode(welcome)

    def answer(self, request: Request, operation: Operation) -> shapes.Json:
        """Answer a request of ``zolder.api``."""
        policy = self._policy()

        def storage() -> Storage:
            return self._storage_for(policy, operation)

        if request.method in _CONTENTS_PARAMETERS:
            return dispatch(
                _CONTENTS_PARAMETERS, request, policy, lambda: CarriedContents(storage(), operation.line)
            )
        return dispatch(_PARAMETERS, request, policy, storage)

    def _policy(self) -> Policy:
        try:
            return self._policy_now()
        except PolicyError as err:
            raise BackendError(str(err)) from err


def _listed(protocols: tuple[int, ...]) -> str:
    return ", ".join(str(number) for number in protocols[:8]) or "none"
