"""An idle client that only enqueues, so that the time without service is measured by somebody who has
nothing else to do. Its messages are no part of the history: they expire in a queue of their own."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from trivet.client import ApiError, Client, RetryPolicy

QUEUE_CONFIG: dict[str, Any] = {
    "ttl_ms": 2000,
    "max_dead": 100,
    "dead_retention_ms": 60_000,
    "retention_ms": 60_000,
}
PERIOD_SECONDS = 0.05
KEPT = 2000


class Probe:
    """One enqueue after the other, from `start` until `stop`."""

    def __init__(self, nodes: list[str], queue: str) -> None:
        self._nodes = nodes
        self._queue = queue
        self._acknowledged: deque[tuple[int, int]] = deque(maxlen=KEPT)  # begun, answered: monotonic ns
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.sent = 0

    async def start(self) -> None:
        """Returns when the first enqueue was acknowledged."""
        async with Client(self._nodes) as client:
            await client.put_queue(self._queue, **QUEUE_CONFIG)
        self._task = asyncio.create_task(self._run())
        await self.served_after(0, 30)

    async def stop(self) -> None:
        """Raises what ended it, if anything did."""
        self._stopping.set()
        if self._task is not None:
            await self._task

    async def served_after(self, since_ns: int, timeout_s: float) -> int | None:
        """When the first enqueue that began after `since_ns` was acknowledged (monotonic ns); None if none
        was within `timeout_s` from now."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    for begun, answered in self._acknowledged:
                        if begun >= since_ns:
                            return answered
                    self._changed.clear()
                    if self._task is not None and self._task.done():
                        self._task.result()
                    await self._changed.wait()
        except TimeoutError:
            return None

    async def _run(self) -> None:
        # A short retry time: each call that fails is followed by a new one.
        async with Client(self._nodes, retry=RetryPolicy(total_s=5.0)) as client:
            while not self._stopping.is_set():
                begun = time.monotonic_ns()
                try:
                    await client.enqueue(self._queue, {"probe": self.sent})
                    self._acknowledged.append((begun, time.monotonic_ns()))
                except ApiError:
                    pass  # no service: that is what is measured
                self.sent += 1
                self._changed.set()
                await asyncio.sleep(PERIOD_SECONDS)
