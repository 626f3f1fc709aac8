"""Workers that hold a lease beyond its end on purpose, and then use its token: it must be refused (S5)."""

from __future__ import annotations

from collections import deque
from typing import Any

from chaos.workloads.base import Role
from chaos.workloads.enqueue import Keyed
from chaos.workloads.recording import Process
from trivet.client import Lease

LEASE_MS = 700
HELD_MAX = 100


class Zombies(Keyed):
    """A message that a zombie took is given to honest workers when its lease ran out. Once one of them has
    it, the zombie's token is certainly not the newest any more."""

    name = "zombies"
    weight = 0.5
    mean = 2

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._held: dict[str, Lease] = {}  # by message: what a zombie took
        self._woken: deque[Lease] = deque(maxlen=HELD_MAX)  # of these somebody else has the message now

    def producers(self) -> list[Role]:
        return [*super().producers(), Role("zombie-0", self.take, 2.0), Role("zombie-1", self.wake, 5.0)]

    def consumers(self) -> list[Role]:
        return [Role(f"worker-{n}", self.work) for n in range(2)]

    async def take(self, process: Process) -> None:
        if len(self._held) < HELD_MAX:
            for lease in await self.lease(process, 3, lease_ms=LEASE_MS):
                self._held[lease.id] = lease

    async def wake(self, process: Process) -> None:
        if not self._woken:
            return
        lease = self._woken.pop()
        match process.rng.choice(("ack", "nack", "extend", "release", "effect", "enqueue")):
            case "ack":
                await process.ack_many([lease.token], strict=False)
            case "nack":
                await process.nack_many([{"lease_token": lease.token, "dead_letter": True}], strict=False)
            case "extend":
                await process.extend_many([(lease.token, 60_000)], strict=False)
            case "release":
                await process.release_many([lease.token], strict=False)
            case "effect":
                effect_id = f"{self.around.recorder.run}:{lease.id}"
                await process.effect_begin(effect_id, process.consumer, lease=lease.token)
            case "enqueue":
                body = self.body(process.reserve(), 0, process.rng)
                await process.ack_many([lease.token], enqueue=[{"queue": self.queue, "body": body}])

    async def work(self, process: Process) -> None:
        leases = await self.lease(process, process.rng.randint(1, 5))
        for lease in leases:
            held = self._held.pop(lease.id, None)
            if held is not None and held.token != lease.token:
                self._woken.append(held)
        if leases:
            await self.ack(process, leases)
