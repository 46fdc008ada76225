"""What several files of lab tests stand on: exports over each exporter in turn, and figures.

The figures are what tests measure beside what they check; they are printed at the end, a line each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.backends import EACH_EXPORTER
from lab.cinder import Cinder
from lab.conversation import Conversation
from tests.contract.ground import PARENT
from tests.support.exported import Volume, make_volume
from tests.support.reach import Reach, compute_reach, second_reach
from tests.support.san import connected
from zolder.names import LIO, NVMET, TGT, ExporterName

if TYPE_CHECKING:
    from lab import Lab
    from lab.volumes import Volumes
    from zolder.client.remote import RemoteStorage

INSIDE = Path(__file__).parents[2] / "lab/inside"


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Keep a sentence with a figure for the end of the run, under the test's name."""
    # A property goes with the test's report, also from a worker of xdist; tests/conftest.py prints it.
    return lambda text: request.node.user_properties.append(("figure", f"{request.node.name}: {text}"))


# Exports


@pytest.fixture(scope="module", params=[LIO, TGT, NVMET], ids=str)
def exporter(request: pytest.FixtureRequest) -> ExporterName:
    """Each exporter in turn."""
    name: ExporterName = request.param
    return name


@pytest.fixture(scope="module")
def storage(lab: Lab) -> Iterator[RemoteStorage]:
    """A pristine SAN as the driver reaches it."""
    lab.reset()
    with connected(lab) as storage:
        yield storage


@pytest.fixture
def volume(storage: RemoteStorage, exporter: ExporterName) -> Iterator[Volume]:
    """A zvol of its own; nothing of it is left afterwards, or the test fails."""
    made = make_volume(storage, exporter)
    yield made
    made.remove()
    assert [export for export in storage.list_exports(PARENT) if export.zvol == made.name] == []


@pytest.fixture
def compute(lab: Lab, exporter: ExporterName) -> Reach:
    """The compute machine's own initiator."""
    return compute_reach(lab, exporter)


@pytest.fixture
def second(lab: Lab, exporter: ExporterName) -> Reach:
    """A second initiator."""
    return second_reach(lab, exporter)


@pytest.fixture
def writer(lab: Lab) -> Iterator[Conversation]:
    """A program in compute that writes and knows what it wrote."""
    with closing(Conversation(lab.compute, [INSIDE / "writer.py"], "python3 -S writer.py")) as program:
        yield program


# Cinder with three back ends


@pytest.fixture(scope="module")
def cinder(lab: Lab) -> Iterator[Cinder]:
    """Cinder with a back end for each exporter, and an empty database, on a pristine SAN."""
    lab.reset()
    running = Cinder(lab, EACH_EXPORTER)
    running.up(fresh=True)
    yield running
    if not lab.keep:
        running.down()


@pytest.fixture
def volumes(cinder: Cinder) -> Volumes:
    """A client of its API."""
    return cinder.volumes()


@pytest.fixture(scope="module")
def agent(lab: Lab, cinder: Cinder) -> Iterator[RemoteStorage]:  # noqa: ARG001 - after its reset
    """The SAN as the driver reaches it, to see what stands."""
    with connected(lab) as storage:
        yield storage
