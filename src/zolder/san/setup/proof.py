"""Proof that sshd will do what the drop-in says, asked of sshd itself before the drop-in is in place.

What counts in sshd's files is what comes first, so a line above the drop-in may undo it. sshd is given a copy
of its own file that reads a copy of the folder with the new text in it, and says what would hold.
"""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final

from zolder.names import Identity
from zolder.san.confinement import (
    ADDRESSES,
    BY_KEY,
    BY_PASSWORD,
    NO_OTHER_WAYS_IN,
    Settings,
    question,
    read_settings,
)
from zolder.san.setup.host import USER, Host, SetupError
from zolder.san.setup.texts import SSHD_FILE, login_name

_MAIN: Final = "etc/ssh/sshd_config"
_OURS: Final = PurePosixPath(SSHD_FILE)
# sshd_config(5): a keyword in any case, blanks or one "=", arguments.
_LINE: Final = re.compile(r"[ \t]*([A-Za-z]+)(?:[ \t]*=[ \t]*|[ \t]+)(.*)")
_PLACES: Final = "/usr/sbin:/usr/local/sbin:/usr/bin"
# sshd makes it when it starts, and refuses to check a file without it where it never did (socket activation).
_SEPARATION_FOLDER: Final = Path("/run/sshd")


def prove(host: Host, passwords: Iterable[Identity], text: str) -> None:
    """Make sure that sshd, with the drop-in of this text, confines all who come to the agent.

    :param passwords: the identities that may log in with a password.
    :raises SetupError: it would not, finds a fault, or would not read the drop-in at all.
    """
    main = host.read(_MAIN)
    if main is None:
        message = f"there is no /{_MAIN}: install openssh-server"
        raise SetupError(message)
    program = shutil.which("sshd", path=_PLACES)
    if program is None:
        message = "there is no sshd on this machine: install openssh-server"
        raise SetupError(message)
    _SEPARATION_FOLDER.mkdir(mode=0o755, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="zolder-") as name:
        copy = Path(name, _OURS.parent.name)
        copy.mkdir()
        candidate = Path(name, "sshd_config")
        _write(candidate, _redirected(host, main.text, copy))
        folder = host.path(str(_OURS.parent))
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_file():
                shutil.copyfile(path, copy / path.name)
        _write(copy / _OURS.name, text)
        for user, wanted in _wanted(host, passwords):
            for address in ADDRESSES:
                argv = [program, "-T", "-f", str(candidate), "-C", question(user, address)]
                done = host.run(argv)
                if done.exit_status:
                    said = done.stderr.strip()[-1000:].replace(str(copy), f"/{_OURS.parent}")
                    said = said.replace(str(candidate), f"/{_MAIN}")
                    message = f"sshd refuses its configuration with /{SSHD_FILE}: {said}"
                    raise SetupError(message)
                _compare(user, address, read_settings(done.stdout), wanted)


def _wanted(host: Host, passwords: Iterable[Identity]) -> Iterator[tuple[str, Settings]]:
    yield USER, {**BY_KEY, **NO_OTHER_WAYS_IN, "forcecommand": "none"}
    for identity in sorted(set(passwords)):
        forced = f"{host.executable} serve --identity {identity}"
        yield login_name(identity), {**BY_PASSWORD, **NO_OTHER_WAYS_IN, "forcecommand": forced}


def _compare(user: str, address: str, settings: Settings, wanted: Settings) -> None:
    for key, value in wanted.items():
        now = settings.get(key, "not known to this sshd")
        if now != value:
            message = (
                f"/{SSHD_FILE} would not hold: for user {user} from {address}, {key} would be {now}, not "
                f"{value}. sshd reads another line first: find it with 'grep -rin {key} /etc/ssh', take "
                "it away or let it not hold for this user, then run this command again"
            )
            raise SetupError(message)


def _redirected(host: Host, text: str, copy: Path) -> str:
    """Return sshd's own file with what it includes of the drop-in's folder taken from a copy.

    :raises SetupError: it does not include the drop-in, or under a condition only.
    """
    lines, included, match = [], False, None
    for number, line in enumerate(text.split("\n"), start=1):
        keyword, words = _parse(line)
        if keyword == "match" and match is None:
            match = number
        ours = [_reads_drop_in(host, word) for word in words] if keyword == "include" else []
        if not any(ours):
            lines.append(line)
            continue
        if match is not None and not included:
            message = (
                f"/{_MAIN}, line {number}: this Include stands below the Match of line {match} and holds for "
                "some only: move it to the top of the file, then run this command again"
            )
            raise SetupError(message)
        included = True
        moved = [str(copy / Path(word).name) if own else word for word, own in zip(words, ours, strict=True)]
        lines.append("Include " + " ".join(f'"{word}"' for word in moved))
    if not included:
        message = (
            f"/{_MAIN} does not read the files in sshd_config.d: put the line "
            "'Include /etc/ssh/sshd_config.d/*.conf' at its top"
        )
        raise SetupError(message)
    return "\n".join(lines)


def _parse(line: str) -> tuple[str, list[str]]:
    found = _LINE.match(line)
    if not found:
        return "", []
    try:
        return found[1].lower(), shlex.split(found[2], comments=True)
    except ValueError:
        return found[1].lower(), []


def _reads_drop_in(host: Host, pattern: str) -> bool:
    """Say whether an Include's pattern, which is relative to sshd's folder, means our file."""
    path = host.path(str(_OURS.parent.parent)) / pattern
    return path.parent == host.path(str(_OURS.parent)) and fnmatchcase(_OURS.name, path.name)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
