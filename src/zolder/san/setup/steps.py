"""A set-up is a list of steps; each knows what it would change, and changes nothing where it is so already.

What must follow on a change (a daemon that reads its file again) is noted before that change is made and
struck off when it is done, so that a set-up that was cut short is completed by the next one.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final

from zolder.errors import BackendError
from zolder.san.policies import PolicyError
from zolder.san.setup.host import Host, SetupError
from zolder.san.setup.writing import replace_file

Argv = list[str]
Say = Callable[[str], None]

_PENDING: Final = "etc/zolder/.pending"


class Step(ABC):
    """One part of a set-up. ``changing`` says whether this run found something to do in it."""

    changing = False
    # Whether a plan ends where this step fails; where not, the others are done first.
    blocking = True

    @abstractmethod
    def needed(self) -> str | None:
        """Return what would change, for people; None where nothing would.

        :raises SetupError: it cannot be done, and must not be tried.
        """

    @abstractmethod
    def apply(self) -> None:
        """Make that change.

        :raises SetupError, BackendError, OSError: it could not be made.
        """


class Commands(Step):
    """Programs to run, where ``find`` finds that they are needed."""

    def __init__(self, host: Host, find: Callable[[], Sequence[Argv]]) -> None:
        """Ask ``find`` when the step's turn has come."""
        self._host = host
        self._find = find
        self._argvs: Sequence[Argv] = ()

    def needed(self) -> str | None:
        """Return the command lines."""
        self._argvs = self._find()
        return "\n".join(shlex.join(argv) for argv in self._argvs) or None

    def apply(self) -> None:
        """Run them, one after the other."""
        for argv in self._argvs:
            self._host.call(argv)


class After(Step):
    """A program to run where one of the steps ``because`` changed something, now or in a run cut short."""

    def __init__(self, host: Host, argv: Argv, because: Sequence[Step]) -> None:
        """Run ``argv`` after ``because``, which must come earlier in the plan."""
        self._host = host
        self._argv = argv
        self.because = because
        self.key = shlex.join(argv)

    def needed(self) -> str | None:
        """Return the command line."""
        wanted = any(step.changing for step in self.because) or self.key in _pending(self._host)
        return self.key if wanted else None

    def apply(self) -> None:
        """Run it."""
        self._host.call(self._argv)


def carry_out(host: Host, steps: Sequence[Step], say: Say, *, dry_run: bool) -> int:
    """Say what each step would change and, but in a dry run, change it; return how many did.

    :raises SetupError, PolicyError, BackendError, OSError: a step failed. Those before it stand; if it is a
        blocking one, none after was tried.
    """
    changes = 0
    failed: list[Exception] = []
    for step in steps:
        try:
            what = step.needed()
            if what is None:
                continue
            step.changing = True
            changes += 1
            say(what)
            if not dry_run:
                _apply(host, step, steps)
        except (SetupError, PolicyError, BackendError) as err:
            failed.append(err)
            if step.blocking:
                break
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise SetupError("\n".join(str(err) for err in failed))
    return changes


def _apply(host: Host, step: Step, steps: Sequence[Step]) -> None:
    following = {after.key for after in steps if isinstance(after, After) and step in after.because}
    _note(host, _pending(host) | following)
    step.apply()
    if isinstance(step, After):
        _note(host, _pending(host) - {step.key})


def _pending(host: Host) -> set[str]:
    content = host.read(_PENDING)
    return set(content.text.splitlines()) if content else set()


def _note(host: Host, keys: set[str]) -> None:
    if keys == _pending(host):
        return
    if keys:
        replace_file(host.path(_PENDING), "".join(f"{key}\n" for key in sorted(keys)), 0o600)
    else:
        host.path(_PENDING).unlink()
