"""Asks once more where a zvol was not found because a revert of it was cut: it is settled first.

Costs nothing where all is well: only what is not there is looked for under the name that a revert gives, and
once more under its own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from zolder.errors import NotFound
from zolder.names import DatasetName, ZvolName


class Settles(Protocol):
    """A storage that can settle a zvol."""

    def settle(self, parent: DatasetName, zvol: ZvolName) -> bool:
        """End what a revert that was cut has left of a zvol; return whether there was anything."""


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=Settles)


def settling(
    of: str = "zvol",
) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """Make a verb settle a zvol that it does not find, and try again.

    :param of: the argument that names the zvol.
    """

    def decorate(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        signature = inspect.signature(method)

        @functools.wraps(method)
        def whole(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return method(self, *args, **kwargs)
            except NotFound:
                named = signature.bind(self, *args, **kwargs).arguments
                self.settle(named["parent"], named[of])
            # Whether there was anything: a revert beside may have ended between the look and the lock.
            return method(self, *args, **kwargs)

        return whole

    return decorate
