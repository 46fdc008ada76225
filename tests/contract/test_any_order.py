"""Whatever Cinder does in whatever order, each volume holds what was written to it, and nothing is left over.

Thousands of sequences on the fake; on real ZFS ``ZOLDER_SEQUENCES`` of them, half a minute each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.contract.any_order import AnyOrder, Blocks
from tests.contract.ground import PARENT
from tests.support.san import connected
from zolder.fake import FakeStorage

if TYPE_CHECKING:
    from lab import Lab
    from lab.conversation import Conversation

INSIDE: Final = Path(__file__).parents[2] / "lab/inside"
ON_THE_FAKE: Final = 2000
ON_ZFS: Final = int(os.environ.get("ZOLDER_SEQUENCES", "8"))


class FakeDisks:
    """The fake's own blocks."""

    def __init__(self, storage: FakeStorage) -> None:
        """Write to and read from its zvols."""
        self._storage = storage

    def write(self, dataset: str, number: int, text: str) -> None:
        """See ``Disks``."""
        self._storage.write_block(dataset, number, text.encode())

    def read(self, dataset: str) -> Blocks:
        """See ``Disks``."""
        return {number: data.decode() for number, data in self._storage.read_blocks(dataset).items()}

    def expected(self, text: str) -> str:
        """See ``Disks``."""
        return text


class ZfsDisks:
    """The zvols' own devices, on the SAN."""

    def __init__(self, program: Conversation) -> None:
        """Ask a program there."""
        self._program = program

    def write(self, dataset: str, number: int, text: str) -> None:
        """See ``Disks``."""
        self._program.ask("write", dataset=dataset, number=number, text=text)

    def read(self, dataset: str) -> Blocks:
        """See ``Disks``."""
        found = self._program.ask("read", dataset=dataset)
        return {int(number): checksum for number, checksum in found.items()}

    def expected(self, text: str) -> str:
        """See ``Disks``."""
        from lab.inside.blocks import checksum_of  # noqa: PLC0415 - only what needs machines imports the lab

        return checksum_of(text)


def test_on_the_fake() -> None:
    """Thousands of sequences on the fake, every volume read after every step."""
    fake = FakeStorage((PARENT,))

    class OnTheFake(AnyOrder):
        storage = fake
        disks = FakeDisks(fake)

    run_state_machine_as_test(
        OnTheFake,
        settings=settings(max_examples=ON_THE_FAKE, stateful_step_count=30, deadline=None),
    )


@pytest.fixture
def disks(lab: Lab) -> Iterator[ZfsDisks]:
    """A pristine SAN's zvols."""
    from lab.conversation import Conversation  # noqa: PLC0415 - only what needs machines imports the lab

    lab.reset()
    with Conversation(lab.san, [INSIDE / "blocks.py"], "python3 -S blocks.py") as program:
        yield ZfsDisks(program)


@pytest.mark.timeout(300 + 120 * ON_ZFS)
def test_on_zfs(lab: Lab, disks: ZfsDisks) -> None:
    """The same on real ZFS, the touched volume read after each step, and all of them at the end."""
    with connected(lab) as remote:
        remote.get_figures(PARENT)

        class OnZfs(AnyOrder):
            storage = remote
            thorough = False

        OnZfs.disks = disks
        run_state_machine_as_test(
            OnZfs,
            settings=settings(
                max_examples=ON_ZFS,
                stateful_step_count=20,
                deadline=None,
                database=None,
                # To make a failing sequence shorter would take an hour.
                phases=[Phase.generate],
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
