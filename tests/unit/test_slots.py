from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from zolder.errors import BackendError, Busy
from zolder.names import Identity
from zolder.san.slots import take_channel

ROOT = Path(__file__).parents[2]
LAB, OTHER = Identity("lab"), Identity("other")
# Take so many channels in a process of its own, say how that went, and keep them until standard input ends.
TAKE = """
import sys
from pathlib import Path
from zolder.errors import Busy
from zolder.names import Identity
from zolder.san.slots import take_channel
folder, identity, most, number = sys.argv[1:]
try:
    for _ in range(int(number)):
        take_channel(Path(folder), Identity(identity), int(most))
    print("taken", flush=True)
except Busy as err:
    print(err.message, err.details, flush=True)
sys.stdin.read()
"""


@contextmanager
def taking(
    folder: Path, identity: Identity = LAB, *, most: int = 2, number: int = 1
) -> Iterator[subprocess.Popen[str]]:
    """Have a process that takes channels, and kill it at the end of the block."""
    argv = [sys.executable, "-c", TAKE, str(folder), identity, str(most), str(number)]
    with subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    """Wait for what such a process says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_the_limit(tmp_path: Path) -> None:
    """The most that an identity may have at once holds over all processes; a killed one frees its own."""
    with ExitStack() as all_of_them:
        first, second = (all_of_them.enter_context(taking(tmp_path)) for _ in range(2))
        assert [said(first), said(second)] == ["taken", "taken"]
        with taking(tmp_path) as third:
            assert said(third) == (
                "identity lab has 2 channels open, the most it may have at once"
                " (max_channels in this SAN's policy) {'holders': []}"
            )
        first.kill()
        first.wait()
        with taking(tmp_path) as fourth:
            assert said(fourth) == "taken"


def test_other_identities_apart(tmp_path: Path) -> None:
    """One identity's channels are nobody else's."""
    with taking(tmp_path, LAB) as one, taking(tmp_path, OTHER, number=2) as other:
        assert [said(one), said(other)] == ["taken", "taken"]


def test_none_at_all(tmp_path: Path) -> None:
    """An identity that may have no channel gets none."""
    with pytest.raises(Busy, match="has 0 channels open"):
        take_channel(tmp_path, LAB, 0)


def test_no_folder(tmp_path: Path) -> None:
    """A folder that is missing is told with what root runs."""
    with pytest.raises(BackendError, match=r"cannot be used \(No such file.*zolder-san install"):
        take_channel(tmp_path / "missing", LAB, 1)


def test_the_file_is_closed_to_others(tmp_path: Path) -> None:
    """The file that all agents share can be opened by their user alone."""
    with taking(tmp_path) as process:
        assert said(process) == "taken"
    assert (tmp_path / "channels").stat().st_mode & 0o777 == 0o600
