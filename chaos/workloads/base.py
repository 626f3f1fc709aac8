"""What all workloads are made of: their surroundings, their pace, and the loop of a process."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from chaos.history import Recorder
from chaos.sink import Sink
from chaos.workloads.recording import Doubts, Process
from trivet.client import ApiError, Lease, OutcomeUnknown
from trivet.errors import Retry
from trivet.units import HOUR_MS

RETENTION_MS = 6 * HOUR_MS  # finished messages can be asked about until every drill is over
BACKLOG_MAX = 100  # unfinished messages of a queue; beyond it its producers wait, so that the drain is short
LEASE_MS = 1500
WAIT_MS = 1000  # of a worker with nothing to do; a stop waits as long
LIVE = ("ready", "delayed", "leased", "blocked")
FAILED_PAUSE_S = 0.05

EXPECTED = frozenset(
    {
        *("stale_lease", "not_found", "message_not_found", "message_finished", "effect_not_found"),
        *("stale_effect", "effect_held", "effect_uncertain", "lease_lost", "idempotency_conflict"),
    }
)
"""Refusals that the workloads bring upon themselves. Any other that says `never` is a defect of the drill."""

Step = Callable[[Process], Awaitable[None]]


@dataclass
class Surroundings:
    """What the workloads of one load share."""

    nodes: list[str]
    recorder: Recorder
    sink: Sink
    seed: int
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    queues: list[str] = field(default_factory=list)  # of all workloads
    live: dict[str, int] = field(default_factory=dict)  # queue → unfinished messages, when last read
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=500))  # message ids, lately enqueued
    doubts: Doubts = field(default_factory=Doubts)

    def process(self, name: str) -> Process:
        rng = random.Random(f"{self.seed} {name}")
        patient = name.startswith("load.")  # prepares, watches and asks at the end
        return Process(self.nodes, self.recorder, name, rng, self.doubts, patient=patient)


@dataclass(frozen=True)
class Role:
    """One process. `per_s`: steps a second at the most; 0: as fast as the answers come."""

    name: str
    step: Step
    per_s: float = 0.0


class Workload:
    """One kind of load. `rate`: messages it enqueues each second, all its processes together."""

    name: ClassVar[str]
    weight: ClassVar[float] = 1.0  # its share of the load's rate

    def __init__(self, around: Surroundings, rate: float) -> None:
        self.around = around
        self.rate = rate
        self.queue = f"drill-{around.recorder.run}.{self.name}"

    def queues(self) -> dict[str, dict[str, Any]]:
        """Its queues and how they are configured."""
        return {self.queue: config()}

    async def make(self, process: Process, queue: str, config: dict[str, Any]) -> None:
        """One of its queues, before the load begins."""
        await process.put_queue(queue, **config)

    async def rest(self, process: Process) -> None:
        """Called after the load, until it does not raise: what the cluster does by itself is to stop."""

    async def look(self, process: Process) -> None:
        """Called when nothing is unfinished, until it does not raise: what else is to be asked about."""

    def producers(self) -> list[Role]:
        """Processes that run only under load."""
        return []

    def consumers(self) -> list[Role]:
        """Processes that run under load and again in the drain, until nothing is left."""
        return []

    def is_full(self, queue: str | None = None) -> bool:
        return self.around.live.get(queue or self.queue, 0) > BACKLOG_MAX

    def body(self, op: int, i: int, rng: random.Random, **fields: Any) -> dict[str, Any]:
        """A body that says where it comes from; now and then a long one."""
        long = rng.random() < 0.02
        pad = rng.randbytes(rng.randrange(2000, 6000) if long else rng.randrange(40)).hex()
        return {"op": op, "i": i, "w": self.name, "pad": pad, **fields}

    def key(self, op: int, i: int) -> str:
        return f"{self.around.recorder.run}-{op}-{i}"

    async def enqueue(
        self, process: Process, messages: list[dict[str, Any]], request_id: str | None = None
    ) -> dict[str, Any]:
        answer = await process.enqueue_many(self.queue, messages, request_id=request_id)
        self.around.recent.extend(one["id"] for one in answer["messages"])
        return answer

    async def lease(
        self, process: Process, most: int, *, calls: int = 0, lease_ms: int = LEASE_MS, queue: str = ""
    ) -> list[Lease]:
        """At most `most`, and not more than can be seen to in the better half of the lease when each needs
        `calls` calls and the cluster is as slow as of late."""
        if calls:
            most = max(1, min(most, int(lease_ms / 2000 / (calls * process.call_s))))

        async def said(request_id: str) -> list[Lease]:
            return await process.lease(
                queue or self.queue,
                process.consumer,
                max_messages=most,
                lease_ms=lease_ms,
                wait_ms=WAIT_MS,
                request_id=request_id,
            )

        op, request_id = process.reserve(), process.request_id()
        try:
            return await said(request_id)
        except OutcomeUnknown:
            if process.rng.random() < 0.5:
                raise  # a worker that is gone: its leases run out
            process.repeats = op
            return await said(request_id)  # the same leases, as far as they live (R18)

    async def ack(self, process: Process, acks: Sequence[Lease | dict[str, Any]]) -> None:
        """Together. If the outcome stays unknown, perhaps once more: as the same request (R12), or as
        another one with the same tokens (R14)."""
        op, request_id = process.reserve(), process.request_id()
        try:
            await process.ack_many(acks, strict=False, request_id=request_id)
        except OutcomeUnknown:
            chance = process.rng.random()
            if chance < 0.4:
                raise
            process.repeats = op
            again = request_id if chance < 0.7 else None
            await process.ack_many(acks, strict=False, request_id=again)

    async def acked(self, process: Process) -> None:
        """A plain consumer's step: lease some, ack them together."""
        leases = await self.lease(process, process.rng.randint(1, 20))
        if leases:
            await self.ack(process, leases)


def config(**changes: Any) -> dict[str, Any]:
    """A queue that never gives a message up and keeps finished ones."""
    backoff = {"type": "fixed", "base_ms": 200, "jitter": 0.5}
    return {"max_attempts": 0, "retention_ms": RETENTION_MS, "backoff": backoff, **changes}


async def run(role: Role, process: Process, stopping: asyncio.Event) -> None:
    """The loop of a process. Unknown outcomes and refusals of the day are in the history already; what can
    only be a defect of the drill is raised."""
    loop = asyncio.get_running_loop()
    due_s = loop.time() + (process.rng.random() / role.per_s if role.per_s else 0.0)
    while not stopping.is_set():
        if role.per_s:
            await pause(due_s - loop.time(), stopping)
            if stopping.is_set():
                return
            due_s = max(due_s + 1 / role.per_s, loop.time() - 1.0)  # a second at the most is made up for
        try:
            await role.step(process)
        except ApiError as error:
            if error.retry is Retry.NEVER and error.code not in EXPECTED:
                process.recorder.note("defect", proc=process.proc, error=repr(error))
                raise
            await pause(FAILED_PAUSE_S, stopping)
        except Exception as error:
            process.recorder.note("defect", proc=process.proc, error=repr(error))
            raise


async def pause(length_s: float, stopping: asyncio.Event) -> None:
    """Until the time is over or the load stops."""
    if length_s <= 0:
        await asyncio.sleep(0)
        return
    try:
        async with asyncio.timeout(length_s):
            await stopping.wait()
    except TimeoutError:
        return
