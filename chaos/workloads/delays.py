"""Messages that are due later (S13): some by their producer, some by a nack."""

from __future__ import annotations

from typing import Any

from chaos.workloads.base import Role
from chaos.workloads.enqueue import Keyed
from chaos.workloads.recording import Process

DELAY_MS_MAX = 4000


class Delays(Keyed):
    name = "delays"
    weight = 0.7

    def consumers(self) -> list[Role]:
        return [Role(f"worker-{n}", self.work) for n in range(2)]

    def message(self, op: int, i: int, process: Process) -> dict[str, Any]:
        delay_ms = process.rng.randrange(1, DELAY_MS_MAX)
        body = self.body(op, i, process.rng, due_ms=delay_ms)
        return {"body": body, "idempotency_key": self.key(op, i), "delay_ms": delay_ms}

    async def work(self, process: Process) -> None:
        leases = await self.lease(process, process.rng.randint(1, 10))
        again = [one for one in leases if one.attempt == 1 and process.rng.random() < 0.1]
        if again:
            items = [{"lease_token": one.token, "delay_ms": process.rng.randrange(1, 2000)} for one in again]
            await process.nack_many(items, strict=False)
        done = [one for one in leases if one not in again]
        if done:
            await self.ack(process, done)
