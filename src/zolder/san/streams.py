"""Sends a snapshot to a zvol of another zpool, by ``zfs send`` and ``zfs receive`` as the agent's user.

Blocks go as they lie on the disk, compressed, and only what is allocated. The stream runs from one program to
the other through this process, which counts it and takes no copy of it (splice(2)). What is cut leaves its
part of the zvol with a token, from which it goes on (zfs-receive(8), ``-s``). Neither program is ever killed:
its pipe is closed, and it ends.
Source: zfs-send(8), zfs-receive(8); the sentences as seen with OpenZFS 2.3 (tests/lab/test_moving.py).
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from zolder.san.lzc import ZfsError
from zolder.san.run import ENVIRONMENT, Finished, run
from zolder.san.zfs import ZFS

# Large blocks, embedded data and compressed blocks stay what they are.
_AS_IT_LIES: Final = "-Lec"
_PIECE_BYTES: Final = 2**20
# How often who waits for it is thought of while nothing comes or goes.
_LOOK_MS: Final = 1000
# How a sentence begins, and what may stand behind it.
_RECEIVING: Final = ("cannot receive new filesystem stream: ", "cannot receive resume stream: ")
_REFUSALS: Final = {
    "destination {} space quota exceeded.": errno.ENOSPC,
    "out of space": errno.ENOSPC,
    "permission denied": errno.EPERM,
}


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What a cut has left of a zvol that was being received.

    ``snapshot`` is what it was to have, by its whole name; None where that is gone, and nothing goes on.
    """

    token: str
    snapshot: str | None


def find_unfinished(dataset: str) -> Unfinished | None:
    """Return from where the receiving of a zvol can go on; None where nothing was saved, or all.

    :raises BackendError: ZFS cannot say.
    """
    token = _get(dataset, "receive_resume_token")
    if token in {"-", ""}:
        return None
    told = run([ZFS, "send", "-nvP", "-t", token])
    names = [line.split("=", 1)[1].strip() for line in _lines(told) if line.strip().startswith("toname =")]
    return Unfinished(token, names[0] if names and told.exit_status == 0 else None)


def bytes_written_since(dataset: str, snapshot: str) -> int:
    """Return what was written to a zvol since a snapshot of it, in bytes, as far as the zpool has synced.

    :param snapshot: its whole name.
    :raises BackendError: ZFS cannot say.
    """
    return int(_get(dataset, f"written@{snapshot.partition('@')[2]}"))


def estimate_bytes(snapshot: str, unfinished: Unfinished | None) -> int:
    """Return how long the stream will be, about.

    :raises BackendError: ZFS cannot say.
    """
    done = run([ZFS, "send", "-nvP", *(("-t", unfinished.token) if unfinished else (_AS_IT_LIES, snapshot))])
    if done.exit_status:
        raise done.error()
    sizes = [line.split("\t")[1] for line in _lines(done) if line.startswith("size\t")]
    return int(sizes[0]) if sizes else 0


def send_snapshot(
    snapshot: str,
    dataset: str,
    properties: Mapping[str, str],
    *,
    unfinished: Unfinished | None,
    held: int,
    sent: Callable[[int], None],
) -> None:
    """Make a zvol in another zpool what a snapshot is, or go on with one that is unfinished.

    :param properties: what the zvol bears from before its first block on.
    :param held: the open file that both programs keep open: its locks last until they have ended.
    :param sent: told how many bytes have gone, each second at least; what it raises ends all.
    :raises ZfsError: there is no room for it, or this user may not.
    :raises BackendError: ZFS refused it otherwise.
    """
    given = [word for name, value in properties.items() for word in ("-o", f"{name}={value}")]
    sending = [ZFS, "send", *(("-t", unfinished.token) if unfinished else (_AS_IT_LIES, snapshot))]
    receiving = [ZFS, "receive", "-s", "-u", *([] if unfinished else given), dataset]
    with _started(sending, held, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as source:
        with _started(receiving, held, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as target:
            try:
                whole = _carry(source, target, sent)
            finally:
                # Each ends by itself where its pipe does.
                for end in (source.stdout, target.stdin):
                    if end:
                        with suppress(BrokenPipeError):
                            end.close()
            _await(target, sent, whole)
            received = _finished(receiving, target)
        ended = _finished(sending, source)
    if number := _recognise(received, dataset):
        raise ZfsError(number, os.strerror(number), dataset)
    if f"warning: cannot send '{snapshot}': permission denied" in ended.stderr.splitlines():
        raise ZfsError(errno.EPERM, os.strerror(errno.EPERM), snapshot)
    if received.exit_status:
        # What it says first; a token that may follow is of no use to a reader.
        first = Finished(received.argv, received.exit_status, "", (received.stderr.splitlines() or [""])[0])
        raise ended.error() if ended.exit_status and not first.stderr else first.error()
    if ended.exit_status:
        raise ended.error()


def _carry(
    source: subprocess.Popen[bytes], target: subprocess.Popen[bytes], sent: Callable[[int], None]
) -> int:
    """Carry all of a stream; return how long it was."""
    if source.stdout is None or target.stdin is None:
        raise AssertionError  # both were asked for
    incoming, outgoing = source.stdout.fileno(), target.stdin.fileno()
    for end in (incoming, outgoing):
        os.set_blocking(end, False)
        with suppress(OSError):  # beyond what this user may have: the usual size serves too
            fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, _PIECE_BYTES)
    whole = 0
    while True:
        try:
            count = os.splice(incoming, outgoing, _PIECE_BYTES)
        except BlockingIOError:
            sent(whole)
            for end, what in ((incoming, select.POLLIN), (outgoing, select.POLLOUT)):
                ready = select.poll()
                ready.register(end, what)
                ready.poll(_LOOK_MS)
            continue
        except BrokenPipeError:
            return whole  # the receiver has said why
        if count == 0:
            return whole
        whole += count
        sent(whole)


def _await(target: subprocess.Popen[bytes], sent: Callable[[int], None], whole: int) -> None:
    """Wait for the receiver, which has all and may take long to end, and let who waits be thought of."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            target.wait(_LOOK_MS / 1000)
            return
        sent(whole)


def _started(argv: Sequence[str], held: int, *, stdin: int, stdout: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=ENVIRONMENT, pass_fds=(held,)
    )


def _finished(argv: Sequence[str], program: subprocess.Popen[bytes]) -> Finished:
    if program.stderr is None:
        raise AssertionError  # it was asked for
    text = program.stderr.read().decode("utf-8", "replace")
    return Finished(tuple(argv[:2]), program.wait(), "", text)


def _recognise(received: Finished, dataset: str) -> int | None:
    lines = received.stderr.splitlines() if received.exit_status else []
    for begin in _RECEIVING:
        for refusal, number in _REFUSALS.items():
            if f"{begin}{refusal.format(dataset)}" in lines:
                return number
    return None


def _get(dataset: str, name: str) -> str:
    done = run([ZFS, "get", "-Hpo", "value", name, dataset])
    if done.exit_status:
        raise done.error()
    return done.stdout.strip()


def _lines(finished: Finished) -> list[str]:
    return [*finished.stdout.splitlines(), *finished.stderr.splitlines()]
