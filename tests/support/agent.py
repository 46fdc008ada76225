"""A child process that speaks the protocol by hand, well or badly: ``agent.py FAULT [FOLDER]``.

Written without zolder on purpose: what one side encodes and decodes with the same code would agree with
itself. It answers every request with the request. FOLDER is where it notes what it was asked, and that a
fault that happens only once has happened.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

WELCOME = {"protocol": 1, "version": "0.1.0", "features": [], "identity": "test", "zfs_version": "2.3.9"}

# Longer than any test waits, and an end all the same where nobody ends it.
_HANG_SECONDS = 60


def main() -> None:
    """Answer what comes on standard input, with the fault that was asked for."""
    fault = sys.argv[1]
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    if fault == "garbage":
        sys.stdout.write("Welcome to Ubuntu 12.04 LTS\nLast login: never\n")
        sys.stdout.flush()
    if fault == "nothing":
        sys.exit("zolder-san: no table [identity.test] in /etc/zolder/san.toml")
    if fault == "not_installed":
        sys.stderr.write("sh: 1: zolder-san: not found\n")
        sys.exit(127)
    if fault == "refuses_all":
        write({"id": 0, "error": {"code": "backend", "message": "There is no policy.", "details": {}}})
        sys.exit(1)
    for line in sys.stdin:
        request = json.loads(line)
        if request["method"] == "hello":
            greet(request, fault)
        else:
            note(folder, request)
            misbehave(request, fault, folder)
            write({"id": request["id"], "value": request})


def greet(request: dict[str, Any], fault: str) -> None:
    """Answer the first request."""
    if fault == "mute":
        time.sleep(_HANG_SECONDS)
    if fault == "other_protocol":
        write({"id": request["id"], "value": WELCOME | {"protocol": 2, "version": "9.0.0"}})
    elif fault == "other_welcome":
        write({"id": request["id"], "value": WELCOME | {"moon": "full"}})
    elif fault == "no_common_protocol":
        error = {"code": "version_mismatch", "message": "no", "details": {"agent_version": "0.0.9"}}
        write({"id": request["id"], "error": error})
    else:
        write({"id": request["id"], "value": WELCOME})


def misbehave(request: dict[str, Any], fault: str, folder: Path | None) -> None:
    """Do what the fault says before the answer, if anything."""
    if fault.endswith("_once"):
        assert folder is not None
        marker = folder / "happened"
        if marker.exists():
            return
        marker.touch()
    fault = fault.removesuffix("_once")
    if fault in FAULTS:
        FAULTS[fault](request)


def cut(request: dict[str, Any]) -> None:
    """End in the middle of the answer."""
    answer = json.dumps({"id": request["id"], "value": request})
    sys.stdout.write(answer[: len(answer) // 2])
    sys.stdout.flush()
    sys.exit("killed by a test")


def send_crumbs(request: dict[str, Any]) -> None:
    """Send a notice one byte at a time."""
    for character in json.dumps({"id": request["id"], "notice": "in crumbs"}) + "\n":
        sys.stdout.write(character)
        sys.stdout.flush()


def write_for_ever(stream: TextIO) -> None:
    """Write a line that never ends."""
    while True:
        stream.write("x" * 65536)


def fail(request: dict[str, Any]) -> None:
    """Answer with an error."""
    error = {"code": "busy", "message": "held by a test", "details": {"holders": ["a", "b"]}}
    write({"id": request["id"], "error": error})


FAULTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "cut": cut,
    "hang": lambda _: time.sleep(_HANG_SECONDS),
    "stays_a_second": lambda _: time.sleep(1),
    "slow": lambda _: time.sleep(0.1),
    "crumbs": send_crumbs,
    "endless_line": lambda _: write_for_ever(sys.stdout),
    "endless_stderr": lambda _: write_for_ever(sys.stderr),
    "much_stderr": lambda _: sys.stderr.write("z" * 1024 * 1024),
    "other_id": lambda request: write({"id": request["id"] + 1, "value": None}),
    "notices": lambda request: write({"id": request["id"], "notice": "the zvol is busy; waiting"}),
    "failure": fail,
}


def note(folder: Path | None, request: dict[str, Any]) -> None:
    """Keep who was asked for what: one file a process, one line a request."""
    if folder is not None:
        with Path(folder, f"asked-{os.getpid()}").open("a", encoding="utf-8") as file:
            file.write(f"{request['operation']} {request['method']}\n")


def write(frame: dict[str, Any]) -> None:
    """Send one frame."""
    sys.stdout.write(json.dumps(frame) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(1)  # the client has gone; Python would complain when it flushes
