"""A bounded load on one queue through the SDK: producers and workers that write down what they saw."""

from __future__ import annotations

import asyncio
from typing import Any

from chaos.tally import History
from chaos.workloads.base import LIVE
from trivet.client import Client
from trivet.client.errors import ApiError, OutcomeUnknown, QueueNotFound
from trivet.errors import Retry
from trivet.units import HOUR_MS

BATCH = 20
BACKLOG_MAX = 1000  # producers wait beyond it, so that the drain at the end is short
RETENTION_MS = 6 * HOUR_MS


class Load:
    """`producers` and `workers` tasks until `stop()`; then `drain()` takes what is left, to the last message."""

    def __init__(self, nodes: list[str], queue: str, history: History, *, lease_ms: int = 1500) -> None:
        self.nodes, self.queue, self.history, self.lease_ms = nodes, queue, history, lease_ms
        self.stopping = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []
        self.counter = 0

    async def prepare(self) -> None:
        """A queue that keeps its finished messages readable for longer than any drill."""
        async with Client(self.nodes) as client:
            await client.put_queue(self.queue, retention_ms=RETENTION_MS, max_attempts=0)

    def start(self, producers: int = 2, workers: int = 2) -> None:
        self.tasks = [asyncio.create_task(self._produce()) for _ in range(producers)]
        self.tasks += [asyncio.create_task(self._work(f"w{i}")) for i in range(workers)]

    async def stop(self) -> None:
        self.stopping.set()
        await asyncio.gather(*self.tasks)

    async def abandon(self) -> None:
        """End at once: calls under way stay unknown."""
        self.stopping.set()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _ended(self, error: ApiError) -> None:
        if isinstance(error, OutcomeUnknown):
            self.history.unknown += 1
        elif error.retry is Retry.NEVER and not isinstance(error, QueueNotFound):
            raise error  # a defect of the drill, not of the day
        else:
            self.history.refused += 1

    async def _produce(self) -> None:
        async with Client(self.nodes) as client:
            while not self.stopping.is_set():
                if len(self.history.acknowledged) - len(self.history.first_acks) > BACKLOG_MAX:
                    await asyncio.sleep(0.01)
                    continue
                self.counter += BATCH
                messages: list[Any] = [{"body": {"n": self.counter + i}} for i in range(BATCH)]
                try:
                    answer = await client.enqueue_many(self.queue, messages)
                except ApiError as error:
                    self._ended(error)
                    continue
                self.history.enqueued([one["id"] for one in answer["messages"]])

    async def _work(self, name: str) -> None:
        async with Client(self.nodes) as client:
            while not self.stopping.is_set():
                await self._one_round(client, name, wait_ms=200)

    async def _one_round(self, client: Client, name: str, wait_ms: int) -> int:
        """Lease a batch and ack it; answers how many messages came."""
        try:
            leases = await client.lease(
                self.queue, consumer=name, max_messages=BATCH, lease_ms=self.lease_ms, wait_ms=wait_ms
            )
        except ApiError as error:
            self._ended(error)
            return -1
        for lease in leases:
            self.history.leased(lease.id)
        if not leases:
            return 0
        self.history.ack_sent.update(lease.id for lease in leases)
        try:
            answer = await client.ack_many(leases, strict=False)
        except ApiError as error:
            self._ended(error)
            return len(leases)
        for lease, result in zip(leases, answer["results"], strict=True):
            if result["status"] == "acked":
                self.history.acked(lease.id, bool(result.get("repeated")))
        return len(leases)

    async def _resolve(self, client: Client) -> None:
        """Ask what became of acks whose answers were lost: the queue keeps its finished messages."""
        for message in sorted(self.history.open_acks):
            found = await client.message(message)
            if found["state"] == "done":
                self.history.found_done.add(message)

    async def drain(self, patience_s: float = 30) -> None:
        """Lease and ack until the queue has nothing live, so that every message ends somewhere known."""
        deadline = asyncio.get_running_loop().time() + patience_s
        async with Client(self.nodes) as client:
            while True:
                came = await self._one_round(client, "drain", wait_ms=500)
                if came > 0:
                    continue
                if came == 0:
                    counts = await client.queue(self.queue)
                    if not any(counts[state] for state in LIVE):
                        await self._resolve(client)
                        return
                if asyncio.get_running_loop().time() > deadline:
                    raise TimeoutError(f"{self.queue} did not drain within {patience_s} s")
