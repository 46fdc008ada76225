"""``zolder-san``: the command on the SAN.

``serve`` is what a key's forced command runs; ``audit`` shows what was asked.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from zolder import __version__
from zolder.errors import BackendError, InvalidRequest
from zolder.names import Identity
from zolder.san.audit import recorder
from zolder.san.policy import PolicyError, load_policy
from zolder.san.serve import Channel, refuse, serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    return _serve(options.identity) if options.command == "serve" else _audit(options)


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
    audit = commands.add_parser(
        "audit",
        help="show the requests that were asked of this SAN",
        description="Show the recorded requests, oldest first, a line each: time (UTC), identity, peer,"
        " method, outcome, milliseconds, object. The outcome is changed, unchanged (it was so already),"
        " answered, or the code of an error. Needs root, or the group that may read the journal.",
    )
    audit.add_argument("--since", default="", metavar="TIME", help="as journalctl takes it: -1h, today, ...")
    audit.add_argument("--identity", default="", help="of this identity only")
    audit.add_argument("--method", default="", help="this method only, as delete_zvol")
    audit.add_argument("--outcome", default="", help="with this outcome only, as changed or not_permitted")
    audit.add_argument("--object", default="", metavar="TEXT", help="whose object has this in a name")
    audit.add_argument("--json", action="store_true", help="a JSON object a line, for scripts")
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
            record=recorder(identity),
        )
    except BrokenPipeError:
        return 1  # the client is gone; what was under way has been finished or undone
    return 0


def _audit(options: argparse.Namespace) -> int:
    # Nothing of this is for the agent, whose start it would cost.
    from zolder.san.journal import Filter, as_text, read  # noqa: PLC0415

    wanted = Filter(options.identity, options.method, options.outcome, options.object)
    try:
        for entry in read(wanted, since=options.since):
            print(json.dumps(entry) if options.json else as_text(entry), flush=True)
    except BackendError as err:
        print(f"zolder-san: {err.message}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read has seen enough; Python would complain of it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
