"""Batches without timers: what comes while a request is under way leaves with the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

Send = Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]
"""Sends items in one request and answers their results, aligned. A result that is an exception is raised
to the item's caller; an exception raised by `send` is raised to all of them."""


class Batcher:
    """`submit` an item, await its own result. At most `in_flight` requests are under way at once; when
    idle an item leaves alone and at once, under load a request carries up to `count_max` items."""

    def __init__(self, send: Send, *, count_max: int, in_flight: int = 1) -> None:
        self._send = send
        self._count_max = count_max
        self._free = in_flight
        self._in_flight = in_flight
        self._waiting: deque[tuple[Any, asyncio.Future[Any]]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Items not yet sent."""
        return len(self._waiting)

    def submit(self, item: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._pump()
        return future

    async def drain(self) -> None:
        """Until everything submitted so far has its answer. Failures are the submitters' to see."""
        while self._running or self._waiting:
            self._pump()
            await asyncio.wait(set(self._running))

    def _pump(self) -> None:
        while self._waiting and self._free:
            self._free -= 1
            task = asyncio.create_task(self._turn())
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._free += 1
        self._pump()

    async def _turn(self) -> None:
        # Chosen here, a turn of the loop after `submit`: what was submitted together travels together.
        batch = [self._waiting.popleft() for _ in range(min(self._count_max, len(self._waiting)))]
        batch = [(item, future) for item, future in batch if not future.cancelled()]
        if not batch:
            return
        try:
            results = await self._send([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items")
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - handed to every caller of this batch
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
