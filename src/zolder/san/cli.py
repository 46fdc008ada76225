"""``zolder-san``: the command on the SAN.

``serve`` is what a key's forced command runs, as the user zolder; ``helper`` is root's part of it; ``audit``
shows what was asked. ``install``, ``authorize``, ``revoke`` and ``list`` are zolder.san.setup's, ``check`` is
zolder.san.check's, ``restore`` is zolder.san.restore's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from zolder import __version__
from zolder.errors import BackendError, Error, InvalidRequest
from zolder.names import Identity
from zolder.san.account import become_unprivileged, bound_memory, find_account
from zolder.san.agent import Agent
from zolder.san.asking import Asking, HelperLine
from zolder.san.audit import recorder
from zolder.san.channel import Channel
from zolder.san.parents import Site
from zolder.san.policies import CurrentPolicy, PolicyError
from zolder.san.serve import refuse, serve
from zolder.san.slots import take_channel

# What runs by itself, and often.
_DAILY: Final = ("serve", "helper", "audit")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    # Each channel pays for what is imported: what people type is known only where they type it.
    if words and words[0] in _DAILY:
        options = _parser().parse_args(words)
        if options.command == "serve":
            return _serve(options.identity)
        if options.command == "helper":
            return _help_root(options.socket)
        return _audit(options)
    from zolder.san import restore_command as restore  # noqa: PLC0415

    if words and words[0] == "restore":  # at boot the network waits for it
        return restore.run(_parser(restore.add_parser).parse_args(words))
    from zolder.san.check import command as check  # noqa: PLC0415
    from zolder.san.setup import commands as setup  # noqa: PLC0415

    options = _parser(setup.add_parsers, check.add_parser, restore.add_parser).parse_args(words)
    return check.run(options) if options.command == "check" else setup.run(options)


def _parser(*more: Callable[[Any], None]) -> argparse.ArgumentParser:
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
    helper = commands.add_parser(
        "helper",
        help="do for the agent what the kernel keeps for root",
        description="Serve the agent's user, and nobody else, on a Unix socket: targets, device nodes and"
        " who holds one. systemd starts it (zolder-helper.service); elsewhere, run it as root.",
    )
    helper.add_argument(
        "--socket", type=Path, metavar="PATH", help="make this socket instead of taking systemd's"
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
    for add in more:
        add(commands)
    return parser


def _identity(text: str) -> Identity:
    try:
        return Identity(text)
    except InvalidRequest as err:
        raise argparse.ArgumentTypeError(err.message) from err


def _serve(identity: Identity) -> int:
    channel = Channel(sys.stdin.fileno(), sys.stdout.fileno())
    record = recorder(identity)
    try:
        try:
            become_unprivileged()
            bound_memory()
            policy_now = CurrentPolicy(identity)
            take_channel(Site().run, identity, policy_now().max_channels)
        except PolicyError as err:
            refuse(channel, BackendError(str(err)), record)
            return 1
        except Error as err:
            refuse(channel, err, record)
            return 1
        # The storage is the only part that needs ZFS: a policy that is wrong must be said without it.
        from zolder.san.storage import ZfsStorage, zfs_version  # noqa: PLC0415

        helper = HelperLine(identity)
        agent = Agent(
            policy_now,
            storage_for=lambda policy, operation: ZfsStorage(policy, operation, Asking(helper, operation)),
            zfs_version=zfs_version,
        )
        serve(channel, agent, record=record)
    except BrokenPipeError:
        return 1  # the client is gone; what was under way has been finished or undone
    return 0


def _help_root(path: Path | None) -> int:
    # The agent has no use for any of this.
    from zolder.san.daemon import listen, run_daemon  # noqa: PLC0415
    from zolder.san.locks import Locks  # noqa: PLC0415
    from zolder.san.rootplaces import RootPlaces  # noqa: PLC0415

    try:
        account = find_account()
        places = RootPlaces()
        places.make_run()
        run_daemon(listen(path, account), account, Locks(places.locks))
    except (BackendError, OSError) as err:
        print(f"zolder-san helper: {err}", file=sys.stderr)
        return 1


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
