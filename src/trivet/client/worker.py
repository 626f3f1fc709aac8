"""Runs a handler for each message of a queue: many at once, leases kept alive, answers sent in batches."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from trivet.client.client import Client
from trivet.client.effects import default_owner
from trivet.client.errors import ApiError, Forbidden, InvalidArgument, LeaseLost, Unauthenticated
from trivet.client.keeper import LeaseKeeper
from trivet.client.leases import Lease
from trivet.client.runs import RunWriter
from trivet.client.settling import OnSettled, Settler, WorkerStats
from trivet.limits import LEASE_BATCH_MAX, SETTLE_BATCH_MAX, WAIT_MS_MAX

log = logging.getLogger("trivet.client.worker")

Handler = Callable[[Lease], Awaitable[Any] | Any]
"""Takes the lease; what it returns becomes the message's result (None: no result). Raises to fail."""

HOPELESS = (InvalidArgument, Unauthenticated, Forbidden)
RECOVER_S = 0.25
POLL_PAUSE_S = 0.5
CANCELLED_S = 5.0
"""How long `stop` waits for handlers that it cancelled."""


@dataclass(slots=True, eq=False)
class _Job:
    """A handler at work. It has a place until it ends, and its thread, if it has one."""

    lease: Lease
    task: asyncio.Task[None] | None = None
    thread: asyncio.Future[Any] | None = None
    stopped: bool = False  # by the worker: its lease is lost, or the worker stops

    def stop(self) -> None:
        self.stopped = True
        if self.task is not None:
            self.task.cancel()


