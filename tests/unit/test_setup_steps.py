from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zolder.san.setup.host import Host, SetupError
from zolder.san.setup.tree import HEADING, File, Folder
from zolder.san.setup.writing import replace_file

# Takes the lock as the commands do, says so, and keeps it until its input ends.
HOLDER = """
import sys
from pathlib import Path
from zolder.san.setup.host import Host
with Host(Path(sys.argv[1])).lock(print):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Return a machine that is an empty folder."""
    (tmp_path / "etc/zolder").mkdir(parents=True)
    return Host(tmp_path)


def test_replaced_whole(tmp_path: Path) -> None:
    """A file is replaced by another, not written into: whoever has the old one open reads the old one."""
    path = tmp_path / "file"
    path.write_text("old\n")
    with path.open() as file:
        replace_file(path, "new\n", 0o640, owner=1, group=2)
        assert file.read() == "old\n"
    status = path.stat()
    assert (path.read_text(), status.st_mode & 0o777, status.st_uid, status.st_gid) == ("new\n", 0o640, 1, 2)
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_fails(tmp_path: Path) -> None:
    """What cannot be put in place leaves nothing behind."""
    path = tmp_path / "file"
    path.mkdir()
    (path / "x").touch()
    with pytest.raises(OSError, match="directory"):
        replace_file(path, "new\n", 0o644)
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_not_followed(host: Host, tmp_path: Path) -> None:
    """A symbolic link in a file's or a folder's place is refused, and what it leads to stays."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text(f"{HEADING}\n")
    (tmp_path / "etc/file").symlink_to(elsewhere / "file")
    (tmp_path / "etc/folder").symlink_to(elsewhere)
    with pytest.raises(SetupError, match="/etc/file is a symbolic link"):
        File(host, "etc/file", "new\n").needed()
    with pytest.raises(SetupError, match="/etc/folder is not a folder"):
        Folder(host, "etc/folder", 0o755).needed()


def test_no_file(host: Host, tmp_path: Path) -> None:
    """A folder or a pipe in a file's place is refused, without waiting for it."""
    os.mkfifo(tmp_path / "etc/pipe")
    with pytest.raises(SetupError, match="/etc/pipe is not a file"):
        File(host, "etc/pipe", "new\n").needed()


def test_difference(host: Host, tmp_path: Path) -> None:
    """What is said of a file is the difference in lines; of a mode alone, the mode."""
    path = tmp_path / "etc/file"
    path.write_text(f"{HEADING}\nold\n")
    step = File(host, "etc/file", f"{HEADING}\nnew\n")
    assert (step.needed() or "").splitlines()[-2:] == ["-old", "+new"]
    step.apply()
    assert step.needed() is None
    path.chmod(0o666)
    assert step.needed() == "/etc/file: owner root:root, mode 0644"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert step.needed() is not None


def test_foreign_but_equal(host: Host, tmp_path: Path) -> None:
    """A file without our heading that says the same already is left as it is."""
    (tmp_path / "etc/file").write_text("same\n")
    assert File(host, "etc/file", "same\n").needed() is None


def test_one_at_a_time(host: Host) -> None:
    """A second set-up says that it waits, and goes on when the first has ended."""
    argv = [sys.executable, "-c", HOLDER, str(host.root)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        first, said = holder.stdin, []

        def say(text: str) -> None:
            said.append(text)
            first.close()

        with host.lock(say):
            assert said == ["Another zolder-san is changing this machine's set-up; waiting for it."]
        lock = (host.root / "etc/zolder/.lock").open()
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
