"""Where a zvol's target stands in tgtd, and whose it is.

A target's number follows from its zvol's name and its record (zolder.san.tgtrecord) tells the rest, so no
other target is looked at, but in a list of all. What is there is read, never changed; only a new target takes
its place here. Not locked: see Exporter.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zolder.errors import AlreadyExists, BackendError
from zolder.names import TargetPrefix, target_name
from zolder.san.exporter import Subject
from zolder.san.tgtd import Answer, Mode, Op, Request, Tgtd, TgtdAbsent
from zolder.san.tgtrecord import Record
from zolder.san.tgttarget import TgtTarget

# tgtd keeps an int, and puts it into the upper half of an 8-byte NAA identifier whose first 4 bits say what
# it is: so 28 bits. Initiators take the 16-byte one beside it (update_vpd_83() in usr/spc.c).
_TID_BITS: Final = 28
_TIDS_OF_ONE: Final = 2

_TARGET = re.compile(r"^Target (\d+): (.+)$", re.MULTILINE)
# What tgtd shows of a target as it makes it: its controller, and nobody who may log in.
_UNTOUCHED = re.compile(r"(?!.*LUN: [1-9]).*ACL information:\s*\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Found:
    """A target of ours; without a record its making ended behind the first step."""

    target: TgtTarget
    record: Record | None


class TgtPlaces:
    """The places that the targets of one tgtd have."""

    def __init__(self, tgtd: Tgtd, block_devices: Path) -> None:
        """Ask nothing yet."""
        self._tgtd = tgtd
        self._block_devices = block_devices

    def find(self, subject: Subject) -> Found | None:
        """Find our target at its numbers.

        :raises AlreadyExists: what bears its name there is somebody else's.
        """
        name = target_name(subject.prefix, subject.zvol)
        for target in self._targets_of(subject.dataset):
            record = target.read()
            if isinstance(record, Answer):
                # Hardly ever: only now all targets are shown, for nothing else tells a target's name.
                if self._is_unfinished(target.tid, name):
                    return Found(target, None)
            elif record and (record.target, record.dataset) == (name, subject.dataset):
                return Found(target, record)
        return None

    def find_standing(self, subject: Subject) -> Found | None:
        """Find it, where a tgtd that does not run has none."""
        try:
            return self.find(subject)
        except TgtdAbsent:
            return None

    def records_of(self, dataset: str) -> Iterator[Record]:
        """Yield the records of a zvol's targets, whatever their prefix."""
        for target in self._targets_of(dataset):
            record = target.read()
            if isinstance(record, Record) and record.dataset == dataset:
                yield record

    def records_below(self, prefix: TargetPrefix) -> Iterator[Record]:
        """Yield the records of ours whose targets' names begin with a prefix; the cost grows with them."""
        for tid, name in _TARGET.findall(self._show_all()):
            record = self._target(int(tid)).read() if name.startswith(prefix) else None
            if isinstance(record, Record) and record.target == name:
                yield record

    def create(self, wanted: Record) -> TgtTarget:
        """Make a zvol's target at the first of its numbers that is free.

        :raises AlreadyExists: its name is taken.
        :raises BackendError: its numbers are.
        """
        for target in self._targets_of(wanted.dataset):
            if target.create(wanted.target):
                return target
            if target.read() is None:
                message = f"target {wanted.target} exists and is not this zvol's"
                raise AlreadyExists(message, target=wanted.target)
        message = f"tgtd has other targets at all numbers that {wanted.target} could have"
        raise BackendError(message, target=wanted.target)

    def _target(self, tid: int) -> TgtTarget:
        return TgtTarget(self._tgtd, tid, self._block_devices)

    def _targets_of(self, dataset: str) -> Iterator[TgtTarget]:
        """Yield the places that a zvol's target may have; only by chance has another one the first."""
        return (self._target(tid) for tid in numbers_of(dataset))

    def _show_all(self) -> str:
        return self._tgtd.ask(Request(Mode.TARGET, Op.SHOW, -1)).text

    def _is_unfinished(self, tid: int, name: str) -> bool:
        _, ours, rest = f"\n{self._show_all()}".partition(f"\nTarget {tid}: {name}\n")
        if ours and not _UNTOUCHED.match(rest.partition("\nTarget ")[0]):
            message = f"target {name} exists and is not Zolder's"
            raise AlreadyExists(message, target=name)
        return bool(ours)


def numbers_of(dataset: str) -> Iterator[int]:
    """Yield the numbers that a zvol's target may have."""
    digest = hashlib.sha256(dataset.encode()).digest()
    for index in range(_TIDS_OF_ONE):
        number = int.from_bytes(digest[4 * index : 4 * index + 4], "big") >> (32 - _TID_BITS)
        yield number or 1
