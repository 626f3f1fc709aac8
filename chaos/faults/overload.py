"""More than the cluster is asked to carry: ten times the load's rate for some seconds, from an idle start."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from chaos.cluster import DrillCluster
from chaos.faults.port import Fault, NotFired
from trivet.client import ApiError, Client, RetryPolicy

QUEUE = "drill-overload"
QUEUE_CONFIG: dict[str, Any] = {
    "ttl_ms": 5000,
    "max_dead": 100,
    "dead_retention_ms": 60_000,
    "retention_ms": 60_000,
}
FACTOR = 10
CLIENTS = 20
BATCH = 10
REACHED = 0.5  # of the offered rate must have gone out, or it was no burst


@dataclass(frozen=True)
class Overload:
    """`CLIENTS` clients offer `FACTOR` times the load's rate, without waiting for answers that are late.
    Their messages are no part of the history: they expire in a queue of their own.

    Evidence: how many calls went out and how they ended (refusals under load are as welcome as answers).
    """

    name: str = "overload"
    needs: frozenset[str] = frozenset()

    def plan(self, rng: random.Random, size: int) -> dict[str, Any]:
        return {"seconds": round(rng.uniform(2.0, 5.0), 1), "factor": FACTOR}

    async def fire(self, cluster: DrillCluster, parameters: dict[str, Any]) -> dict[str, Any]:
        seconds, rate = parameters["seconds"], parameters["factor"] * cluster.rate
        ends: Counter[str] = Counter()
        async with Client(cluster.apis) as client:
            await client.put_queue(QUEUE, **QUEUE_CONFIG)
        began = time.monotonic()
        await asyncio.gather(*(_client(cluster.apis, began, n, seconds, rate, ends) for n in range(CLIENTS)))
        took = time.monotonic() - began
        sent = BATCH * sum(ends.values())
        if sent < REACHED * rate * seconds or not ends["ok"]:
            raise NotFired(f"only {sent} of {rate * seconds:.0f} messages went out: {dict(ends)}")
        return {
            "nodes": [],
            "offered_per_s": rate,
            "seconds": round(took, 2),
            "messages": sent,
            "calls": dict(sorted(ends.items())),
        }

    async def heal(self, cluster: DrillCluster, parameters: dict[str, Any]) -> None:
        """The burst ends by itself."""


async def _client(
    apis: list[str], began: float, number: int, seconds: float, rate: float, ends: Counter[str]
) -> None:
    """One call each `CLIENTS * BATCH / rate` seconds, whether or not the last one was answered; none after the
    burst's own end, so that a rate nobody can offer does not become a heap of calls to work off."""
    period = CLIENTS * BATCH / rate
    calls: set[asyncio.Task[None]] = set()
    async with Client(apis, retry=RetryPolicy(total_s=0, attempt_s=5.0)) as client:
        due = began + period * number / CLIENTS
        while max(due, time.monotonic()) < began + seconds:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            call = asyncio.create_task(_call(client, ends))
            calls.add(call)
            call.add_done_callback(calls.discard)
            due += period
        await asyncio.gather(*calls)


async def _call(client: Client, ends: Counter[str]) -> None:
    try:
        await client.enqueue_many(QUEUE, [{"body": None}] * BATCH)
        ends["ok"] += 1
    except ApiError as error:
        ends[error.code] += 1


FAULTS: tuple[Fault, ...] = (Overload(),)
