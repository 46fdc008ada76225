"""``zolder-san``: the command on the SAN. ``serve`` is what a key's forced command runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from zolder import __version__
from zolder.errors import BackendError, InvalidRequest
from zolder.names import Identity
from zolder.san.policy import PolicyError, load_policy
from zolder.san.serve import Channel, refuse, serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    return _serve(options.identity)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zolder-san", description="Zolder's agent: block storage on ZFS, asked for over SSH."
    )
    parser.add_argument("--version", action="version", version=f"zolder-san {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve_parser = commands.add_parser(
        "serve",
        help="answer one client's requests on standard input and output",
        description="Answer requests until standard input ends. Meant for a forced command in "
        'authorized_keys: restrict,command="zolder-san serve --identity NAME" ssh-ed25519 ...',
    )
    serve_parser.add_argument(
        "--identity", required=True, type=_identity, help="the table [identity.NAME] of /etc/zolder/san.toml"
    )
    return parser


def _identity(text: str) -> Identity:
    try:
        return Identity(text)
    except InvalidRequest as err:
        raise argparse.ArgumentTypeError(err.message) from err


def _serve(identity: Identity) -> int:
    channel = Channel(sys.stdin.fileno(), sys.stdout.fileno())
    try:
        try:
            policy = load_policy(identity)
        except PolicyError as err:
            refuse(channel, BackendError(str(err)))
            return 1
        # The storage is the only part that needs ZFS: a policy that is wrong must be said without it.
        from zolder.san.storage import ZfsStorage, zfs_version  # noqa: PLC0415

        serve(
            channel,
            policy,
            storage_for=lambda operation: ZfsStorage(policy, operation),
            zfs_version=zfs_version,
        )
    except BrokenPipeError:
        return 1  # the client is gone; what was under way has been finished or undone
    return 0


if __name__ == "__main__":
    sys.exit(main())
