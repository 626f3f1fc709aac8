"""Producers with idempotency keys: what stayed unknown is said again under the same keys."""

from __future__ import annotations

import time
from typing import Any

from chaos.workloads.base import Role, Workload, pause
from chaos.workloads.recording import Process
from trivet.client import ApiError, OutcomeUnknown
from trivet.units import SECOND_MS

REPEATS_MAX = 6
REPEAT_PAUSE_S = 0.3
SAME_REQUEST_S = 40.0  # so long a repeat may use the request id again; the cluster keeps it 60 s (R12)
TTL_MS = 600 * SECOND_MS  # of some messages: longer than any backlog lives, so that none may expire

Messages = list[dict[str, Any]]


class Keyed(Workload):
    """Batches of 1 … 5 messages, each with a key; afterwards now and then the same again, or a conflict."""

    name = "enqueue"
    weight = 1.5
    mean = 3  # messages of a call

    def producers(self) -> list[Role]:
        return [Role(f"producer-{n}", self.produce, self.rate / self.mean / 2) for n in range(2)]

    def consumers(self) -> list[Role]:
        return [Role(f"worker-{n}", self.acked) for n in range(2)]

    async def produce(self, process: Process) -> None:
        if self.is_full():
            return
        op = process.reserve()
        messages = [self.message(op, i, process) for i in range(process.rng.randint(1, 2 * self.mean - 1))]
        if not await self.until_known(process, op, messages):
            return
        chance = process.rng.random()
        if chance < 0.05:  # the keys are known by now: nothing new may come of it
            process.repeats = op
            await self.enqueue(process, messages)
        elif chance < 0.07:  # the first key again, for something else: refused (R16)
            other = {**messages[0], "body": {**messages[0]["body"], "pad": "another body"}}
            await self.enqueue(process, [other])

    def message(self, op: int, i: int, process: Process) -> dict[str, Any]:
        made: dict[str, Any] = {"body": self.body(op, i, process.rng), "idempotency_key": self.key(op, i)}
        if process.rng.random() < 0.1:
            made["priority"] = process.rng.randint(-5, 5)
        if process.rng.random() < 0.05:
            made["ttl_ms"] = TTL_MS
        return made

    async def until_known(
        self, process: Process, op: int, messages: Messages, repeats: int = REPEATS_MAX
    ) -> bool:
        """Enqueue, and say it again while the outcome is unknown, now under the same request id and now
        under a new one. False if it stayed unknown; raises if it was refused at once."""
        first_s, request_id = time.monotonic(), process.request_id()
        said: str | None = request_id
        for round in range(repeats + 1):
            if round:
                await pause(REPEAT_PAUSE_S, self.around.stopping)
                if self.around.stopping.is_set():
                    return False
                process.repeats = op
                again = time.monotonic() - first_s < SAME_REQUEST_S and process.rng.random() < 0.5
                said = request_id if again else None
            try:
                await self.enqueue(process, messages, said)
            except OutcomeUnknown:
                continue
            except ApiError:
                if round == 0:
                    raise
                continue  # an earlier saying may still have counted
            return True
        return False
