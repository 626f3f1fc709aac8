"""Changes of a queue's configuration, under a trickle of messages: once acknowledged, it stays (S21)."""

from __future__ import annotations

from chaos.workloads.base import Role, config
from chaos.workloads.enqueue import Keyed
from chaos.workloads.recording import Process


class Admin(Keyed):
    name = "admin"
    weight = 0.2
    mean = 1

    def producers(self) -> list[Role]:
        return [*super().producers(), Role("operator-0", self.change, 1.0)]

    def consumers(self) -> list[Role]:
        return [Role("worker-0", self.acked)]

    async def change(self, process: Process) -> None:
        rng = process.rng
        lease_ms = rng.randrange(1000, 60_000)
        if rng.random() < 0.3:
            await process.put_queue(self.queue, **config(lease_ms=lease_ms, max_leased=rng.choice((50, 100))))
        else:
            await process.patch_queue(self.queue, lease_ms=lease_ms)
        found = await process.queue(self.queue)
        if found["lease_ms"] != lease_ms:
            # The history has both calls; here it is only said aloud.
            self.around.recorder.note(
                "lost_change", queue=self.queue, wanted=lease_ms, found=found["lease_ms"]
            )
