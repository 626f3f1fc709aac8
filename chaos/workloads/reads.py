"""Reads of what the others write. A linearizable one may not be older than what had been answered before
it was asked (S16); `asof` tells. Local reads may be old, and are judged against their own `asof`."""

from __future__ import annotations

from typing import Any

from chaos.workloads.base import Role, Workload
from chaos.workloads.recording import Process
from trivet.client.errors import QueueNotFound


class Reads(Workload):
    """Has no queue of its own."""

    name = "reads"
    weight = 0.0  # it enqueues nothing
    per_s = 8.0

    def queues(self) -> dict[str, dict[str, Any]]:
        return {}

    def producers(self) -> list[Role]:
        return [Role(f"reader-{n}", self.read, self.per_s) for n in range(2)]

    async def read(self, process: Process) -> None:
        rng = process.rng
        chance = rng.random()
        if chance < 0.5:
            local = rng.random() < 0.3
            try:
                await process.queue(rng.choice(self.around.queues), local=local)
            except QueueNotFound:
                if not local:
                    raise  # a queue that was acknowledged is gone
                # A node that has just started answers a local read from the little it has applied.
        elif chance < 0.9:
            if self.around.recent:
                await process.message(rng.choice(self.around.recent), local=rng.random() < 0.3)
        else:
            await process.messages(rng.choice(self.around.queues), state="ready", limit=5)
