"""Handlers that fail, messages that give up, and an operator who has some of them tried again (S10)."""

from __future__ import annotations

from typing import Any

from chaos.workloads.base import Role, config
from chaos.workloads.enqueue import Keyed
from chaos.workloads.recording import Process
from trivet.client import Lease

MAX_ATTEMPTS = 3
PAGE = 50


class DeadLetters(Keyed):
    """`fails` in the body: how many attempts fail. `again`: whether it is redriven once it is dead; then
    its handler succeeds. What is dead and not to be redriven stays so to the end."""

    name = "dead_letters"
    weight = 0.6

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._redriven: set[str] = set()  # perhaps, too: asked for, and not acked since
        self._after: str | None = None  # where the operator goes on looking

    def queues(self) -> dict[str, dict[str, Any]]:
        backoff = {"type": "list", "delays_ms": [50, 100], "jitter": 0}
        return {self.queue: config(max_attempts=MAX_ATTEMPTS, backoff=backoff)}

    def producers(self) -> list[Role]:
        return [*super().producers(), Role("operator-0", self.redrive, 0.5)]

    def consumers(self) -> list[Role]:
        return [Role(f"worker-{n}", self.work) for n in range(2)]

    def message(self, op: int, i: int, process: Process) -> dict[str, Any]:
        fails = process.rng.choice((0, 1, 2, 3, 99))
        body = self.body(op, i, process.rng, fails=fails, again=process.rng.random() < 0.5)
        return {"body": body, "idempotency_key": self.key(op, i)}

    async def work(self, process: Process) -> None:
        for lease in await self.lease(process, process.rng.randint(1, 8), calls=1):
            if lease.attempt <= lease.body["fails"] and lease.id not in self._redriven:
                await process.nack_many([_failed(lease, process)], strict=False)
            else:
                await self.ack(process, [lease])
                self._redriven.discard(lease.id)

    async def redrive(self, process: Process) -> None:
        page = await process.dead_letters(self.queue, limit=PAGE, after=self._after)
        self._after = page["next"]  # None at the end: from the start again
        ids = [one["id"] for one in page["messages"] if one["body"]["again"]]
        if ids:
            self._redriven.update(ids)
            await process.redrive(self.queue, ids=ids)


def _failed(lease: Lease, process: Process) -> dict[str, Any]:
    item: dict[str, Any] = {"lease_token": lease.token, "error": f"attempt {lease.attempt} failed"}
    if process.rng.random() < 0.1:
        item["dead_letter"] = True
    return item
