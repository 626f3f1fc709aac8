"""Every way to end a lease, rightly and wrongly: extend, release, nack, repeats, wrong verbs, no tokens."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from chaos.workloads.base import LEASE_MS, Role
from chaos.workloads.enqueue import Keyed
from chaos.workloads.recording import Process
from trivet.client import Lease

FORGED = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


class Mixes(Keyed):
    name = "mixes"
    weight = 1.0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._settled: deque[str] = deque(maxlen=50)  # tokens used up lately

    def consumers(self) -> list[Role]:
        return [Role(f"worker-{n}", self.work) for n in range(3)]

    async def work(self, process: Process) -> None:
        leases = await self.lease(process, process.rng.randint(1, 10), calls=2)
        half = len(leases) // 2
        if half > 2:
            await self._together(process, leases[:half])
            leases = leases[half:]
        for lease in leases:
            # From its third attempt on every message is acked, or some would go round for ever.
            names = ("ack",) if lease.attempt > 3 else _CHOICES
            await getattr(self, "_" + process.rng.choice(names))(process, lease)

    async def _together(self, process: Process, leases: list[Lease]) -> None:
        """One ack of many, one of them twice over, one of them unknown."""
        await process.ack_many([*leases, leases[0], FORGED], strict=False)

    async def _ack(self, process: Process, lease: Lease) -> None:
        await self.ack(process, [lease])
        self._settled.append(lease.token)

    async def _twice(self, process: Process, lease: Lease) -> None:
        """The same verb again, a new request: the first answer again (R14); another verb: stale."""
        await self.ack(process, [lease])
        await process.ack_many([lease], strict=False)
        await process.nack_many([{"lease_token": lease.token}], strict=False)

    async def _nack(self, process: Process, lease: Lease) -> None:
        item: dict[str, Any] = {"lease_token": lease.token, "error": "not today"}
        if process.rng.random() < 0.5:
            item["delay_ms"] = process.rng.randrange(500)
        await process.nack_many([item], strict=False)
        self._settled.append(lease.token)

    async def _release(self, process: Process, lease: Lease) -> None:
        await process.release_many([lease], strict=False)
        self._settled.append(lease.token)

    async def _extend(self, process: Process, lease: Lease) -> None:
        await process.extend_many([(lease, process.rng.randint(LEASE_MS, 2 * LEASE_MS))], strict=False)
        await asyncio.sleep(process.rng.uniform(0, 0.1))
        await process.ack_many([lease], strict=False)

    async def _shorten(self, process: Process, lease: Lease) -> None:
        """The lease may end while it is held: the ack counts if it comes before the expiry (R13)."""
        await process.extend_many([(lease, process.rng.randint(1, 200))], strict=False)
        await asyncio.sleep(process.rng.uniform(0, 0.2))
        await process.ack_many([lease], strict=False)

    async def _cancel(self, process: Process, lease: Lease) -> None:
        """Cancelled while leased: an ack still makes it done, any other end cancels it (R22)."""
        await process.cancel(lease.id)
        if process.rng.random() < 0.5:
            await process.ack_many([lease], strict=False)
        else:
            await process.release_many([lease], strict=False)

    async def _stale(self, process: Process, lease: Lease) -> None:
        """A token used up by somebody, long or just ago, with a verb that may or may not be its own."""
        if self._settled:
            token = process.rng.choice(self._settled)
            await process.extend_many([(token, LEASE_MS)], strict=False)
        await process.ack_many([lease], strict=False)


_CHOICES = (
    *("ack", "ack", "ack", "twice", "nack", "release"),
    *("extend", "shorten", "cancel", "stale"),
)
