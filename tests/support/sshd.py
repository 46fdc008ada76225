"""A real sshd on loopback, for the time of a test: its own keys, one user key, one forced command."""

from __future__ import annotations

import getpass
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from zolder.client.ssh import SshTarget

_START_SECONDS = 10


@contextmanager
def running_sshd(
    folder: Path, *, command: Sequence[str], working_folder: Path, kind: str = "ed25519"
) -> Iterator[SshTarget]:
    """Run an sshd whose one key can do nothing but ``command``; yield how to reach it.

    :param kind: of both its host key and the user's key, as ssh-keygen(1) has it.
    """
    for name in ("host_key", "user_key"):
        _run("ssh-keygen", "-q", "-t", kind, "-N", "", "-C", name, "-f", str(folder / name))
    port = _free_port()
    forced = f"cd {shlex.quote(str(working_folder))} && exec {shlex.join(command)}".replace('"', '\\"')
    public = (folder / "user_key.pub").read_text()
    (folder / "authorized_keys").write_text(f'restrict,command="{forced}" {public}')
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's privilege separation wants it
    with (folder / "sshd.log").open("wb") as log:
        daemon = subprocess.Popen(
            ["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "sshd_config")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            _wait_until_open(port, daemon, folder / "sshd.log")
            yield SshTarget(
                address="127.0.0.1",
                port=port,
                login=getpass.getuser(),
                private_key=str(folder / "user_key"),
                known_hosts=(str(folder / "known_hosts"),),
            )
        finally:
            daemon.terminate()
            daemon.wait(timeout=10)


def _wait_until_open(port: int, daemon: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError as err:
            if daemon.poll() is not None or time.monotonic() > end:
                message = f"sshd did not answer: {log.read_text()}"
                raise AssertionError(message) from err
            time.sleep(0.02)
        else:
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, stdin=subprocess.DEVNULL)
