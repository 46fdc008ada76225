"""Contents at the client's end: lines that are cut, agents that refuse, and green threads beside."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.ground import MIB, PARENT
from tests.support.memory import MemorySink, MemorySource, random_bytes, whole
from tests.support.shared_fake import shared
from zolder.client import contents
from zolder.client.channel import Channel
from zolder.client.contents import Carrier
from zolder.client.deadline import Deadline
from zolder.client.local import LocalAgent
from zolder.errors import ConnectionLost, RemoteProtocolError
from zolder.fake import FakeStorage
from zolder.model import Change
from zolder.names import VolumeId, ZvolName

ZVOL = ZvolName("volume-1")
SIZE = 48 * MIB
GREEN = "tests.support.green_contents"


# An agent that greets, and then does what a test says; ``asked`` is what it was asked.
AGENT = """
import json, sys
def hear():
    return json.loads(sys.stdin.buffer.readline())
def say(**frame):
    sys.stdout.buffer.write(json.dumps(frame).encode() + b"\\n")
    sys.stdout.flush()
WELCOME = {"protocol": 1, "version": "0", "features": [], "identity": "x", "zfs_version": "x"}
say(id=hear()["id"], value=WELCOME)
asked = hear()
"""


def lying(folder: Path, *lines: str) -> Carrier:
    """Return the way to an agent of its own kind."""
    program = folder / "agent.py"
    program.write_text(AGENT + "\n".join(lines))
    return Carrier(LocalAgent((sys.executable, "-S", "-E", str(program))), deadline_seconds=5, most=1)


@pytest.fixture
def fake() -> FakeStorage:
    """A SAN with one zvol."""
    storage = FakeStorage((PARENT,))
    volume_id = VolumeId("00000000-0000-4000-8000-000000000001")
    storage.create_zvol(PARENT, ZVOL, volume_id=volume_id, volsize_bytes=SIZE, sparse=True)
    return storage


@pytest.fixture
def carrier(fake: FakeStorage, tmp_path: Path) -> Iterator[Callable[..., Carrier]]:
    """A function that makes a way to that SAN, cut once after so many bytes."""
    with shared(fake, tmp_path) as command:

        def make(*cut: int, most: int = 2) -> Carrier:
            route = LocalAgent((*command, *(str(number) for number in cut)))
            return Carrier(route, deadline_seconds=20, most=most)

        yield make


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits before it goes on."""
    monkeypatch.setattr(contents, "_PAUSE_SECONDS", 0.01)


@pytest.mark.parametrize("cut", [1000, 5 * MIB, 30 * MIB])
def test_a_write_goes_on(fake: FakeStorage, carrier: Callable[..., Carrier], cut: int) -> None:
    """A line that is cut anywhere is taken up behind what lies safe."""
    data = random_bytes(SIZE)
    source = MemorySource({0: data})
    assert carrier(cut).write_zvol(PARENT, ZVOL, source) == Change(changed=True, value=None)
    blocks = fake.read_blocks(f"{PARENT}/{ZVOL}")
    assert b"".join(blocks[number] for number in sorted(blocks)) == data
    assert SIZE <= source.sent_bytes <= SIZE + 16 * MIB


def test_a_way_that_leads_nowhere(tmp_path: Path) -> None:
    """A line that is lost again and again without getting any further is given up."""
    noted = tmp_path / "asked"
    carrier = lying(tmp_path, f"open({str(noted)!r}, 'a').write(json.dumps(asked) + '\\n')")
    with pytest.raises(ConnectionLost):
        carrier.write_zvol(PARENT, ZVOL, MemorySource({0: bytes(4096)}))
    asked = [json.loads(line) for line in noted.read_text().splitlines()]
    assert len(asked) == 5
    assert len({request["operation"] for request in asked}) == 1
    assert not any(request["params"]["resumed"] for request in asked)


