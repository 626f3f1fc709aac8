"""Runs a handler for each message of a queue: many at once, leases kept alive, answers sent in batches."""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from trivet.client.batching import Batcher
from trivet.client.client import Client, ack_item, nack_item
from trivet.client.effects import default_owner
from trivet.client.errors import (
    ApiError,
    EffectUncertain,
    Forbidden,
    InvalidArgument,
    LeaseLost,
    OutcomeUnknown,
    StaleLease,
    Unauthenticated,
)
from trivet.client.keeper import LeaseKeeper
from trivet.client.leases import Lease
from trivet.client.runs import RunWriter
from trivet.client.settle import item_error
from trivet.limits import ERROR_BYTES_MAX, LEASE_BATCH_MAX, SETTLE_BATCH_MAX, WAIT_MS_MAX

log = logging.getLogger("trivet.client.worker")

Handler = Callable[[Lease], Awaitable[Any] | Any]
"""Takes the lease; what it returns becomes the message's result (None: no result). Raises to fail."""

Verb = Callable[..., Awaitable[dict[str, Any]]]

HOPELESS = (InvalidArgument, Unauthenticated, Forbidden)
RECOVER_S = 0.25
POLL_PAUSE_S = 0.5


class Reject(Exception):
    """Raised by a handler: this message can never succeed; to the dead letters with it."""


class RetryLater(Exception):
    """Raised by a handler: try again after `delay_ms`; counts as a failed attempt."""

    def __init__(self, delay_ms: int, error: str = "") -> None:
        super().__init__(error or f"again in {delay_ms} ms")
        self.delay_ms = delay_ms


