"""What the root helper answers on one connection: root's verbs, within one identity's policy.

The agent's word for the identity is taken, and held to that identity's policy as it stands at each request:
what a taken agent can do is what the policy gives to all identities together (docs/security.md). What root
changed is written down in root's own name. zolder.san.daemon listens and forks.
"""

from __future__ import annotations

import syslog
from collections.abc import Callable
from typing import Final

from zolder import __version__, shapes
from zolder.errors import BackendError, VersionMismatch
from zolder.names import Identity
from zolder.san.audit import format_line
from zolder.san.locks import Locks
from zolder.san.operation import Operation
from zolder.san.policies import CurrentPolicy, PolicyError
from zolder.san.policy import Policy
from zolder.san.privileged import VERBS, Introduction, Privileged
from zolder.san.root import Root
from zolder.san.serve import Service, dispatch, parameters_of
from zolder.wire import Request

_PARAMETERS: Final = parameters_of(Privileged, VERBS)
_CHANGES: Final = frozenset(("open_export", "close_export", "grow_export", "open_device"))


class Helper(Service):
    """The service of one connection."""

    def __init__(
        self, locks: Locks, policy_for: Callable[[Identity], Callable[[], Policy]] = CurrentPolicy
    ) -> None:
        """Begin without an identity.

        :param locks: root's own.
        :param policy_for: returns what reads an identity's policy, again and again.
        """
        self._locks = locks
        self._policy_for = policy_for
        self._identity: Identity | None = None
        self._policy_now: Callable[[], Policy] | None = None

    def greet(self, params: shapes.Json) -> shapes.Json:
        """Take down whose requests these will be.

        :raises VersionMismatch: agent and helper are not of one installation.
        :raises BackendError: there is no policy for that identity.
        """
        introduction: Introduction = shapes.decode(Introduction, params)
        if introduction.version != __version__:
            message = (
                f"the root helper is {__version__} and the agent {introduction.version}:"
                " run 'systemctl restart zolder-helper.service' on the SAN"
            )
            raise VersionMismatch(message, agent_version=introduction.version)
        self._policy_now = self._policy_for(introduction.identity)
        self._identity = introduction.identity
        self._policy()
        return __version__

    def answer(self, request: Request, operation: Operation) -> shapes.Json:
        """Answer a verb of ``zolder.san.privileged.Privileged``."""
        policy = self._policy()
        return dispatch(_PARAMETERS, request, policy, lambda: Root(policy, operation, self._locks))

    def record(self, request: Request, outcome: str, seconds: float) -> None:
        """Write down what root changed, or refused to change."""
        if self._identity is not None and request.method in _CHANGES:
            line = format_line(self._identity, "helper", request, outcome, seconds)
            syslog.syslog(syslog.LOG_AUTHPRIV | syslog.LOG_INFO, line)

    def _policy(self) -> Policy:
        if self._policy_now is None:
            raise AssertionError  # serve() lets nothing come before hello
        try:
            return self._policy_now()
        except PolicyError as err:
            raise BackendError(str(err)) from err
