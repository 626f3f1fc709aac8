"""From stage to stage by acks that enqueue (R15): each parent has exactly one child."""

from __future__ import annotations

from typing import Any

from chaos.workloads.base import Role, Step, config
from chaos.workloads.enqueue import Keyed
from chaos.workloads.recording import Process
from trivet.client import StaleLease

STAGES = 3


class Pipeline(Keyed):
    """Children have no key of their own: only the ack's all-or-nothing makes them one."""

    name = "pipeline"
    weight = 0.8

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._stages = [f"{self.queue}.{stage}" for stage in range(STAGES)]
        self.queue = self._stages[0]

    def queues(self) -> dict[str, dict[str, Any]]:
        return dict.fromkeys(self._stages, config())

    def message(self, op: int, i: int, process: Process) -> dict[str, Any]:
        body = self.body(op, i, process.rng, stage=0)
        return {"body": body, "idempotency_key": self.key(op, i)}

    def consumers(self) -> list[Role]:
        return [Role(f"stage{stage}-{n}", self._step(stage)) for stage in range(STAGES) for n in range(2)]

    def is_full(self, queue: str | None = None) -> bool:
        return any(super(Pipeline, self).is_full(one) for one in self._stages)

    def _step(self, stage: int) -> Step:
        async def work(process: Process) -> None:
            leases = await self.lease(process, process.rng.randint(1, 5), calls=1, queue=self._stages[stage])
            if stage == STAGES - 1:
                if leases:
                    await self.ack(process, leases)
                return
            together = process.rng.random() < 0.3  # several parents and their children in one ack
            for parents in [leases] if together and leases else [[one] for one in leases]:
                op = process.reserve()
                children = [
                    {
                        "queue": self._stages[stage + 1],
                        "body": self.body(op, i, process.rng, stage=stage + 1, parent=one.id),
                    }
                    for i, one in enumerate(parents)
                ]
                try:
                    await process.ack_many(parents, enqueue=children)
                except StaleLease:
                    continue  # all refused: its lease ran out, another worker has or had it

        return work
