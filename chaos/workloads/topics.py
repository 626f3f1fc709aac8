"""A topic and its consumer groups: each gets each message once (R28). One group is slow, one fails a lot."""

from __future__ import annotations

from typing import Any

from chaos.workloads.base import Role, config
from chaos.workloads.enqueue import Keyed, Messages
from chaos.workloads.recording import Process
from trivet.units import DAY_MS

GROUPS = ("steady", "failing", "slow")
ORDERING = 4  # ordering keys


class Topics(Keyed):
    """Producers with keys, as of a queue; every group is a queue with workers of its own."""

    name = "topics"
    weight = 1.0
    mean = 2

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.topic = self.queue
        self._n: dict[str, int] = {}

    def queues(self) -> dict[str, dict[str, Any]]:
        return {f"{self.topic}:{group}": config() for group in GROUPS}

    async def make(self, process: Process, queue: str, config: dict[str, Any]) -> None:
        if queue == next(iter(self.queues())):
            await process.put_topic(self.topic, retention_ms=DAY_MS, retention_messages=1_000_000)
        await process.put_group(self.topic, queue.partition(":")[2], **config)

    def is_full(self, queue: str | None = None) -> bool:
        return any(super(Topics, self).is_full(each) for each in self.queues())

    def message(self, op: int, i: int, process: Process) -> dict[str, Any]:
        made = super().message(op, i, process)
        if process.rng.random() < 0.1:
            made["delay_ms"] = process.rng.randrange(500)
        return made

    async def enqueue(
        self, process: Process, messages: Messages, request_id: str | None = None
    ) -> dict[str, Any]:
        answer = await process.publish_many(self.topic, messages, request_id=request_id)
        for one in answer["messages"]:
            self.around.recent.extend(one["ids"].values())
        return answer

    def consumers(self) -> list[Role]:
        return [
            *(Role(f"steady-{n}", self.steady) for n in range(2)),
            *(Role(f"failing-{n}", self.failing) for n in range(2)),
            Role("slow-0", self.slow, 4.0),
        ]

    async def steady(self, process: Process) -> None:
        leases = await self.lease(process, process.rng.randint(1, 20), queue=f"{self.topic}:steady")
        if leases:
            await self.ack(process, leases)

    async def failing(self, process: Process) -> None:
        """It nacks, gives back and forgets; from the third attempt on it acks, or some would go round for ever."""
        for lease in await self.lease(
            process, process.rng.randint(1, 6), calls=1, queue=f"{self.topic}:failing"
        ):
            chance = process.rng.random()
            if chance < 0.7 or lease.attempt > 3:
                await self.ack(process, [lease])
            elif chance < 0.85:
                await process.nack_many([{"lease_token": lease.token, "error": "not today"}], strict=False)
            elif chance < 0.95:
                await process.release_many([lease], strict=False)

    async def slow(self, process: Process) -> None:
        leases = await self.lease(process, 50, queue=f"{self.topic}:slow")
        if leases:
            await self.ack(process, leases)
