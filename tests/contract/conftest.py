"""The implementations that the contract suite runs over."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.ground import CAPACITY_BYTES, LET_ADOPT, PARENTS, PREPARE_ZFS, prepare_fake
from tests.support.san import connected
from tests.support.shared_fake import shared
from tests.support.sshd import running_sshd
from zolder.api import Storage
from zolder.client.local import LocalAgent
from zolder.client.pool import Pool
from zolder.client.remote import RemoteStorage
from zolder.fake import FakeStorage

FAKE_AGENT = (sys.executable, "-m", "tests.support.fake_agent")
DEADLINE_SECONDS = 60


@pytest.fixture(scope="module")
def fake_storage() -> FakeStorage:
    """The fake itself."""
    storage = FakeStorage(PARENTS, capacity_bytes=CAPACITY_BYTES)
    prepare_fake(storage)
    return storage


@pytest.fixture(scope="module")
def pipe_storage() -> Iterator[Storage]:
    """A client and an agent that is its child; one channel, since the fake lives in the child."""
    pool = Pool(LocalAgent(FAKE_AGENT), max_channels=1)
    yield RemoteStorage(pool, deadline_seconds=DEADLINE_SECONDS)
    pool.close()


@pytest.fixture(scope="module")
def sshd_storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """A client, a real sshd on loopback, and an agent as its key's forced command."""
    folder = tmp_path_factory.mktemp("sshd")
    with running_sshd(folder, command=FAKE_AGENT, working_folder=Path.cwd()) as target:
        pool = Pool(target, max_channels=1)
        yield RemoteStorage(pool, deadline_seconds=DEADLINE_SECONDS)
        pool.close()


@pytest.fixture(scope="module")
def lab_storage(request: pytest.FixtureRequest) -> Iterator[Storage]:
    """A client and the agent of the lab's SAN, on real ZFS and real LIO."""
    lab = request.getfixturevalue("lab")
    lab.reset()
    lab.san.succeed(f"set -e\n{PREPARE_ZFS}\n{LET_ADOPT}")
    with connected(lab, deadline_seconds=DEADLINE_SECONDS) as storage:
        yield storage


@pytest.fixture(scope="module")
def pipe_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """A client on pipes, and one SAN in memory behind all its channels."""
    fake = FakeStorage(PARENTS, capacity_bytes=CAPACITY_BYTES)
    prepare_fake(fake)
    with shared(fake, tmp_path_factory.mktemp("pipe")) as command:
        pool = Pool(LocalAgent(command))
        yield RemoteStorage(pool, deadline_seconds=DEADLINE_SECONDS)
        pool.close()


@pytest.fixture(scope="module")
def sshd_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """The same behind a real sshd."""
    folder = tmp_path_factory.mktemp("sshd")
    fake = FakeStorage(PARENTS, capacity_bytes=CAPACITY_BYTES)
    prepare_fake(fake)
    with (
        shared(fake, folder) as command,
        running_sshd(folder, command=command, working_folder=Path.cwd()) as target,
    ):
        pool = Pool(target)
        yield RemoteStorage(pool, deadline_seconds=DEADLINE_SECONDS)
        pool.close()


@pytest.fixture(
    scope="module",
    params=["fake_storage", "pipe_shared", "sshd_shared", pytest.param("lab_storage", marks=pytest.mark.lab)],
    ids=["fake", "pipe", "sshd", "lab"],
)
def carried_storage(request: pytest.FixtureRequest) -> Storage:
    """Each implementation in turn, prepared alike, each of whose channels reaches the same SAN."""
    implementation: Storage = request.getfixturevalue(request.param)
    for parent in PARENTS:
        implementation.get_figures(parent)
    return implementation


@pytest.fixture(
    scope="module",
    params=[
        "fake_storage",
        "pipe_storage",
        "sshd_storage",
        pytest.param("lab_storage", marks=pytest.mark.lab),
    ],
    ids=["fake", "pipe", "sshd", "lab"],
)
def storage(request: pytest.FixtureRequest) -> Storage:
    """Each implementation in turn, prepared with what Zolder did not make."""
    implementation: Storage = request.getfixturevalue(request.param)
    if isinstance(implementation, RemoteStorage):
        # As a back end does at its start: the first figures of a parent are its set-up.
        for parent in PARENTS:
            implementation.get_figures(parent)
    return implementation
