"""The guest's side of the attacks: gathers what the SAN holds, and acts as one of its local users.

Runs in the SAN as root and imports the standard library alone. It hands on raw text, which the other side
reads (tests/attack/dump.py): under emulation Python in here is thirty times slower than there.
"""

from __future__ import annotations

import base64
import glob
import hashlib
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def gather(
    commands: dict[str, list[str]], reads: list[str], digests: list[str], strict: list[str]
) -> dict[str, Any]:
    """Run commands at once, read files meanwhile, and return all text by its name.

    :param commands: argument vectors; a word that begins with ``glob:`` stands for the paths that match.
    :param reads: files whose text is wanted.
    :param digests: patterns of files whose content's digest is wanted.
    :param strict: the commands that must exit 0.
    """
    started = {name: _start(argv) for name, argv in commands.items()}
    found: dict[str, Any] = {path: Path(path).read_text(errors="replace") for path in reads}
    paths = [path for pattern in digests for path in _paths(pattern) if Path(path).is_file()]
    found["digests"] = {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}
    found["pid"] = os.getpid()
    for name, process in started.items():
        said, complaint = process.communicate(timeout=60)
        if process.returncode and name in strict:
            message = f"{name}: {complaint.decode(errors='replace')}"
            raise RuntimeError(message)
        found[name] = said.decode(errors="replace")
    return found


def _paths(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern))  # noqa: PTH207 - a whole path's pattern, and text is what is needed


def _start(argv: Sequence[str]) -> subprocess.Popen[bytes]:
    words = []
    for word in argv:
        words += _paths(word[5:]) if word.startswith("glob:") else [word]
    return subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": PATH, "LC_ALL": "C"},
    )


def run_as(user: str, script: str, seconds: int) -> dict[str, Any]:
    """Run a shell script as a user without any group but its own."""
    entry = pwd.getpwnam(user)
    process = subprocess.Popen(
        ["/bin/sh", "-c", script],
        user=entry.pw_uid,
        group=entry.pw_gid,
        extra_groups=[],
        cwd="/",
        env={"PATH": PATH, "LC_ALL": "C", "HOME": entry.pw_dir, "USER": user},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return {"status": 124, "output": "it did not end"}
    return {"status": process.returncode, "output": output.decode(errors="replace")[:20000]}


def speak(user: str, path: str, data: str, replies: int, seconds: float) -> dict[str, Any]:
    """Send bytes to a socket as a user, and return that many lines of what comes back, or all of it."""
    answer = _as_user(user, lambda: _converse(path, base64.b64decode(data), replies, seconds))
    connected, _, received = answer.partition(b"\n")
    return {"connected": connected == b"yes", "output": base64.b64encode(received).decode()}


def crowd(user: str, path: str, count: int, seconds: float) -> dict[str, Any]:
    """Hold many connections to a socket as a user for some seconds; return how many came about."""
    return {"connected": int(_as_user(user, lambda: _crowd(path, count, seconds)))}


def knock(port: int, count: int, held: int) -> dict[str, int]:
    """Open so many connections to a port of this machine, some of them until the last one has come about."""
    ends: list[socket.socket] = []
    connected = 0
    for _ in range(count):
        try:
            end = socket.create_connection(("127.0.0.1", port), timeout=2)
        except OSError:
            continue
        connected += 1
        if len(ends) < held:
            ends.append(end)
        else:
            end.close()
    for end in ends:
        end.close()
    return {"connected": connected, "held": len(ends)}


def memory() -> dict[str, int]:
    """Return the peak memory (VmHWM) in KiB of each agent and helper that runs, by its process id."""
    found = {}
    for pid, words in _ours():
        for text in _read(f"/proc/{pid}/status").splitlines():
            if text.startswith("VmHWM:"):
                found[f"{words[-1]} {pid}"] = int(text.split()[1])
    return found


def environments() -> list[str]:
    """Return the environment of each agent that runs."""
    return [_read(f"/proc/{pid}/environ") for pid, words in _ours() if words[-1] != "helper"]


def _ours() -> list[tuple[str, list[str]]]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - a Path each costs, in here
        words = _read(f"/proc/{pid}/cmdline").rstrip("\0").split("\0")
        if words[0].endswith("python3") and (
            words[-3:-1] == ["serve", "--identity"] or words[-1] == "helper"
        ):
            found.append((pid, words))
    return found


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""  # it has ended meanwhile


def _converse(path: str, data: bytes, replies: int, seconds: float) -> bytes:
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(seconds)
        try:
            end.connect(path)
        except OSError as err:
            return f"no\n{err}".encode()
        received = b""
        try:
            end.sendall(data)
            while received.count(b"\n") < replies and (more := end.recv(65536)):
                received += more
        except OSError as err:  # a timeout is one, too
            received += str(err).encode()
        return b"yes\n" + received


def _crowd(path: str, count: int, seconds: float) -> bytes:
    ends = []
    for _ in range(count):
        end = socket.socket(socket.AF_UNIX)
        end.setblocking(False)
        try:
            end.connect(path)
        except OSError:
            end.close()
        else:
            end.send(b'{"id":')
            ends.append(end)
    time.sleep(seconds)
    return str(len(ends)).encode()


def _as_user(user: str, action: Callable[[], bytes]) -> bytes:
    """Do something in a child that has become a user, and return its bytes."""
    entry = pwd.getpwnam(user)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
            os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
            with os.fdopen(writing, "wb") as stream:
                stream.write(action())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        said = stream.read()
    os.waitpid(child, 0)
    return said


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from answering import answer_all  # type: ignore[import-not-found]  # beside this script in the guest

    answer_all(gather, run_as, speak, crowd, knock, memory, environments)