@dataclass(slots=True)
class WorkerStats:
    """Messages since the start. `unknown`: acks whose outcome stayed unknown; `repeated`: acks answered
    with the stored answer of an earlier attempt; `stale`: settled too late, another worker has it."""

    leased: int = 0
    acked: int = 0
    nacked: int = 0
    dead_lettered: int = 0
    released: int = 0
    lost: int = 0
    stale: int = 0
    unknown: int = 0
    repeated: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class Worker:
    """`await worker.run()` until `worker.stop()`.

    `concurrency`: handlers at once. `prefetch`: leased messages waiting for a free handler (kept alive
    too). `lease_ms`: None takes the message's or the queue's. `wait_ms`: how long an empty queue is
    waited on, 0 … 60 000. A plain (not async) handler runs in a thread, and cannot be stopped when its
    lease is lost. `on_settled(lease, result, error)` is told the end of each message.
    """

    def __init__(
        self,
        client: Client,
        queue: str | Sequence[str],
        handler: Handler,
        *,
        concurrency: int = 10,
        prefetch: int | None = None,
        lease_ms: int | None = None,
        wait_ms: int = 10_000,
        consumer: str | None = None,
        on_settled: Callable[[Lease, dict[str, Any] | None, Exception | None], None] | None = None,
    ) -> None:
        if concurrency < 1 or not 0 <= wait_ms <= WAIT_MS_MAX:
            raise ValueError(f"concurrency must be at least 1 and wait_ms 0 … {WAIT_MS_MAX}")
        self.client = client
        self.stats = WorkerStats()
        self.consumer = consumer or default_owner()
        self._queue = queue
        self._handler = handler
        self._concurrency = concurrency
        self._prefetch = concurrency if prefetch is None else prefetch
        self._lease_ms = lease_ms
        self._wait_ms = wait_ms
        self._on_settled = on_settled
        self._waiting: deque[Lease] = deque()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Event()
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._grace_s = 30.0
        self._keeper = LeaseKeeper(client, self._lost)
        self._acks = Batcher(self._send_acks, count_max=SETTLE_BATCH_MAX, in_flight=2)
        self._nacks = Batcher(self._send_nacks, count_max=SETTLE_BATCH_MAX, in_flight=1)

    # --- life ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until `stop`. Raises what makes going on pointless: a wrong request, missing rights."""
        try:
            while not self._stopping.is_set():
                room = self._concurrency + self._prefetch - len(self._running) - len(self._waiting)
                if room <= 0:
                    self._room.clear()
                    await self._or_stop(asyncio.create_task(self._room.wait()))
                    continue
                for lease in await self._poll(min(room, LEASE_BATCH_MAX)):
                    self._take(lease)
        finally:
            self._stopping.set()
            try:
                await self._wind_down()
            finally:
                self._stopped.set()

    async def stop(self, grace_s: float = 30.0) -> None:
        """Lease nothing more, give back what was not begun, wait `grace_s` for handlers, then cancel them
        and give theirs back too. Returns when all answers are sent."""
        self._grace_s = grace_s
        self._stopping.set()
        await self._stopped.wait()

    async def _or_stop(self, task: asyncio.Task[Any]) -> bool:
        """Until the task is done (True) or the stop comes, which ends the task (False)."""
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            return task.done()
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _wind_down(self) -> None:
        unstarted = [*self._waiting]
        self._waiting.clear()
        await self._give_back(unstarted)
        if self._running:
            await asyncio.wait(set(self._running.values()), timeout=self._grace_s)
        for task in list(self._running.values()):
            task.cancel()
        if self._running:
            await asyncio.wait(set(self._running.values()))
        await self._acks.drain()
        await self._nacks.drain()
        await self._keeper.close()

    # --- leasing ------------------------------------------------------------------------------------

    async def _poll(self, room: int) -> list[Lease]:
        request_id = secrets.token_hex(16)
        poll = asyncio.create_task(self._lease(room, request_id))
        if not await self._or_stop(poll):
            await self._give_back(await self._recover(room, request_id))
            return []
        try:
            return poll.result()
        except HOPELESS:
            raise
        except ApiError as error:
            log.warning("no lease: %s", error)
            await self._or_stop(asyncio.create_task(asyncio.sleep(POLL_PAUSE_S)))
            return []

    async def _lease(self, room: int, request_id: str) -> list[Lease]:
        return await self.client.lease(
            self._queue,
            self.consumer,
            max_messages=room,
            lease_ms=self._lease_ms,
            wait_ms=self._wait_ms,
            request_id=request_id,
        )

    async def _recover(self, room: int, request_id: str) -> list[Lease]:
        """A poll was cut off: the same request id brings what it may have been granted (R18)."""
        try:
            async with asyncio.timeout(RECOVER_S):
                return await self._lease(room, request_id)
        except (TimeoutError, ApiError):
            return []  # nothing was granted, or the leases end by themselves

    def _take(self, lease: Lease) -> None:
        self.stats.leased += 1
        self._keeper.hold(lease)
        self._waiting.append(lease)
        self._start()

    def _start(self) -> None:
        while self._waiting and len(self._running) < self._concurrency and not self._stopping.is_set():
            lease = self._waiting.popleft()
            task = self._running[lease.token] = asyncio.create_task(self._handle(lease))
            task.add_done_callback(partial(self._ended, lease))
        self._room.set()

    def _ended(self, lease: Lease, task: asyncio.Task[None]) -> None:
        """Here, not in `_handle`: of a task that is cancelled before its first step no line ever runs."""
        self._keeper.drop(lease)
        if self._running.pop(lease.token, None) is not None:
            self._tell(lease, None, LeaseLost("the lease was lost before it was begun"))
        self._start()

    def _lost(self, lease: Lease, reason: str) -> None:
        """From the keeper. A lease whose handler is through is judged by its ack alone."""
        task = self._running.get(lease.token)
        if task is None and lease not in self._waiting:
            return
        self.stats.lost += 1
        log.warning("lease of %s lost: %s", lease.id, reason)
        if task is not None:
            task.cancel()
        else:
            self._waiting.remove(lease)
            self._tell(lease, None, LeaseLost(f"{reason} before it was begun"))

    async def _give_back(self, leases: list[Lease]) -> None:
        for lease in leases:
            self._keeper.drop(lease)
        for start in range(0, len(leases), SETTLE_BATCH_MAX):
            part = leases[start : start + SETTLE_BATCH_MAX]
            try:
                await self.client.release_many(part, strict=False)
            except ApiError as error:
                log.warning("%d leases were not given back and will expire: %s", len(part), error)
            else:
                self.stats.released += len(part)

    # --- handling -----------------------------------------------------------------------------------

    async def _handle(self, lease: Lease) -> None:
        lease.reporter = self.client.progress
        if lease.run_id is not None:
            lease.writer = RunWriter(self.client, lease.run_id, lease.token)
        try:
            if inspect.iscoroutinefunction(self._handler):
                result = await self._handler(lease)
            else:
                result = await asyncio.to_thread(self._handler, lease)
                if inspect.isawaitable(result):
                    result = await result
            if lease.writer is not None:
                await lease.writer.close()  # what it told stands before its end
        except asyncio.CancelledError:
            self._running.pop(lease.token, None)
            await self._cancelled(lease)
        except Exception as error:  # noqa: BLE001 - the handler's own: it becomes the message's error
            await self._tell_rest(lease)
            self._running.pop(lease.token, None)
            self._start()
            await self._failed(lease, error)
        else:
            self._running.pop(lease.token, None)
            self._start()
            await self._succeeded(lease, result)

    async def _tell_rest(self, lease: Lease) -> None:
        """What a handler told before it failed is told, if it can be."""
        if lease.writer is not None:
            try:
                await lease.writer.close()
            except ApiError as error:
                log.warning("events of %s were not told: %s", lease.id, error)

    async def _cancelled(self, lease: Lease) -> None:
        if lease.lost:
            self._tell(lease, None, LeaseLost("the lease was lost while the handler ran"))
        else:
            await self._give_back([lease])
            self._tell(lease, None, None)

    async def _succeeded(self, lease: Lease, result: Any) -> None:
        try:
            answer = await self._acks.submit(ack_item(lease, result, ()))
        except StaleLease as error:
            self.stats.stale += 1
            self._tell(lease, None, error)
        except OutcomeUnknown as error:
            self.stats.unknown += 1
            self._tell(lease, None, error)
        except ApiError as error:
            await self._failed(lease, error)
        else:
            self.stats.acked += 1
            self.stats.repeated += bool(answer.get("repeated"))
            self._tell(lease, answer, None)

    async def _failed(self, lease: Lease, error: Exception) -> None:
        if isinstance(error, LeaseLost | StaleLease):
            self.stats.stale += 1
            self._tell(lease, None, error)
            return
        text = f"{type(error).__name__}: {error}".encode()[:ERROR_BYTES_MAX].decode("utf-8", "ignore")
        dead = isinstance(error, EffectUncertain | Reject)
        delay_ms = error.delay_ms if isinstance(error, RetryLater) else None
        try:
            answer = await self._nacks.submit(nack_item(lease, text, delay_ms, dead))
        except ApiError as refused:
            log.warning("nack of %s failed (its lease will expire): %s", lease.id, refused)
            self._tell(lease, None, refused)
            return
        self.stats.dead_lettered += answer["status"] == "dead"
        self.stats.nacked += answer["status"] == "nacked"
        self._tell(lease, answer, error)

    def _tell(self, lease: Lease, result: dict[str, Any] | None, error: Exception | None) -> None:
        if self._on_settled is not None:
            self._on_settled(lease, result, error)

    # --- answers ------------------------------------------------------------------------------------

    async def _send_acks(self, items: Sequence[Any]) -> Sequence[Any]:
        return await self._send(self.client.ack_many, items)

    async def _send_nacks(self, items: Sequence[Any]) -> Sequence[Any]:
        return await self._send(self.client.nack_many, items)

    async def _send(self, verb: Verb, items: Sequence[Any]) -> Sequence[Any]:
        try:
            answer = await verb(items, strict=False)
        except ApiError as error:
            if len(items) == 1 or error.status not in (400, 413):
                raise
            return [one for item in items for one in await self._alone(verb, item)]
        results = answer["results"]
        # One request, one stored answer: `repeated` of the whole is true of each item.
        whole = {"repeated": True} if answer.get("repeated") else {}
        return [item_error(one, results) or {**whole, **one} for one in results]

    async def _alone(self, verb: Verb, item: Any) -> Sequence[Any]:
        """A batch was refused for one item's fault: find it."""
        try:
            return await self._send(verb, [item])
        except ApiError as error:
            return [error]
