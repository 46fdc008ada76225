"""Running commands on this machine: quietly, with the output in a log, and never outliving us.

Commands of a build may be long and have children of their own. `run_contained` puts them in a process
namespace that dies with this process, even by SIGKILL, so that a killed build leaves no writer behind.
Never a shell.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.errors import CommandFailed, DiskFull

NO_SPACE = "No space left on device"

# `setpriv` ties the child to us, `unshare` ties all its descendants to the child. The mount namespace is
# private as well, so that whatever is mounted for a build is gone with it.
CONTAINED = (
    "setpriv", "--pdeathsig", "KILL", "--",
    "unshare", "--mount", "--propagation", "private", "--mount-proc",
    "--pid", "--fork", "--kill-child=KILL", "--",
)  # fmt: skip


# The long commands that run now. They are ended together when one of them fails or a person interrupts.
RUNNING: set[subprocess.Popen[bytes]] = set()


def capture(argv: Sequence[str], *, text: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a short command and return its standard output.

    :param text: its standard input.
    :raises CommandFailed: when it exits other than 0.
    """
    done = subprocess.run(
        argv, input=text or "", capture_output=True, text=True, errors="replace", check=False, env=env
    )
    if done.returncode != 0:
        raise CommandFailed("on this machine", argv, done.returncode, done.stderr)
    return done.stdout


def run_logged(
    argv: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> None:
    """Run a command with its output appended to a log.

    :param env: the whole environment; None for ours.
    :raises DiskFull: when it failed for want of space.
    :raises CommandFailed: when it failed otherwise; the error shows the log's end.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        start = output.tell()
        with subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, cwd=cwd
        ) as process:
            RUNNING.add(process)
            try:
                exit_status = process.wait()
            finally:
                RUNNING.discard(process)
    if exit_status == 0:
        return
    with log.open("rb") as written:
        written.seek(start)
        text = written.read().decode(errors="replace")
    if NO_SPACE in text:
        raise DiskFull(f"no space left while running {argv[0]}; free some and start again (log: {log})")
    raise CommandFailed(f"on this machine (log: {log})", argv, exit_status, text)


def stop_running() -> None:
    """End the commands that run, of all threads, so that whoever waits for them goes on."""
    for process in tuple(RUNNING):
        process.kill()


def run_contained(
    argv: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    nice: int = 0,
) -> None:
    """Like `run_logged`, in namespaces that end with this process. Needs root."""
    run_logged([*CONTAINED, "nice", "-n", str(nice), *argv], log, env=env, cwd=cwd)


def build_environment(**more: str) -> dict[str, str]:
    """Return the environment for building tools: ours, in the C locale, without our Python's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LC_"))}
    # Debian keeps mkfs and the like where a user's PATH often does not lead.
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    fixed = {"PATH": path, "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    return kept | fixed | more