class Worker:
    """`await worker.run()` until `worker.stop()`.

    `concurrency`: handlers at once. `prefetch`: leased messages waiting for a free handler (kept alive
    too). `lease_ms`: None takes the message's or the queue's. `wait_ms`: how long an empty queue is
    waited on, 0 … 60 000. A plain (not async) handler runs in a thread of the worker's own; it cannot be stopped
    when its lease is lost, and keeps its place until it ends. `on_settled(lease, result, error)` is told the end of
    each message; what it raises is logged.
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
        on_settled: OnSettled | None = None,
    ) -> None:
        if concurrency < 1 or not 0 <= wait_ms <= WAIT_MS_MAX:
            raise ValueError(f"concurrency must be at least 1 and wait_ms 0 … {WAIT_MS_MAX}")
        if prefetch is not None and prefetch < 0:
            raise ValueError(f"prefetch is {prefetch}; it must be at least 0")
        self.client = client
        self.stats = WorkerStats()
        self.consumer = consumer or default_owner()
        self._queue = queue
        self._handler = handler
        self._places = concurrency  # free ones
        self._prefetch = concurrency if prefetch is None else prefetch
        self._lease_ms = lease_ms
        self._wait_ms = wait_ms
        self._waiting: deque[Lease] = deque()
        self._running: dict[str, _Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # of handlers, also while their ends are told
        self._threads = ThreadPoolExecutor(concurrency, "trivet-handler")  # starts none before it is used
        self._room = asyncio.Event()
        self._began = False
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._grace_s = 30.0
        self._keeper = LeaseKeeper(client, self._lost)
        self._settler = Settler(client, self.stats, on_settled)

    # --- life ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until `stop`. Raises what makes going on pointless: a wrong request, missing rights."""
        self._began = True
        try:
            while not self._stopping.is_set():
                room = self._wanted()
                if room <= 0:
                    self._room.clear()
                    await self._or_stop(asyncio.create_task(self._room.wait()))
                    continue
                leases = await self._poll(min(room, LEASE_BATCH_MAX))
                for lease in leases:
                    self._take(lease)
                if not leases and not self._wait_ms:
                    await self._or_stop(asyncio.create_task(asyncio.sleep(POLL_PAUSE_S)))
        finally:
            self._stopping.set()
            try:
                await self._wind_down()
            finally:
                for job in self._running.values():
                    job.stop()
                self._threads.shutdown(wait=False, cancel_futures=True)
                await self._keeper.close()
                self._stopped.set()

    async def stop(self, grace_s: float = 30.0) -> None:
        """Lease nothing more, give back what was not begun, wait `grace_s` for handlers, then cancel them
        and give theirs back too. Returns when all answers are sent. A handler that goes on though it is cancelled
        is left to itself after some seconds, and its lease to its end."""
        self._grace_s = grace_s
        self._stopping.set()
        if self._began:
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
        await self._give_back_waiting()
        await self._ended_within(self._grace_s)
        for job in self._running.values():
            job.stop()
        await self._ended_within(CANCELLED_S)
        for job in self._running.values():
            log.error("the handler of %s goes on though it was cancelled", job.lease.id)
            self._keeper.drop(job.lease)
        settling = self._tasks - {job.task for job in self._running.values()}
        if settling:
            await asyncio.wait(settling)
        await self._settler.drain()

    async def _ended_within(self, seconds: float) -> None:
        tasks = {job.task for job in self._running.values() if job.task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    # --- leasing ------------------------------------------------------------------------------------

    async def _poll(self, room: int) -> list[Lease]:
        request_id = secrets.token_hex(16)
        poll = asyncio.create_task(self._lease(room, request_id))
        try:
            answered = await self._or_stop(poll)
        except asyncio.CancelledError:  # not by `stop`: what it may have been granted goes back all the same
            await self._undo(poll, room, request_id)
            raise
        if not answered:
            await self._undo(poll, room, request_id)
            return []
        try:
            return poll.result()
        except HOPELESS:
            raise
        except ApiError as error:
            log.warning("no lease: %s", error)
            await self._or_stop(asyncio.create_task(asyncio.sleep(POLL_PAUSE_S)))
            return []

    async def _undo(self, poll: asyncio.Task[list[Lease]], room: int, request_id: str) -> None:
        """Give back what the poll brought, or may have been granted if it was cut off."""
        came = poll.done() and not poll.cancelled() and poll.exception() is None
        await self._give_back(poll.result() if came else await self._recover(room, request_id))

    def _wanted(self) -> int:
        """How many leases there is room for. None while each place is held by a thread whose lease was lost."""
        if not self._places and not self._running:
            return 0
        return self._places + self._prefetch - len(self._waiting)

    async def _lease(self, room: int, request_id: str, *, to_keep: bool = True) -> list[Lease]:
        return await self.client.lease(
            self._queue,
            self.consumer,
            max_messages=room,
            lease_ms=self._lease_ms,
            wait_ms=self._wait_ms,
            request_id=request_id,
            extend_late=to_keep,
        )

    async def _recover(self, room: int, request_id: str) -> list[Lease]:
        """A poll was cut off: the same request id brings what it may have been granted (R18)."""
        try:
            async with asyncio.timeout(RECOVER_S):
                return await self._lease(room, request_id, to_keep=False)
        except (TimeoutError, ApiError):
            return []  # nothing was granted, or the leases end by themselves

    def _take(self, lease: Lease) -> None:
        self.stats.leased += 1
        self._keeper.hold(lease)
        self._waiting.append(lease)
        self._start()

    def _start(self) -> None:
        while self._waiting and self._places and not self._stopping.is_set():
            self._places -= 1
            job = _Job(self._waiting.popleft())
            self._running[job.lease.token] = job
            job.task = asyncio.create_task(self._handle(job))
            self._tasks.add(job.task)
            job.task.add_done_callback(partial(self._ended, job))
        self._room.set()

    def _lost(self, lease: Lease, reason: str) -> None:
        """From the keeper. A lease whose handler is through is judged by its ack alone."""
        job = self._running.get(lease.token)
        if job is None and lease not in self._waiting:
            return
        self.stats.lost += 1
        log.warning("lease of %s lost: %s", lease.id, reason)
        if job is not None:
            job.stop()
        else:
            self._waiting.remove(lease)
            self._room.set()
            self._settler.tell(lease, None, LeaseLost(f"{reason} before it was begun"))

    async def _give_back_waiting(self) -> None:
        unstarted = [*self._waiting]
        self._waiting.clear()
        await self._give_back(unstarted)

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

    async def _handle(self, job: _Job) -> None:
        """What the handler does, and then the end of its message. The next one begins before that is told."""
        result: Any = None
        error: BaseException | None = None
        try:
            result = await self._work(job)
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - it becomes the message's error
            error = raised
        self._leave(job)
        if isinstance(error, asyncio.CancelledError) and (job.stopped or self._stopping.is_set()):
            await self._cancelled(job.lease)
        elif error is not None:
            await self._tell_rest(job.lease)
            await self._settler.failed(job.lease, error)
        else:
            await self._settler.succeeded(job.lease, result)

    async def _work(self, job: _Job) -> Any:
        lease = job.lease
        lease.reporter = self.client.progress
        if lease.run_id is not None:
            lease.writer = RunWriter(self.client, lease.run_id, lease.token)
        if inspect.iscoroutinefunction(self._handler):
            result = await self._handler(lease)
        else:
            result = await self._in_thread(job)
            if inspect.isawaitable(result):
                result = await result
        if lease.writer is not None:
            await lease.writer.close()  # what it told stands before its end
        return result

    async def _in_thread(self, job: _Job) -> Any:
        """In the worker's own threads: the loop's are few, and what opens connections may need them."""
        call = partial(_caught, contextvars.copy_context(), self._handler, job.lease)
        job.thread = asyncio.get_running_loop().run_in_executor(self._threads, call)
        result, error = await asyncio.shield(job.thread)
        if error is not None:
            raise error
        return result

    def _leave(self, job: _Job) -> None:
        """Its place is free, once its thread is through."""
        del self._running[job.lease.token]
        if job.thread is None or job.thread.done():
            self._free_place()
            return
        job.thread.add_done_callback(self._free_place)
        if not self._running and not self._places:
            log.error("no place is free: the handlers of lost leases do not end")
            self._later(self._give_back_waiting())

    def _free_place(self, thread: asyncio.Future[Any] | None = None) -> None:
        self._places += 1
        self._start()

    def _ended(self, job: _Job, task: asyncio.Task[None]) -> None:
        """Of a task that is cancelled before its first step no line ever ran."""
        self._tasks.discard(task)
        self._keeper.drop(job.lease)
        if self._running.get(job.lease.token) is job:
            self._leave(job)
            if job.lease.lost:
                self._settler.tell(job.lease, None, LeaseLost("the lease was lost before it was begun"))
        if not task.cancelled() and task.exception() is not None:
            log.error("the handler of %s ended the worker's task", job.lease.id, exc_info=task.exception())

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell_rest(self, lease: Lease) -> None:
        """What a handler told before it failed is told, if it can be."""
        if lease.writer is not None:
            try:
                await lease.writer.close()
            except Exception as error:  # noqa: BLE001 - the message's own end matters more
                log.warning("events of %s were not told: %s", lease.id, error)

    async def _cancelled(self, lease: Lease) -> None:
        if lease.lost:
            self._settler.tell(lease, None, LeaseLost("the lease was lost while the handler ran"))
        else:
            await self._give_back([lease])
            self._settler.tell(lease, None, None)


def _caught(context: contextvars.Context, handler: Handler, lease: Lease) -> tuple[Any, BaseException | None]:
    """What it returned, or raised: some exceptions do not pass through a future (StopIteration)."""
    try:
        return context.run(handler, lease), None
    except BaseException as error:  # noqa: BLE001 - raised again where the thread's future is awaited
        return None, error
