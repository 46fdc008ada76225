"""Too much of everything: connections, channels, bytes and idleness; a SAN that stands answers afterwards.

Each way holds its load, measures the peak memory of agents and helper meanwhile, lets go, and asks for the
figures over a fresh channel.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from tests.attack.line import Access, Line
from tests.attack.model import HELLO, Outcome, line

if TYPE_CHECKING:
    from tests.attack.runner import Guest

PARENTS: Final = {"agent": "data/volumes", "other": "data/other"}
MAX_MEMORY_KIB: Final = 128 * 1024
# With the lab under emulation; without load an answer takes half a second and its channel two.
ANSWER_SECONDS: Final = 60
HELPER_SOCKET: Final = "/run/zolder-helper.socket"
# What the ground gives identity other (tests/attack/ground.py).
MAX_CHANNELS: Final = 4

Way = Callable[[Access, "Guest", str, int], Outcome]


def half_open(access: Access, guest: Guest, key: str, count: int) -> Outcome:
    """Connect to sshd and say nothing, a hundred at once held open all the time.

    From within the SAN: the lab's own way in takes one connection at a time, and would be the victim.
    """
    held = guest.ask("knock", port=22, count=count, held=100)
    return _after(access, key, _heavy(guest), f"{held['held']} of {held['connected']} connections were held")


def slow(access: Access, guest: Guest, key: str, count: int) -> Outcome:
    """Write a request one byte a second on several channels, while another asks and is answered."""
    with _lines(access, key, count, greet=True) as lines:
        for byte in line("get_figures", {"parent": PARENTS[key]})[:6]:
            for one in lines:
                one.send(bytes([byte]))
            time.sleep(1)
        return _after(access, key, _heavy(guest), f"{len(lines)} wrote slowly")


def idle(access: Access, guest: Guest, key: str, count: int) -> Outcome:
    """Open channels and never say hello, while another asks and is answered."""
    with _lines(access, key, count, greet=False):
        return _after(access, key, _heavy(guest), f"{count} channels were idle")


def beyond_limit(access: Access, guest: Guest, key: str, count: int) -> Outcome:
    """Open more channels than the identity may have at once: those beyond are refused, the rest live."""
    with ExitStack() as stack:
        words = [stack.enter_context(Line(access.argv(key))).greet() for _ in range(count)]
        heavy = _heavy(guest)
    welcome = [word for word in words if word.startswith("identity:")]
    if len(welcome) != MAX_CHANNELS:
        heavy.append(f"{len(welcome)} channels at once, not {MAX_CHANNELS}")
    return _after(access, key, heavy, " ".join(words))


def unread(access: Access, guest: Guest, key: str, count: int) -> Outcome:
    """Ask without reading any answer until the pipes are full, and go away."""
    with _lines(access, key, 1, greet=True) as (one,):
        whole = one.send(line("no such request", {"x": "y" * 4000}) * count, seconds=20)
        heavy = _heavy(guest)
    return _after(access, key, heavy, f"all was sent: {whole}")


def endless(access: Access, guest: Guest, key: str, count: int) -> Outcome:
    """Send MiB after MiB without a newline, from several channels at once."""
    with _lines(access, key, 3, greet=True) as lines:
        block = b"x" * 2**20
        threads = [
            threading.Thread(target=lambda one=one: [one.send(block, 5) for _ in range(count)])
            for one in lines
        ]
        for thread in threads:
            thread.start()
        heavy = _heavy(guest)
        for thread in threads:
            thread.join()
    return _after(access, key, heavy, "")


def dropped(access: Access, guest: Guest, key: str, count: int) -> Outcome:
    """Cut each connection right after a request went out, before its answer."""
    for _ in range(count):
        with Line(access.argv(key)) as one:
            one.send(HELLO + line("list_zvols", {"parent": PARENTS[key]}))
            one.end_input()
            one.exit_status(0.7)
    return _after(access, key, _heavy(guest), "")


def helper_crowd(access: Access, guest: Guest, key: str, count: int) -> Outcome:
    """Hold connections to the helper's socket as the agent's user, each with half a frame."""
    done = guest.ask("crowd", user="zolder", path=HELPER_SOCKET, count=count, seconds=3)
    return _after(access, key, _heavy(guest), f"{done['connected']} of {count} connections")


WAYS: Final[Mapping[str, Way]] = {
    way.__name__: way for way in (half_open, slow, idle, beyond_limit, unread, endless, dropped, helper_crowd)
}


@contextmanager
def _lines(access: Access, key: str, count: int, *, greet: bool) -> Iterator[list[Line]]:
    with ExitStack() as stack:
        lines = [stack.enter_context(Line(access.argv(key))) for _ in range(count)]
        for one in lines:
            word = one.greet() if greet else ""
            assert one.usable, f"a channel of the flood was not greeted: {word} {one.output!r}"
        yield lines


def _heavy(guest: Guest) -> list[str]:
    peaks: dict[str, int] = guest.ask("memory")
    return [f"{name} has {kib} KiB" for name, kib in peaks.items() if kib > MAX_MEMORY_KIB]


def _after(access: Access, key: str, faults: list[str], note: str) -> Outcome:
    """Return whether the SAN still answers over a fresh channel; what was freed may take a moment."""
    end = time.monotonic() + ANSWER_SECONDS
    words: list[str] = []
    while time.monotonic() < end and "answered" not in words:
        with Line(access.argv(key)) as fresh:
            words.append(fresh.greet())
            if fresh.usable:
                fresh.send(line("get_figures", {"parent": PARENTS[key]}))
                words.append(fresh.reply())
    if "answered" not in words:
        faults = [*faults, f"no answer in {ANSWER_SECONDS} s: {words[-3:]}"]
    return Outcome("fell" if faults else "stood", "\n".join([note, *faults]).encode())
