"""`python -m bench.exports`: what attaching and detaching cost with each exporter, and what restoring costs.

Over real channels to the lab's SAN with 1,000 volumes, with no other export standing and with 500: the cost
must not grow. A request is one line to the agent; processes, and threads, are those that the SAN's kernel
started meanwhile. Then 200 attachments that stand already are asked for once more, as when cinder-volume
starts, and their targets are taken away behind the records' back and restored. Medians in milliseconds; the
table goes to bench/exports.json, too.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

from lab import Lab
from tests.contract.ground import MIB, PARENT, ROUTES
from tests.support.beside import Beside
from tests.support.san import ssh_target
from zolder.client.pool import Pool
from zolder.client.remote import RemoteStorage
from zolder.model import Access
from zolder.names import AttachmentId, ExporterName, VolumeId, ZvolName, zvol_dataset

RESULTS: Final = Path(__file__).parent / "exports.json"
CHANNELS: Final = 8
DEADLINE_SECONDS: Final = 300
RESTORED: Final = 200
_BATCH: Final = 25

# Takes targets away as a reboot does: without a word to the records.
_FORGET: Final = """
from zolder.san.exports import EXPORTERS
exporter = EXPORTERS[given["exporter"]]()
for dataset in given["datasets"]:
    exporter.remove_export(subject_of({**given, "dataset": dataset}))
answer(None)
"""


class Bench:
    """The lab's SAN with many zvols, and how it is measured."""

    def __init__(self, lab: Lab, pool: Pool, *, volumes: int, standing: int, samples: int) -> None:
        """Make the zvols.

        :param standing: how many of them are exported beside the one that is measured.
        :param samples: how often each step is measured.
        """
        self._lab = lab
        self._pool = pool
        self._storage = RemoteStorage(pool, deadline_seconds=DEADLINE_SECONDS)
        self._storage.get_figures(PARENT)
        self._samples = samples
        self._one, *others = (ZvolName(f"volume-bench-{number}") for number in range(volumes))
        self._zvols = others[:standing]
        self._each(self._create, [self._one, *others])
        # Looking starts a shell and a reader itself; the first time the line to it is opened, too.
        looks = [self._processes() for _ in range(5)]
        self._looking = min(later - earlier for earlier, later in pairwise(looks))

    def run(self, exporter: ExporterName) -> dict[str, Any]:
        """Measure one exporter."""
        found: dict[str, Any] = {"alone": self._attach_and_detach(exporter)}
        self._each(lambda names: self._ensure(exporter, names), _batches(self._zvols))
        found[f"beside {len(self._zvols)}"] = self._attach_and_detach(exporter)
        some = self._zvols[:RESTORED]
        found[f"ask for {len(some)} that stand"] = self._watch(lambda: self._ensure(exporter, some))
        self._each(self._withdraw, self._zvols[RESTORED:])
        found[f"restore {len(some)}"] = self._restore(exporter, some)
        self._each(self._withdraw, some)
        return found

    def _attach_and_detach(self, exporter: ExporterName) -> dict[str, Any]:
        route, initiator, _ = ROUTES[exporter]
        costs: dict[str, list[dict[str, float]]] = {"attach": [], "detach": []}
        for _ in range(self._samples):
            use = AttachmentId(str(uuid.uuid4()))
            attach = self._watch(
                lambda use=use: self._storage.export_zvol(  # type: ignore[misc]  # bound by its default
                    PARENT, self._one, initiator, route=route, attachment=use, chap=None
                )
            )
            detach = self._watch(
                lambda use=use: self._storage.withdraw_zvol(  # type: ignore[misc]  # ditto
                    PARENT, self._one, initiator, attachment=use
                )
            )
            costs["attach"].append(attach)
            costs["detach"].append(detach)
        return {
            verb: {what: round(median(one[what] for one in found), 1) for what in found[0]}
            for verb, found in costs.items()
        }

    def _restore(self, exporter: ExporterName, zvols: list[ZvolName]) -> dict[str, float]:
        route = ROUTES[exporter][0]
        with Beside(self._lab.san) as python:
            datasets = [zvol_dataset(PARENT, zvol) for zvol in zvols]
            python.run(_FORGET, exporter=exporter, datasets=datasets, prefix=route.prefix)
        if self._storage.list_exports(PARENT):
            message = "the targets are still there"
            raise AssertionError(message)
        cost = self._watch(lambda: self._lab.san.succeed("zolder-san restore", timeout_seconds=600))
        if len({export.zvol for export in self._storage.list_exports(PARENT)}) != len(zvols):
            message = "not all exports came back"
            raise AssertionError(message)
        return cost

    def _watch(self, act: Callable[[], object]) -> dict[str, float]:
        before, asked = self._processes(), self._pool.requests
        started = time.perf_counter()
        act()
        ms = (time.perf_counter() - started) * 1000
        return {
            "ms": round(ms, 1),
            "requests": self._pool.requests - asked,
            "processes": self._processes() - before - self._looking,
        }

    def _processes(self) -> int:
        return int(self._lab.san.succeed("grep ^processes /proc/stat").split()[1])

    def _create(self, name: ZvolName) -> None:
        volume = VolumeId(str(uuid.uuid5(uuid.NAMESPACE_OID, name)))
        self._storage.create_zvol(PARENT, name, volume_id=volume, volsize_bytes=64 * MIB, sparse=True)

    def _ensure(self, exporter: ExporterName, names: list[ZvolName]) -> None:
        route, initiator, _ = ROUTES[exporter]
        wanted = tuple(Access(name, initiator, None) for name in names)
        refused = self._storage.ensure_exports(PARENT, wanted, route=route).value
        if refused:
            raise AssertionError(refused)

    def _withdraw(self, name: ZvolName) -> None:
        self._storage.withdraw_zvol(PARENT, name, None, attachment=None)

    @staticmethod
    def _each(act: Callable[[Any], None], items: Iterable[Any]) -> None:
        with ThreadPoolExecutor(CHANNELS) as threads:
            list(threads.map(act, items))


def _batches(names: list[ZvolName]) -> list[list[ZvolName]]:
    return [names[first : first + _BATCH] for first in range(0, len(names), _BATCH)]


def main() -> None:
    """Measure each exporter and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m bench.exports", description=__doc__)
    parser.add_argument("--volumes", type=int, default=1000, help="how many there are")
    parser.add_argument("--standing", type=int, default=500, help="how many other exports")
    parser.add_argument("--samples", type=int, default=10, help="how often each is measured")
    parser.add_argument("--exporter", choices=[str(name) for name in ROUTES], help="this one only")
    options = parser.parse_args()
    lab = Lab(os.environ.get("ZOLDER_LAB") or "bench")
    results = {}
    try:
        lab.up()
        with closing(Pool(ssh_target(lab), max_channels=CHANNELS)) as pool:
            bench = Bench(
                lab,
                pool,
                volumes=options.volumes,
                standing=options.standing,
                samples=options.samples,
            )
            for exporter in (name for name in ROUTES if options.exporter in {None, name}):
                results[str(exporter)] = bench.run(exporter)
                print(f"{exporter}: {json.dumps(results[str(exporter)])}", flush=True)
    finally:
        if not lab.keep:
            lab.down()
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
