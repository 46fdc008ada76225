"""The commands that set a SAN up: their options, and how they say what they did.

Each says what it changes as it changes it; with ``--dry-run`` it says the same and changes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from zolder.errors import BackendError, InvalidRequest
from zolder.names import DatasetName, Identity, Name, TargetPrefix
from zolder.san.policies import PolicyError
from zolder.san.policy import ROLES
from zolder.san.setup import listing
from zolder.san.setup.authorize import Wish, authorize_steps
from zolder.san.setup.host import Host, SetupError, running_executable
from zolder.san.setup.install import NO_SYSTEMD, folder_steps, install_steps
from zolder.san.setup.keys import PublicKey, check_sources, read_key, read_key_file
from zolder.san.setup.portals import parse_portal
from zolder.san.setup.program import require_roots_program, running_code
from zolder.san.setup.revoke import revoke_steps
from zolder.san.setup.steps import Say, Step, carry_out

COMMANDS: Final = ("install", "authorize", "revoke", "list")
NOTHING: Final = "Nothing to change."


def add_parsers(commands: Any) -> None:  # noqa: ANN401 - argparse keeps the class of its subparsers to itself
    """Add the four commands to those of ``zolder-san``."""
    _add_install(commands)
    _add_authorize(commands)
    _add_revoke(commands)
    listed = commands.add_parser("list", help="show who may do what on this SAN, and who is here now")
    listed.add_argument("--json", action="store_true", help="a JSON list, for scripts")


def _add_install(commands: Any) -> None:  # noqa: ANN401 - as above
    parser = commands.add_parser(
        "install",
        help="set this machine up as a SAN",
        description="Make the agent's user and folders, sshd's drop-in, the root helper's units, the kernel's"
        " and udev's files, and give the agent its rights on the policy's parents. Done twice it changes"
        " nothing the second time. Needs root.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object at the end, for scripts")
    _add_dry_run(parser)


def _add_authorize(commands: Any) -> None:  # noqa: ANN401 - as above
    parser = commands.add_parser(
        "authorize",
        help="let a key in as an identity",
        description="Give an identity its table in san.toml, let its key in, and give the agent its rights on"
        " the parents. What is not said is left as it stands, or begins as written here. Needs root.",
    )
    _add_identity(parser)
    parser.add_argument("--key", metavar="FILE", help="its public key; - reads standard input")
    parser.add_argument(
        "--from", dest="sources", nargs="+", action="extend", default=[], metavar="ADDRESS",
        help="where the key may come from: addresses, networks, host names (anywhere)",
    )  # fmt: skip
    parser.add_argument(
        "--parent", dest="parents", nargs="+", action="extend", default=[], metavar="DATASET",
        type=_checked(DatasetName), help="the datasets below which its volumes live",
    )  # fmt: skip
    parser.add_argument("--role", choices=sorted(ROLES), help="what it may ask for (volumes)")
    parser.add_argument(
        "--portal", dest="portals", nargs="+", action="extend", default=[], metavar="ADDRESS[:PORT]",
        type=_checked(parse_portal), help="where its targets listen (this machine's global addresses, 3260)",
    )  # fmt: skip
    parser.add_argument(
        "--target-prefix", dest="prefixes", nargs="+", action="extend", default=[], metavar="PREFIX",
        type=_checked(TargetPrefix), help="what its targets' names begin with (iqn.2010-10.org.openstack:)",
    )  # fmt: skip
    parser.add_argument(
        "--password", action="store_true", help="let it in as user zolder-NAME, whose password passwd(1) sets"
    )
    _add_dry_run(parser)


def _add_revoke(commands: Any) -> None:  # noqa: ANN401 - as above
    parser = commands.add_parser(
        "revoke",
        help="take an identity's keys and rights away",
        description="Remove an identity's keys and password login, end its channels, and remove its table and"
        " the rights that nobody else needs. Volumes and exports stay. Needs root.",
    )
    _add_identity(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--key", metavar="FILE", help="remove this public key alone; - reads standard input")
    which.add_argument("--all", action="store_true", help="remove all that it has, as without --key")
    _add_dry_run(parser)


def _add_identity(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("identity", metavar="NAME", type=_checked(Identity), help="the identity")


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")


def _checked(kind: Callable[[str], Name]) -> Callable[[str], Name]:
    def check(text: str) -> Name:
        try:
            return kind(text)
        except (InvalidRequest, SetupError) as err:
            raise argparse.ArgumentTypeError(str(err)) from err

    return check


def run(options: argparse.Namespace, host: Host | None = None) -> int:
    """Carry out one of the commands and return its exit status.

    :param host: the machine; this one where none is given.
    """
    if os.geteuid() != 0:
        return _fail(f"'zolder-san {options.command}' needs root: run it with sudo")
    try:
        machine = host or Host(executable=running_executable(), code=running_code())
        if options.command == "list":
            found = listing.identities(machine)
            _say(json.dumps(found) if options.json else listing.as_text(found))
            for warning in listing.warnings(machine):
                _warn(warning)
        else:
            _change(machine, options)
    except (SetupError, PolicyError, InvalidRequest, BackendError) as err:
        return _fail(str(err))
    except OSError as err:
        return _fail(f"{err.filename or 'the system'}: {err.strerror}")
    return 0


def _change(host: Host, options: argparse.Namespace) -> None:
    as_json = options.command == "install" and options.json
    said: list[str] = []
    say: Say = said.append if as_json else _say
    notes: list[str] = []
    if options.command != "revoke":
        require_roots_program(host)
    # The lock lies in the folder that install makes.
    first = folder_steps(host) if options.command == "install" else []
    try:
        if options.dry_run:
            changes = carry_out(host, [*first, *_steps(host, options, notes)], say, dry_run=True)
        else:
            changes = carry_out(host, first, say, dry_run=False)
            with host.lock(say):
                changes += carry_out(host, _steps(host, options, notes), say, dry_run=False)
    except (SetupError, PolicyError, BackendError):
        # What cannot be revoked makes no less of what is to be said of the rest.
        for note in notes if options.command == "revoke" else ():
            _warn(note)
        raise
    if as_json:
        report = {"changed": bool(changes), "dry_run": options.dry_run, "changes": said, "notes": notes}
        _say(json.dumps(report))
        return
    for note in notes:
        say(note)
    if not changes:
        say(NOTHING)


def _steps(host: Host, options: argparse.Namespace, notes: list[str]) -> Sequence[Step]:
    if options.command == "install":
        notes += [] if host.has_systemd else [NO_SYSTEMD]
        return install_steps(host)
    key = _key(host, options.key)
    if options.command == "revoke":
        return revoke_steps(host, options.identity, key, notes)
    wish = Wish(
        options.identity,
        key,
        check_sources(options.sources),
        tuple(dict.fromkeys(options.parents)),
        options.role,
        tuple(dict.fromkeys(options.portals)),
        tuple(dict.fromkeys(options.prefixes)),
        password=options.password,
        notes=notes,
    )
    return authorize_steps(host, wish)


def _key(host: Host, name: str | None) -> PublicKey | None:
    if name is None:
        return None
    if name == "-":
        return read_key(host, sys.stdin.read(), "standard input")
    return read_key(host, read_key_file(name), name)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _warn(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _fail(message: str) -> int:
    _warn(f"zolder-san: {message}")
    return 1
