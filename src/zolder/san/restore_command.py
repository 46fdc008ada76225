"""The command ``zolder-san restore``: its options, and how it says what came of it.

systemd runs it at boot, twice: early, to shut the portals before the network is up, and once the zpools are
imported (zolder.san.setup.units). The administrator runs it after an import.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from collections.abc import Collection
from typing import Any, Final

from zolder.errors import Error
from zolder.names import Identity
from zolder.san.policies import POLICY_FILE, PolicyError, load_policy
from zolder.san.policy import Policy
from zolder.san.rebuild import San
from zolder.san.restore import Restore
from zolder.san.setup.host import Host, SetupError
from zolder.san.setup.policyfile import read_text
from zolder.san.tally import as_json, as_text

# Less than open-iscsi's patience with a lost session (120 s): those whose targets stand are not to suffer.
WAIT_SECONDS: Final = 100
_USAGE: Final = 2


def add_parser(commands: Any) -> None:  # noqa: ANN401 - argparse keeps the class of its subparsers to itself
    """Add the command and its options to those of ``zolder-san``."""
    parser = commands.add_parser(
        "restore",
        help="have every export stand again that is on record",
        description="Have every export stand that the zvols' own records name, and no other of Zolder's:"
        " after a reboot, where systemd runs it, and after 'zpool import', also on another SAN. New"
        " connections to the portals wait until all stands. Done twice it changes nothing the second time."
        " Needs root. Exit status: 0 all is in place, 1 something is not, 2 wrong usage.",
    )
    parser.add_argument("--pool", metavar="NAME", help="only what is in this zpool, with its portals")
    parser.add_argument(
        "--wait", type=_seconds, default=WAIT_SECONDS, metavar="SECONDS",
        help=f"how long portals stay shut for CHAP secrets that are not here ({WAIT_SECONDS})",
    )  # fmt: skip
    parser.add_argument("--shut-only", action="store_true", help="shut the portals, and do nothing else")
    parser.add_argument("--json", action="store_true", help="one JSON object at the end, for scripts")


def run(
    options: argparse.Namespace, san: San | None = None, policies: Collection[Policy] | None = None
) -> int:
    """Carry the command out and return its exit status.

    :param san: this SAN's parts; its own where None.
    :param policies: those of all identities; as the policy file says where None.
    """
    if san is None and os.geteuid() != 0:
        return _fail("'zolder-san restore' needs root: run it with sudo")
    try:
        known = _policies() if policies is None else policies
        return _carry_out(options, Restore(known, san or San(), _warn if options.json else _say))
    except (Error, PolicyError, SetupError) as err:
        return _fail(str(err))
    except OSError as err:
        return _fail(f"{err.filename or 'the system'}: {err.strerror}")
    except KeyboardInterrupt:
        return _fail("cut short: portals may be shut still; run 'zolder-san restore' again")


def _carry_out(options: argparse.Namespace, restore: Restore) -> int:
    if options.pool is not None and not restore.parents(options.pool):
        _fail(f"no identity exports anything in zpool {options.pool}")
        return _USAGE
    if options.shut_only:
        shut = restore.shut(options.pool)
        _say(json.dumps({"shut": shut}) if options.json else f"{len(shut)} portals are shut")
        return 0
    report = restore.run(options.pool, wait_seconds=options.wait)
    if options.json:
        _say(json.dumps(as_json(report)))
    else:
        for line in as_text(report):
            _warn(line)
    return 0 if report.is_complete else 1


def _policies() -> list[Policy]:
    try:
        table = tomllib.loads(read_text(Host()) or "")
    except ValueError as err:
        message = f"{POLICY_FILE}: {err}"
        raise PolicyError(message) from err
    if not table:
        return []
    identities = table.get("identity")
    # The loader refuses what is no table, with its reason.
    names = identities if isinstance(identities, dict) else ["none"]
    return [load_policy(Identity(name)) for name in names]


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError as err:
        message = f"{text!r:.40} is no number of seconds"
        raise argparse.ArgumentTypeError(message) from err
    if not 0 <= seconds <= 24 * 3600:
        message = "a day at most, and not negative"
        raise argparse.ArgumentTypeError(message)
    return seconds


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _warn(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _fail(message: str) -> int:
    _warn(f"zolder-san: {message}")
    return 1