def test_one_that_had_begun_says_so(tmp_path: Path) -> None:
    """Told once that it may send, an operation is no beginner any more when it asks again."""
    noted = tmp_path / "asked"
    carrier = lying(
        tmp_path,
        f"open({str(noted)!r}, 'a').write(json.dumps(asked) + '\\n')",
        'say(id=asked["id"], safe_bytes=0)',
    )
    with pytest.raises(ConnectionLost):
        carrier.write_zvol(PARENT, ZVOL, MemorySource({0: bytes(4096)}))
    resumed = [json.loads(line)["params"]["resumed"] for line in noted.read_text().splitlines()]
    assert resumed == [False, True, True, True, True]


def test_a_line_that_ends_between_two_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An end that is noticed while nothing is being sent is a lost line, and not silence to be waited out."""
    send = Channel.send_contents

    def send_and_wait(self: Channel, data: bytes | memoryview, deadline: Deadline) -> None:
        send(self, data, deadline)
        if len(data) == MIB:
            self._child._process.wait(10)

    monkeypatch.setattr(Channel, "send_contents", send_and_wait)
    monkeypatch.setattr(contents, "_SILENCE_SECONDS", 2.0)
    carrier = lying(tmp_path, 'say(id=asked["id"], safe_bytes=0)', f"sys.stdin.buffer.read({MIB})")
    with pytest.raises(ConnectionLost):
        carrier.write_zvol(PARENT, ZVOL, MemorySource({0: random_bytes(MIB)}))


def test_refused_midway(fake: FakeStorage, carrier: Callable[..., Carrier]) -> None:
    """What the agent says in the middle comes to the caller, however much was still to be sent."""
    with pytest.raises(RemoteProtocolError, match="does not lie between"):
        carrier().write_zvol(PARENT, ZVOL, MemorySource({0: random_bytes(2 * SIZE)}))
    assert max(fake.read_blocks(f"{PARENT}/{ZVOL}")) == SIZE // 4096 - 1


def test_a_source_that_fails(carrier: Callable[..., Carrier]) -> None:
    """An error of the caller's own passes through, and the zvol is free for the next."""

    class Failing(MemorySource):
        def acknowledge(self, _: int) -> None:
            raise ZeroDivisionError

    way = carrier(most=1)
    with pytest.raises(ZeroDivisionError):
        way.write_zvol(PARENT, ZVOL, Failing({0: random_bytes(SIZE)}))
    piece = {MIB: random_bytes(MIB)}
    way.write_zvol(PARENT, ZVOL, MemorySource(piece))
    sink = MemorySink()
    assert way.read_zvol(PARENT, ZVOL, sink) == SIZE
    assert sink.contents == whole(piece, SIZE)


@pytest.mark.parametrize(
    "lies",
    [
        ["sys.stdin.buffer.read(16)", "sys.stdout.buffer.write(b'DATE' + bytes(12))"],
        ["sys.stdin.buffer.read(16)", "say(id=2, value=0)"],
        ["sys.stdin.buffer.read(16)", "say(id=2, safe_bytes=7)"],
        ["sys.stdin.buffer.read(16)", "say(id=3, value=0)"],
        ["sys.stdout.buffer.write(b'DATA')"],
    ],
)
def test_an_agent_that_lies(tmp_path: Path, lies: list[str]) -> None:
    """No frame, no last frame, another request's answer, bytes too soon: the agent's fault, and no volume."""
    ready = 'sys.stdout.buffer.write(b\'{"id":2,"safe_bytes":0}\\n\')'
    carrier = lying(
        tmp_path,
        ready,
        "sys.stdout.flush()" if len(lies) > 1 else "",
        *lies,
        "sys.stdout.flush()",
        "sys.stdin.buffer.read()",
    )
    with pytest.raises(RemoteProtocolError):
        carrier.read_zvol(PARENT, ZVOL, MemorySink())


def test_it_works_under_eventlet(fake: FakeStorage, tmp_path: Path) -> None:
    """With everything monkey-patched three green threads carry contents, and none stops the others."""
    with shared(fake, tmp_path) as command:
        done = subprocess.run(
            [sys.executable, "-m", GREEN, *command], capture_output=True, text=True, timeout=100, check=False
        )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["equal"] == [True, True, True]
    assert report["longest_pause_seconds"] < 1
