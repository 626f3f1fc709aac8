"""Producers of big batches without keys: only the request id makes a repeat safe."""

from __future__ import annotations

from chaos.workloads.base import Role, Workload
from chaos.workloads.recording import Process
from trivet.client import OutcomeUnknown


class Bulk(Workload):
    """Half of the unknown enqueues are said again at once, under the same request id (R12); of the other
    half nobody knows until a worker sees them, or not."""

    name = "bulk"
    weight = 2.0

    def producers(self) -> list[Role]:
        return [Role("producer-0", self.produce, self.rate / 30)]

    def consumers(self) -> list[Role]:
        return [Role(f"worker-{n}", self.acked) for n in range(2)]

    async def produce(self, process: Process) -> None:
        if self.is_full():
            return
        op = process.reserve()
        messages = [{"body": self.body(op, i, process.rng)} for i in range(process.rng.randint(20, 40))]
        request_id = process.request_id()
        try:
            await self.enqueue(process, messages, request_id)
        except OutcomeUnknown:
            if process.rng.random() < 0.5:
                process.repeats = op
                await self.enqueue(process, messages, request_id)
