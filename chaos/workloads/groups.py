"""Strict order inside a group (R21): one producer a group, which never goes on before it knows."""

from __future__ import annotations

import sys
from typing import Any

from chaos.workloads.base import Role
from chaos.workloads.enqueue import Keyed
from chaos.workloads.recording import Process

GROUPS = 6  # of each producer


class Groups(Keyed):
    """`n` in the body rises with the order of a group's enqueues. Workers also nack and forget, so that
    heads block their groups."""

    name = "groups"
    weight = 1.0
    mean = 2

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._n: dict[str, int] = {}

    def consumers(self) -> list[Role]:
        return [Role(f"worker-{n}", self.work) for n in range(3)]

    async def produce(self, process: Process) -> None:
        if self.is_full():
            return
        op = process.reserve()
        messages = [self.message(op, i, process) for i in range(process.rng.randint(1, 2 * self.mean - 1))]
        await self.until_known(process, op, messages, repeats=sys.maxsize)

    def message(self, op: int, i: int, process: Process) -> dict[str, Any]:
        group = f"{process.consumer}:{process.rng.randrange(GROUPS)}"
        n = self._n[group] = self._n.get(group, 0) + 1
        body = self.body(op, i, process.rng, n=n)
        return {"body": body, "idempotency_key": self.key(op, i), "group": group}

    async def work(self, process: Process) -> None:
        for lease in await self.lease(process, process.rng.randint(1, 8), calls=1):
            chance = process.rng.random()
            if chance < 0.88:
                await self.ack(process, [lease])
            elif chance < 0.95:
                item = {"lease_token": lease.token, "delay_ms": process.rng.randrange(300)}
                await process.nack_many([item], strict=False)
            elif chance < 0.99:
                await process.release_many([lease], strict=False)
            # else: a worker that forgets; the group waits for the lease to run out
