"""Flows: steps in order, results passed on, and sagas that turn round when a step fails (S9)."""

from __future__ import annotations

from collections import deque
from typing import Any

from chaos.workloads.base import Role, Workload, config
from chaos.workloads.recording import Process
from trivet.client import ApiError, Lease

STEPS_MAX = 4
UNDO_I = 100  # a compensation's `i` is its step's and this: bodies stay unlike each other


class Flows(Workload):
    """`step`: its place in the flow. `fails`: whether its worker gives it up. Of a compensation `undoes`: the place
    of its step. A flow whose creation stayed unknown is not said again: there is no key that would name it."""

    name = "flows"
    weight = 0.8

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._undo = self.queue + ".undo"
        self._known: deque[str] = deque(maxlen=50)

    def queues(self) -> dict[str, dict[str, Any]]:
        return dict.fromkeys((self.queue, self._undo), config())

    def producers(self) -> list[Role]:
        return [Role("producer-0", self.produce, self.rate / 2), Role("reader-0", self.read, 1.0)]

    def consumers(self) -> list[Role]:
        return [Role(f"worker-{n}", self.work) for n in range(2)] + [Role("undoer-0", self.undo)]

    def is_full(self, queue: str | None = None) -> bool:
        return any(super(Flows, self).is_full(one) for one in (self.queue, self._undo))

    async def produce(self, process: Process) -> None:
        if self.is_full():
            return
        op, rng = process.reserve(), process.rng
        count = rng.randint(1, STEPS_MAX)
        fails = rng.randrange(count) if rng.random() < 0.4 else -1
        shape = rng.choice(("chain", "chain", "fan"))
        saga = rng.random() < 0.7
        steps = []
        for at in range(count):
            after = [] if at == 0 else [at - 1] if shape == "chain" else [0]
            if shape == "fan" and at == count - 1 and at > 1:
                after = list(range(1, at))
            step: dict[str, Any] = {
                "step_id": f"s{at}",
                "queue": self.queue,
                "body": self.body(op, at, rng, step=at, fails=at == fails),
                "depends_on": [f"s{parent}" for parent in after],
            }
            if saga and rng.random() < 0.8:
                undo = self.body(op, UNDO_I + at, rng, undoes=at)
                step["compensate"] = {"queue": self._undo, "body": undo}
            steps.append(step)
        rng.shuffle(steps)
        made = await process.create_flow(steps)
        self._known.append(made["id"])
        self.around.recent.extend(one["message_id"] for one in made["steps"])

    async def read(self, process: Process) -> None:
        if not self._known:
            return
        try:
            await process.get_flow(process.rng.choice(self._known))
        except ApiError as error:
            if error.status != 404:  # ended an hour ago
                raise

    async def work(self, process: Process) -> None:
        for lease in await self.lease(process, process.rng.randint(1, 5), calls=1):
            if lease.body["fails"]:
                item = {"lease_token": lease.token, "error": "it fails", "dead_letter": True}
                await process.nack_many([item], strict=False)
            elif lease.attempt == 1 and process.rng.random() < 0.05:
                await process.nack_many([{"lease_token": lease.token, "delay_ms": 50}], strict=False)
            else:
                await self.ack(process, [self._done(lease)])

    async def undo(self, process: Process) -> None:
        for lease in await self.lease(process, process.rng.randint(1, 3), calls=1, queue=self._undo):
            await self.ack(process, [self._done(lease)])

    @staticmethod
    def _done(lease: Lease) -> dict[str, Any]:
        """Its result says whose it is: children and compensations must be given just this."""
        return {"lease_token": lease.token, "result": {"op": lease.body["op"], "i": lease.body["i"]}}
