"""Every attack of the table against the lab's SAN, with real keys over the real ssh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.attack import ground
from tests.attack.model import Attack, verdict
from tests.attack.table import ATTACKS
from tests.attack.table_helper import CONTROL

if TYPE_CHECKING:
    from tests.attack.conftest import Siege

LISTEN: Final = 'import socket, time; s = socket.create_server(("127.0.0.1", 4790)); time.sleep(78)'
# What root does and undoes, one for each kind of fact: an observer that misses one would miss an attack.
CONTROLS: Final = {
    "datasets": (
        f"zfs set zolder:x=1 {ground.PARENT}/foreign",
        f"zfs inherit zolder:x {ground.PARENT}/foreign",
    ),
    "zpools": ("zpool set comment=x fast", "zpool set comment= fast"),
    "allow": (f"zfs allow -e send {ground.PARENT}", f"zfs unallow -e send {ground.PARENT}"),
    "target": (
        "mkdir /sys/kernel/config/target/core/iblock_78",
        "rmdir /sys/kernel/config/target/core/iblock_78",
    ),
    "attribute": (
        f"echo 1 > /sys/kernel/config/target/iscsi/{ground.TAKEN_TARGET}/tpgt_1/attrib/generate_node_acls",
        f"echo 0 > /sys/kernel/config/target/iscsi/{ground.TAKEN_TARGET}/tpgt_1/attrib/generate_node_acls",
    ),
    "file": ("touch -d yesterday /etc/zolder/san.toml", "true"),
    "content": ("echo >> /etc/zolder/san.toml", "true"),
    "mount": ("mount -t tmpfs none /mnt", "umount /mnt"),
    "process": ("setsid sleep 77 > /dev/null 2>&1 < /dev/null &", "pkill -f '^sleep 77'"),
    "socket": (
        (
            f"setsid python3 -I -S -c '{LISTEN}' > /dev/null 2>&1 < /dev/null &"
            " while ! grep -q :12B6 /proc/net/tcp; do sleep 0.1; done"
        ),
        "pkill -f 'time.sleep.78[)]'",
    ),
}


def test_the_ground_is_seen(siege: Siege) -> None:
    """The dump has what the ground was laid with, one fact of each kind at least."""
    missing = [
        name for name in ground.SEEN if not any(fact.startswith(name) for fact in siege.observer.facts)
    ]
    assert missing == []


def test_the_helper_answers_its_agent(siege: Siege) -> None:
    """A right conversation with the helper is answered, so refusals elsewhere are refusals."""
    control = Attack("control", "helper", CONTROL, frozenset({"answered"}))
    outcome = siege.runner.run(control)
    assert verdict(control, outcome) == []


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack(siege: Siege, attack: Attack) -> None:
    """It is held off: it sees what it must, nothing secret comes back, and the SAN holds what it held."""
    outcome = siege.runner.run(attack)
    changed = siege.observer.rest(siege.runner.open_lines)
    faults = [*verdict(attack, outcome), *changed]
    assert not faults, "\n".join([*faults, f"what came back: {outcome.output[:4000]!r}"])


@pytest.mark.parametrize("kind", CONTROLS)
def test_a_change_of_each_kind_is_noticed(siege: Siege, kind: str) -> None:
    """What root changes in the SAN is told as a change of its kind."""
    do, undo = CONTROLS[kind]
    siege.lab.san.succeed(do)
    try:
        changed = siege.observer.rest(siege.runner.open_lines)
    finally:
        siege.lab.san.succeed(undo)
        siege.observer.rest(siege.runner.open_lines)
    assert any(change[2:].startswith(kind) for change in changed), changed


def test_all_is_as_it_was_laid(siege: Siege) -> None:
    """Read whole once more, behind all attacks: nothing has changed."""
    assert siege.observer.rest(siege.runner.open_lines, whole=True) == []
