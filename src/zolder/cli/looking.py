"""Looks twice: Cinder and the SAN are never read at one moment, and neither stands still.

What differs at the first look is looked at again a few seconds later, on both sides; only what differs still,
in the same way, is a finding.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from zolder.cli.cinder_side import CinderReader
from zolder.cli.finding import Finding
from zolder.cli.orphans import compare
from zolder.cli.san_side import Said, SanReader
from zolder.cli.sides import CinderSide, SanSide


@dataclass(frozen=True, slots=True)
class Seen:
    """What was looked at, and what of it differs."""

    cinder: CinderSide
    san: SanSide
    findings: tuple[Finding, ...]


def look(
    cinder: CinderReader,
    san: SanReader,
    *,
    settle_seconds: float,
    said: Said,
    wait: Callable[[float], None] = time.sleep,
) -> Seen:
    """Compare one parent's two sides.

    :param settle_seconds: between the two looks.
    :raises Error: the SAN cannot be asked.
    :raises oslo_db.exception.DBError: Cinder's database cannot be asked.
    """
    # The SAN first: what is made in between is then in Cinder alone, in a status that says so.
    on_san = san.read()
    with said(f"reading what Cinder has in {san.parent}"):
        in_cinder = cinder.read(on_san)
    first = compare(san.parent, in_cinder, on_san)
    if not first:
        return Seen(in_cinder, on_san, ())
    with said(f"looking again in {settle_seconds:g} seconds at {len(first)} differences"):
        wait(settle_seconds)
    on_san = san.read_again(on_san, first)
    with said(f"reading again what Cinder has in {san.parent}"):
        in_cinder = cinder.read(on_san)
    before = {finding.key for finding in first}
    second = compare(san.parent, in_cinder, on_san)
    return Seen(in_cinder, on_san, tuple(finding for finding in second if finding.key in before))
