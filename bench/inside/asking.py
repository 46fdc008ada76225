"""The SAN's side of `python -m bench.helper`: times one of root's verbs, by root and through the helper.

Runs in the guest as root; prints one JSON object of lists of milliseconds.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, "/usr/local/lib/zolder")

from zolder.names import DatasetName, Identity, OperationId
from zolder.san.account import become_unprivileged
from zolder.san.asking import Asking, HelperLine
from zolder.san.locks import Locks
from zolder.san.operation import Operation
from zolder.san.policies import load_policy
from zolder.san.root import Root

PARENT = DatasetName("data/volumes")
WARM_UP = 5


def timed(act: Callable[[], object], rounds: int) -> list[float]:
    """Return how long each of so many rounds took, in ms."""
    found = []
    for _ in range(rounds + WARM_UP):
        started = time.perf_counter()
        act()
        found.append((time.perf_counter() - started) * 1000)
    return found[WARM_UP:]


def main(rounds: int) -> None:
    """Print the times of both ways, in turns: each way has a process of its own."""
    identity = Identity("lab")
    operation = Operation(
        OperationId("00000000-0000-4000-8000-000000000000"),
        seconds=600,
        peer_is_there=lambda: True,
        notify=print,
    )
    reading, writing = os.pipe()
    if os.fork() == 0:
        become_unprivileged()
        asking = Asking(HelperLine(identity), operation)
        asked = timed(lambda: asking.list_exports(PARENT), rounds)
        os.write(writing, json.dumps(asked).encode())
        os._exit(0)
    os.wait()
    os.close(writing)
    with os.fdopen(reading) as stream:
        helper = json.load(stream)
    root = Root(load_policy(identity), operation, Locks(Path("/run/zolder-bench.locks")))
    direct = timed(lambda: root.list_exports(PARENT), rounds)
    print(json.dumps({"direct": direct, "helper": helper}))


main(int(sys.argv[1]))
