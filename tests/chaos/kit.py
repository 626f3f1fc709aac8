"""A small load, so that what a fault waits for (a sync, an answer) happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from chaos.cluster import DrillCluster
from chaos.faults.port import Fault

from trivet.client import ApiError, Client

BACK_SECONDS = 60.0


class Traffic:
    """Two clients that enqueue, lease and ack. `done`: how many rounds went well."""

    def __init__(self, nodes: list[str]) -> None:
        self._nodes = nodes
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self.done = 0

    async def start(self) -> None:
        async with Client(self._nodes) as client:
            await client.put_queue("traffic", max_attempts=0)
        self._tasks = [asyncio.create_task(self._work(f"w{n}")) for n in range(2)]

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def more(self, rounds: int = 3) -> None:
        """Until so many more rounds went well."""
        wanted = self.done + rounds
        async with asyncio.timeout(BACK_SECONDS):
            while self.done < wanted:  # noqa: ASYNC110 what is waited for has no event of its own
                await asyncio.sleep(0.02)

    async def _work(self, name: str) -> None:
        async with Client(self._nodes) as client:
            while not self._stopping:
                try:
                    await client.enqueue_many("traffic", [{"body": n} for n in range(5)])
                    leases = await client.lease("traffic", name, max_messages=5, lease_ms=1500)
                    if leases:
                        await client.ack_many(leases, strict=False)
                    self.done += 1
                except ApiError:
                    await asyncio.sleep(0.05)  # a fault is under way
                await asyncio.sleep(0.005)


@asynccontextmanager
async def loaded(
    directory: Path, needs: frozenset[str] = frozenset()
) -> AsyncIterator[tuple[DrillCluster, Traffic]]:
    """Three nodes with a leader, under load."""
    cluster = DrillCluster(directory, 3, needs=needs)
    try:
        await cluster.start()
        await cluster.leader(60)
        await ready(cluster)
        traffic = Traffic(cluster.apis)
        await traffic.start()
        try:
            await traffic.more()
            yield cluster, traffic
        finally:
            await traffic.stop()
    finally:
        await cluster.close()


async def ready(cluster: DrillCluster) -> None:
    """Until every node is ready."""
    async with asyncio.timeout(BACK_SECONDS):
        while missing := await cluster.not_ready():
            assert missing
            await asyncio.sleep(0.05)


async def through(
    cluster: DrillCluster, traffic: Traffic, fault: Fault, parameters: dict[str, object]
) -> dict[str, object]:
    """Fire, heal at once, and wait until the cluster is whole and works again; the evidence."""
    try:
        evidence = await fault.fire(cluster, parameters)
    finally:
        await fault.heal(cluster, parameters)
    await ready(cluster)
    await traffic.more()
    return evidence
