"""Clients of Cinder that work at once, each on volumes of its own, in a mixture of everything.

A client asks the API and waits for the status that says the end, as a script of a cloud's user would. It goes
on with other volumes where one does not come to its end. What it draws depends on its number and the seed;
in which order the clients meet does not.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from cinderclient import client, exceptions
from keystoneauth1.exceptions import ClientException

from lab.cloud.ledger import End, Entry, Ledger
from lab.errors import TimedOut
from lab.waiting import wait_until

REFUSALS: Final = (exceptions.ClientException, ClientException)
WAIT_SECONDS: Final = 120.0
INTERVAL_SECONDS: Final = 0.25
LARGEST_GIB: Final = 3
# A volume more is not made beyond that many of one client.
MOST_VOLUMES: Final = 12
# Nor a snapshot more of one volume.
MOST_SNAPSHOTS: Final = 3
# How often each is drawn. Where nothing is there that it could be done to, a volume is made.
WEIGHTS: Final = {
    "create": 14, "snapshot": 12, "clone": 9, "from snapshot": 9, "extend": 9, "attach": 10, "detach": 9,
    "retype": 8, "revert": 7, "delete snapshot": 7, "delete": 9,
}  # fmt: skip


class Ended(Exception):
    """Cinder has put what an operation is about into an error."""


@dataclass
class Mine:
    """One volume of a client, and what is on it."""

    id: str
    size: int
    kind: str
    # Oldest first, each with the volume's size then; only the newest can be reverted to.
    snapshots: dict[str, int] = field(default_factory=dict)
    attachment: str | None = None

    @property
    def newest(self) -> str:
        """The newest of its snapshots, of which there is one at least."""
        return next(reversed(self.snapshots))

    @property
    def can_revert(self) -> bool:
        """Whether Cinder reverts it: it has a snapshot, and has not grown since."""
        return bool(self.snapshots) and self.snapshots[self.newest] == self.size


class Worker:
    """One client."""

    def __init__(
        self, number: int, api: client.Client, kinds: tuple[str, str], ledger: Ledger, seed: int
    ) -> None:
        """Work on nothing yet.

        :param kinds: the ids of two volume types between which a volume is retyped without being moved.
        """
        self.name = f"client-{number}"
        # Each has a machine of its own that it attaches volumes to.
        self._connector = {
            "initiator": f"iqn.2004-10.org.zolder:{self.name}",
            "host": self.name,
            "ip": "192.168.77.2",
            "multipath": False,
            "os_type": "linux2",
            "platform": "x86_64",
        }
        self._api, self._kinds, self._ledger = api, kinds, ledger
        self._random = random.Random(f"{seed} {number}")  # noqa: S311 - a mixture, no secret
        self._volumes: dict[str, Mine] = {}
        self._subject = ""

    def work(self) -> None:
        """Go on until the ledger has enough."""
        while self._ledger.begin():
            kind, act = self._draw()
            began, end, why, self._subject = time.monotonic(), End.DONE, "", "a new one"
            try:
                act()
            except TimedOut as err:
                end, why = End.STUCK, str(err)
            except (Ended, *REFUSALS) as err:
                end, why = End.FAILED, str(err)
            if end is not End.DONE:
                self._forget(self._subject)
            self._ledger.add(Entry(kind, self._subject, began, time.monotonic(), end, why))

    def _draw(self) -> tuple[str, Callable[[], None]]:
        """Return what to do next, with its subject chosen."""
        possible: dict[str, list[Mine]] = {
            "snapshot": [one for one in self._volumes.values() if len(one.snapshots) < MOST_SNAPSHOTS],
            "clone": list(self._volumes.values()),
            "from snapshot": [one for one in self._volumes.values() if one.snapshots],
            "extend": [one for one in self._free() if one.size < LARGEST_GIB],
            "attach": self._free(),
            "detach": [one for one in self._volumes.values() if one.attachment],
            "retype": self._free(),
            "revert": [one for one in self._free() if one.can_revert],
            "delete snapshot": [one for one in self._volumes.values() if one.snapshots],
            "delete": [one for one in self._free() if not one.snapshots],
        }
        full = len(self._volumes) >= MOST_VOLUMES
        growing = {"create", "clone", "from snapshot"} if full else set()
        weights = {
            kind: weight
            for kind, weight in WEIGHTS.items()
            if kind not in growing and (kind == "create" or possible[kind])
        }
        if not weights:
            return "create", self._create
        (kind,) = self._random.choices(list(weights), list(weights.values()))
        if kind == "create":
            return kind, self._create
        one = self._random.choice(possible[kind])
        acts: dict[str, Callable[[Mine], None]] = {
            "snapshot": self._snapshot, "clone": self._clone, "from snapshot": self._copy_snapshot,
            "extend": self._extend, "attach": self._attach, "detach": self._detach, "retype": self._retype,
            "revert": self._revert, "delete snapshot": self._delete_snapshot, "delete": self._delete,
        }  # fmt: skip
        return kind, lambda: acts[kind](one)

    def _free(self) -> list[Mine]:
        return [one for one in self._volumes.values() if not one.attachment]

    def _create(self) -> None:
        kind, size = self._random.choice(self._kinds), self._random.choice((1, 1, 2))
        self._made(size, kind, volume_type=kind)

    def _clone(self, one: Mine) -> None:
        self._made(one.size, one.kind, source_volid=one.id)

    def _copy_snapshot(self, one: Mine) -> None:
        snapshot = self._random.choice(list(one.snapshots))
        # The volume may have grown since the snapshot, and a larger copy is asked for then.
        self._made(one.size, one.kind, snapshot_id=snapshot)

    def _made(self, size: int, kind: str, **how: str) -> None:
        volume = self._api.volumes.create(size, name=self.name, **how)
        self._subject = volume.id
        self._wait(self._api.volumes, volume.id, "available")
        self._volumes[volume.id] = Mine(volume.id, size, kind)

    def _snapshot(self, one: Mine) -> None:
        self._subject = one.id
        snapshot = self._api.volume_snapshots.create(one.id, force=True, name=self.name)
        self._subject = snapshot.id
        self._wait(self._api.volume_snapshots, snapshot.id, "available")
        one.snapshots[snapshot.id] = one.size

    def _extend(self, one: Mine) -> None:
        self._subject = one.id
        self._api.volumes.extend(one.id, one.size + 1)
        self._wait(self._api.volumes, one.id, "available")
        if self._api.volumes.get(one.id).size != one.size + 1:
            raise Ended(f"it is available again and has not grown to {one.size + 1} GiB")
        one.size += 1

    def _attach(self, one: Mine) -> None:
        self._subject = one.id
        made = self._api.attachments.create(one.id, dict(self._connector), mode="rw")
        self._api.attachments.complete(made["id"])
        self._wait(self._api.volumes, one.id, "in-use")
        one.attachment = made["id"]

    def _detach(self, one: Mine) -> None:
        self._subject = one.id
        self._api.attachments.delete(one.attachment)
        self._wait(self._api.volumes, one.id, "available")
        one.attachment = None

    def _retype(self, one: Mine) -> None:
        self._subject = one.id
        (other,) = (kind for kind in self._kinds if kind != one.kind)
        self._api.volumes.retype(one.id, other, "never")
        self._wait(self._api.volumes, one.id, "available")
        one.kind = other

    def _revert(self, one: Mine) -> None:
        self._subject = one.id
        snapshot = one.newest
        self._api.volumes.revert_to_snapshot(one.id, snapshot)
        self._wait(self._api.volumes, one.id, "available")
        self._wait(self._api.volume_snapshots, snapshot, "available")

    def _delete_snapshot(self, one: Mine) -> None:
        self._subject = one.newest
        self._api.volume_snapshots.delete(self._subject)
        self._wait(self._api.volume_snapshots, self._subject, None)
        del one.snapshots[self._subject]

    def _delete(self, one: Mine) -> None:
        self._subject = one.id
        self._api.volumes.delete(one.id)
        self._wait(self._api.volumes, one.id, None)
        del self._volumes[one.id]

    def _wait(self, those: Any, identifier: str, wanted: str | None) -> None:  # noqa: ANN401 - no types
        """Wait until something has a status, or is gone where None is wanted.

        :raises Ended: it came into an error.
        :raises TimedOut: neither happened.
        """
        seen = ""

        def reached() -> bool:
            nonlocal seen
            try:
                seen = those.get(identifier).status
            except exceptions.NotFound:
                seen = "gone"
            if seen.startswith("error"):
                raise Ended(f"{identifier} is in {seen}")
            return seen == (wanted or "gone")

        try:
            wait_until(
                reached,
                WAIT_SECONDS,
                f"{identifier} to be {wanted or 'gone'}",
                interval_seconds=INTERVAL_SECONDS,
            )
        except TimedOut as err:
            raise TimedOut(f"{err}; it is {seen}") from err

    def _forget(self, subject: str) -> None:
        """Leave a volume alone that did not do what it should, or whose snapshot did not."""
        for one in list(self._volumes.values()):
            if subject == one.id or subject in one.snapshots:
                with suppress(KeyError):
                    del self._volumes[one.id]
