"""Several jobs side by side, of which the first failure ends all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")


def run_together(jobs: Sequence[Callable[[], T]], *, stop: Callable[[], None] = lambda: None) -> list[T]:
    """Run jobs in threads and return their results in order.

    :param stop: makes the jobs that still run end soon; called when one failed, or when we are interrupted.
    :raises Exception: what the first failed job raised; what the stopped ones raise then is a consequence.
    """
    with ThreadPoolExecutor(max_workers=len(jobs)) as workers:
        futures = [workers.submit(job) for job in jobs]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:
            stop()
            raise
        failed = [error for future in done if (error := future.exception())]
        if failed:
            stop()
            raise failed[0]
        return [future.result() for future in futures]
