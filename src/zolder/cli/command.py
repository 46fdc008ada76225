"""``zolder``: what operators run on a control node, as a user who may read cinder.conf.

Exit status: 0 nothing was found or all of it is mended, 1 something was found, 2 the command line or the
configuration will not do, or one of the two sides could not be asked. Cinder is imported only where a command
needs it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from zolder import __version__
from zolder.cli.finding import HEADINGS, Kind

if TYPE_CHECKING:
    from zolder.cinder.settings import Settings
    from zolder.cinder.storage import San
    from zolder.cli.backends import Ground
    from zolder.cli.report import Looked

WELL: Final = 0
FOUND: Final = 1
CANNOT: Final = 2

_SETTLE_SECONDS: Final = 5.0
# A list of many thousands of zvols on a slow SAN outlasts what an operation of Cinder's has.
_DEADLINE_SECONDS: Final = 900
_NO_CINDER: Final = (
    "Cinder is not installed here: run it where cinder-volume runs (pip install 'zolder[cinder]')"
)


def main(arguments: Sequence[str] | None = None, *, connect: Callable[[Settings], San] | None = None) -> int:
    """Run the command and return its exit status.

    :param connect: opens a SAN, and is replaced in tests.
    """
    options = _parser().parse_args(arguments)
    if _repairs_unasked(options):
        return _fail("--repair asks before it changes anything, and nobody would read what: add --yes")
    try:
        return _run(options, connect)
    except BrokenPipeError:
        # Whoever read has seen enough; Python would complain of it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FOUND
    except KeyboardInterrupt:
        return _fail("interrupted")


def _repairs_unasked(options: argparse.Namespace) -> bool:
    if options.command != "orphans" or not options.repair or options.yes:
        return False
    return options.json or not sys.stdin.isatty()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zolder", description="Zolder on a control node.")
    parser.add_argument("--version", action="version", version=f"zolder {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    orphans = commands.add_parser(
        "orphans",
        help="compare Cinder's database with the SAN",
        description="Say what Cinder has and the SAN has not, and the other way round: volumes, snapshots,"
        " attachments, exports. Each difference is looked at twice. It changes nothing without --repair,"
        " which closes what nobody has attached and opens what somebody has; it never deletes a volume or a"
        " snapshot. Exit status 0: nothing found, or all mended; 1: something found; 2: cannot be asked.",
    )
    orphans.set_defaults(run=_orphans)
    _add_common(orphans)
    orphans.add_argument(
        "--only", action="append", default=[], metavar="KIND", choices=[str(kind) for kind in Kind],
        help=f"only this kind; may be given again. One of: {', '.join(HEADINGS)}",
    )  # fmt: skip
    orphans.add_argument("--repair", action="store_true", help="mend what can be mended, after asking")
    orphans.add_argument("--yes", action="store_true", help="with --repair: do not ask")
    orphans.add_argument(
        "--settle", type=_seconds, default=_SETTLE_SECONDS, metavar="SECONDS",
        help="between the two looks at a difference (%(default)g)",
    )  # fmt: skip
    trash = commands.add_parser(
        "trash",
        help="list deleted volumes whose data clones still need",
        description="List what Cinder has deleted and the SAN keeps, because volumes that were made from it"
        " still need its data: which volume it was, when it was deleted, the bytes, and what holds it. It"
        " goes by itself with the last of those. Nothing is changed. Exit status 0: all SANs were asked; 2:"
        " one could not be.",
    )
    trash.set_defaults(run=_trash)
    _add_common(trash)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config-file", action="append", default=[], metavar="PATH",
        help="Cinder's configuration, as for cinder-volume (where Cinder looks for it)",
    )  # fmt: skip
    parser.add_argument(
        "--backend", action="append", default=[], metavar="SECTION",
        help="only this back end, and those that share its parent; may be given again",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="a JSON object, for scripts")
    parser.add_argument(
        "--deadline", type=_seconds, default=_DEADLINE_SECONDS, metavar="SECONDS",
        help="for one answer of the SAN (%(default)g)",
    )  # fmt: skip


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 24 * 3600:
        message = f"{text} is no number of seconds from 0 to a day's"
        raise argparse.ArgumentTypeError(message)
    return seconds


def _run(options: argparse.Namespace, connect: Callable[[Settings], San] | None) -> int:
    try:
        with warnings.catch_warnings():
            # Of the age of Cinder's parts, eventlet above all (whose warning is of a class of its own), its
            # developers must know, and not who runs this.
            warnings.simplefilter("ignore")
            from zolder.cinder.storage import open_san  # noqa: PLC0415 - it needs Cinder
            from zolder.cli import backends  # noqa: PLC0415 - as above
    except ImportError as err:
        return _fail(f"{_NO_CINDER}; {err}")
    try:
        backends.read_configuration(options.config_file)
        grounds = backends.read_grounds(options.backend)
    except backends.NoBackends as err:
        return _fail(str(err))
    status: int = options.run(options, grounds, connect or open_san)
    return status


def _trash(options: argparse.Namespace, grounds: Sequence[Ground], connect: Callable[[Settings], San]) -> int:
    from zolder.cli import trash  # noqa: PLC0415 - it needs Cinder

    each = [trash.look(ground, connect, deadline_seconds=options.deadline) for ground in grounds]
    _say(json.dumps(trash.as_json(each), indent=2) if options.json else "\n".join(trash.as_text(each)))
    return CANNOT if any(one.trouble for one in each) else WELL


def _orphans(
    options: argparse.Namespace, grounds: Sequence[Ground], connect: Callable[[Settings], San]
) -> int:
    from zolder.cli import inspection, report  # noqa: PLC0415 - it needs Cinder

    wanted = frozenset(Kind(kind) for kind in options.only)
    inspector = inspection.Inspection(options.settle, options.deadline, wanted or frozenset(Kind), connect)
    looked = [inspector.look(ground) for ground in grounds]
    if not options.json:
        _say("\n".join(report.as_text(looked)))
    if options.repair and _may_repair(looked, asks=not options.yes):
        for finding, outcome in (mended for one in looked for mended in inspector.mend(one)):
            if not options.json:
                _say(report.outcome_line(finding, outcome))
    if options.json:
        _say(json.dumps(report.as_json(looked), indent=2))
    if any(one.trouble for one in looked):
        return CANNOT
    return WELL if all(one.is_well for one in looked) else FOUND


def _may_repair(looked: list[Looked], *, asks: bool) -> bool:
    count = sum(finding.repairable for one in looked for finding in one.findings)
    if not count:
        return False
    if not asks:
        return True
    sys.stderr.write(f"Repair {count} of them now? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _fail(message: str) -> int:
    sys.stderr.write(f"zolder: {message}\n")
    return CANNOT


if __name__ == "__main__":
    sys.exit(main())
