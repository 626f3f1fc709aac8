"""Trivet, as it comes: three nodes, fsync on a majority before each answer."""

from __future__ import annotations

import sys
from pathlib import Path

from trivet.cli.local import LocalCluster, LocalNode, free_base_port
from trivet.client import Client, RetryPolicy


class Trivet:
    name = "trivet"
    durability = "majority, each fdatasync before the confirm (the default; there is no other setting)"

    def __init__(self) -> None:
        self._cluster: LocalCluster | None = None

    @property
    def cluster(self) -> LocalCluster:
        assert self._cluster is not None, "not started"
        return self._cluster

    def _node(self, number: int) -> LocalNode:
        return self.cluster.nodes[number - 1]

    async def start(self, directory: Path) -> None:
        self._cluster = LocalCluster(directory, 3, free_base_port(3))
        await self.cluster.start()
        await self.cluster.wait_for_leader()

    async def stop(self) -> None:
        if self._cluster is not None:
            await self.cluster.stop()

    async def prepare(self, queue: str) -> None:
        async with Client(self.cluster.apis, retry=RetryPolicy(total_s=20)) as client:
            if any(one["queue"] == queue for one in (await client.queues())["queues"]):
                await client.delete_queue(queue)
            await client.put_queue(queue)

    async def leader(self, queue: str) -> int:
        return int((await self.cluster.wait_for_leader())[1:])

    async def depth(self, queue: str) -> int:
        async with Client(self.cluster.apis, retry=RetryPolicy(total_s=20)) as client:
            found = await client.queue(queue)
            return sum(int(found[state]) for state in ("ready", "delayed", "leased", "blocked"))

    def pid(self, node: int) -> int:
        pid = self._node(node).pid
        assert pid is not None
        return pid

    def address(self, node: int) -> str:
        return self._node(node).api

    async def kill(self, node: int) -> None:
        await self.cluster.kill(self._node(node))

    async def start_node(self, node: int) -> None:
        await self.cluster.start_node(self._node(node))
        await self.cluster.wait_ready(self._node(node), 120)

    def data(self, node: int) -> Path:
        return self.cluster.directory / f"n{node}"

    def driver(self) -> list[str]:
        return [sys.executable, "-m", "bench.drivers.trivet"]
