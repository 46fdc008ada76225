"""What the attacks share: a SAN with its ground laid, who attacks, who watches, and the sum at the end."""

from __future__ import annotations

import subprocess
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.attack import ground
from tests.attack.line import Access
from tests.attack.observer import Observer
from tests.attack.runner import Guest, Runner

if TYPE_CHECKING:
    from lab import Lab

INSIDE: Final = Path(__file__).parent / "inside/observing.py"
ATTACK: Final = "test_attacks.py::test_attack["
_CHOSEN: Final = pytest.StashKey[set[str]]()
_HELD_OFF: Final = pytest.StashKey[set[str]]()


@dataclass(frozen=True)
class Siege:
    """A SAN under attack."""

    lab: Lab
    guest: Guest
    runner: Runner
    observer: Observer


@pytest.fixture(scope="module")
def siege(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    """A pristine SAN on which the ground has been laid once for all attacks."""
    from lab.conversation import Conversation  # noqa: PLC0415 - only tests with machines pay for the lab

    lab.reset()
    environment = lab.environment()
    stranger = tmp_path_factory.mktemp("keys") / "stranger"
    make_key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "stranger", "-f", str(stranger)]
    subprocess.run(make_key, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    access = Access(
        port=int(environment["san_ssh_port"]),
        login=environment.get("san_login", "zolder"),
        known_hosts=environment["known_hosts"],
        keys={
            "agent": environment["agent_key"],
            "other": environment["other_key"],
            "stranger": str(stranger),
        },
    )
    with Conversation(lab.san, [INSIDE], f"python3 -I -S {INSIDE.name}") as guest:
        observer = Observer(guest)
        runner = Runner(access, guest, observer.meanwhile)
        try:
            ground.lay(lab.san, runner.greeted, stranger.with_suffix(".pub"))
            observer.rest(runner.open_lines)
            yield Siege(lab, guest, runner, observer)
        finally:
            runner.close()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Note which attacks were chosen, so that one that does not run is told."""
    session.config.stash[_CHOSEN] = {item.nodeid for item in session.items if ATTACK in item.nodeid}
    session.config.stash[_HELD_OFF] = set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note which attacks were held off."""
    report = yield
    if call.when == "call" and report.passed and ATTACK in item.nodeid:
        item.config.stash[_HELD_OFF].add(item.nodeid)
    return report


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say as the very last line how many attacks there were, and how many got through or did not run."""
    chosen = config.stash.get(_CHOSEN, set())
    held_off = config.stash.get(_HELD_OFF, set())
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if chosen and reporter is not None and not config.option.collectonly:
        reporter.write_line(f"{len(chosen)} attacks, {len(chosen - held_off)} got through")
