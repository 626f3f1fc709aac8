"""Where a sync runs (ADR 0016): in the loop while the disk has shown to be quick, else in a thread of its own.

Waking a thread and being woken by it costs more than the `fdatasync` of a small write: on an idle machine 1 ms of
the 2.7 ms between a proposal and its commit, and two sleeps for each entry on each node.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

QUICK_SECONDS = 0.01  # R9: what may hold the loop
MEAN_SECONDS = 0.002  # on average: a disk of steady 8 ms would fill the loop with waiting
MEAN_OF = 32
TRIED = 32
"""So many quick ones in a row before the first in the loop."""
RECOVERED = 256
"""After a slow one. A sync is one turn of at least four (request, sync, answers, timer): so at most one turn in a
thousand is held by the disk (R9: p99.9)."""


class SyncJob(Protocol):
    @property
    def light(self) -> bool:
        """One small write to a file that is there: as quick as the disk can be."""
        ...

    def run(self) -> None:
        """Blocks until durable. Raises `DiskFull` (nothing written: may run again) or `OSError` (fatal)."""
        ...


class Pace:
    """Whether the next light sync may be done in the loop, by how long the last ones took, wherever they ran."""

    def __init__(self) -> None:
        self._left = TRIED
        self._mean = 0.0

    @property
    def quick(self) -> bool:
        return self._left == 0 and self._mean <= MEAN_SECONDS

    def took(self, seconds: float) -> None:
        self._mean += (seconds - self._mean) / MEAN_OF
        if seconds > QUICK_SECONDS:
            self.slow()
        elif self._left:
            self._left -= 1

    def slow(self) -> None:
        """The disk is, or will be for a while: megabytes are being written beside the log."""
        self._left = RECOVERED


class SyncThread:
    """One worker thread: runs a job at a time and tells the loop when it ends, and with what error."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[tuple[SyncJob, Callable[..., None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, job: SyncJob, done: Callable[[SyncJob, BaseException | None, float], None]) -> None:
        """`done(job, error, seconds)` is called in the loop."""
        self._jobs.put((job, done))

    def stop(self) -> None:
        """Waits for the job that runs."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            error, took_s = timed_run(job)
            self._loop.call_soon_threadsafe(done, job, error, took_s)


def timed_run(job: SyncJob) -> tuple[BaseException | None, float]:
    """The error it ended with, for the loop to die of, and the seconds it took."""
    started = time.perf_counter()
    error: BaseException | None = None
    try:
        job.run()
    except BaseException as caught:  # noqa: BLE001 handed on, never swallowed
        error = caught
    return error, time.perf_counter() - started
