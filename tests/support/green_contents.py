"""Green threads that read and write contents at once: ``green_contents.py COMMAND...``; prints a report.

A process of its own, because eventlet's monkey-patching cannot be taken back; the SAN is in the one that
started it. A green thread ticks meanwhile, as in green.py.
"""

from __future__ import annotations

import eventlet

eventlet.monkey_patch()

import json  # noqa: E402 - what is patched must be patched before it is used
import sys  # noqa: E402

from tests.contract.ground import MIB, PARENT  # noqa: E402
from tests.support.green import tick  # noqa: E402
from tests.support.memory import MemorySink, MemorySource, random_bytes, whole  # noqa: E402
from zolder.client.contents import Carrier  # noqa: E402
from zolder.client.local import LocalAgent  # noqa: E402
from zolder.client.pool import Pool  # noqa: E402
from zolder.client.remote import RemoteStorage  # noqa: E402
from zolder.names import VolumeId, ZvolName  # noqa: E402

SIZE = 32 * MIB


def main() -> None:
    """Run the scenario."""
    route = LocalAgent(tuple(sys.argv[1:]))
    pool = Pool(route)
    storage = RemoteStorage(pool, deadline_seconds=30)
    carrier = Carrier(route, deadline_seconds=30, most=3)
    pauses: list[float] = []
    ticker = eventlet.spawn(tick, pauses)
    tasks = [eventlet.spawn(carry, storage, carrier, number) for number in range(2, 5)]
    equal = [task.wait() for task in tasks]
    pool.close()
    ticker.kill()
    sys.stdout.write(json.dumps({"equal": equal, "longest_pause_seconds": max(pauses)}))


def carry(storage: RemoteStorage, carrier: Carrier, number: int) -> bool:
    """Write a zvol and read it back."""
    zvol = ZvolName(f"volume-{number}")
    volume_id = VolumeId(f"00000000-0000-4000-8000-00000000000{number}")
    storage.create_zvol(PARENT, zvol, volume_id=volume_id, volsize_bytes=SIZE, sparse=True)
    pieces = {MIB: random_bytes(20 * MIB, number)}
    carrier.write_zvol(PARENT, zvol, MemorySource(pieces))
    sink = MemorySink()
    carrier.read_zvol(PARENT, zvol, sink)
    return bytes(sink.contents) == whole(pieces, SIZE)


if __name__ == "__main__":
    main()
