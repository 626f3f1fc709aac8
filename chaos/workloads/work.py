"""Workers whose deeds must happen once in a world that does not forgive repeats (R27)."""

from __future__ import annotations

import asyncio
from typing import Any

from chaos.workloads.base import LEASE_MS, Role
from chaos.workloads.enqueue import Keyed
from chaos.workloads.recording import Process
from trivet.client import EffectHeld, EffectUncertain, Happened, Lease, LeaseLost, NotPerformed, StaleLease


class Work(Keyed):
    """Lease, begin, execute against the sink, then commit and ack, or ack with the effect."""

    name = "work"
    mean = 2

    def consumers(self) -> list[Role]:
        return [Role(f"worker-{n}", self.work) for n in range(4)]

    async def work(self, process: Process) -> None:
        for lease in await self.lease(process, process.rng.randint(1, 4), calls=3):
            if lease.remaining_s() <= 0:
                return  # the rest of the batch is as old: somebody else will have it
            try:
                await self.handle(process, lease)
            except (LeaseLost, StaleLease):
                continue
            except EffectHeld:
                await process.nack_many([{"lease_token": lease.token, "delay_ms": 300}], strict=False)
            except NotPerformed:
                continue  # its lease runs out, and its effect was aborted

    async def handle(self, process: Process, lease: Lease) -> None:
        effect_id = f"{self.around.recorder.run}:{lease.id}"

        async def reconcile(asked: str) -> Happened | None:
            return Happened({"by": "reconciled"}) if self.around.sink.has(asked) else None

        guard = process.effect(
            effect_id, lease=lease, reconcile=reconcile, with_ack=process.rng.random() < 0.5
        )
        try:
            async with guard as effect:
                if not effect.done:
                    await self.toil(process, lease)
                    self.around.sink.execute(effect_id, lease, process.proc)
                    effect.result = {"by": process.proc}
        except EffectUncertain as error:
            raise AssertionError("the guard has a reconcile") from error
        if process.rng.random() < 0.02:
            return  # a worker that dies between the deed and its ack
        await self.ack(process, [_item(lease, process)])

    async def toil(self, process: Process, lease: Lease) -> None:
        """Mostly short; sometimes longer than half of the lease, with an extension; sometimes too long."""
        chance = process.rng.random()
        if chance < 0.85:
            await asyncio.sleep(process.rng.uniform(0, 0.02))
        elif chance < 0.97:
            await asyncio.sleep(lease.lease_ms / 4000)
            await process.extend(lease, LEASE_MS)
        else:
            await asyncio.sleep(lease.lease_ms / 1000)


def _item(lease: Lease, process: Process) -> dict[str, Any]:
    item: dict[str, Any] = {"lease_token": lease.token, "result": {"by": process.proc}}
    if lease.effects:
        item["effects"] = lease.effects
    return item
