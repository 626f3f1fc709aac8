"""Whole nodes in one process on loopback, over real sockets and real directories."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trivet.cli.local import free_base_port
from trivet.config import from_values
from trivet.machine.commands import Draft, Enqueue, Request
from trivet.node.broker import Committed
from trivet.node.runtime import Node
from trivet.observability.logs import silent_log
from trivet.observability.metrics import Metrics


def free_ports(count: int) -> list[int]:
    base = free_base_port((count + 1) // 2)
    return [base + i for i in range(count)]


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Waits for a true answer and gives it."""
    async with asyncio.timeout(seconds):
        while not (answer := condition()):  # noqa: ASYNC110 most conditions have no event
            await asyncio.sleep(0.005)
        return answer


class Cluster:
    """`count` members with directories under `root`; each can be stopped, killed and started again."""

    def __init__(self, root: Path, count: int, **settings: Any) -> None:
        self.root = root
        self.names = [f"n{i}" for i in range(1, count + 1)]
        ports = free_ports(2 * count)
        self.api = dict(zip(self.names, ports[:count], strict=True))
        self.members = tuple(
            f"{name}=127.0.0.1:{port}" for name, port in zip(self.names, ports[count:], strict=True)
        )
        self.settings = settings
        self.nodes: dict[str, Node] = {}
        self.deaths: list[tuple[str, str, BaseException | None]] = []

    async def __aenter__(self) -> Cluster:
        for name in self.names:
            await self.start(name)
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in list(self.nodes):
            await self.stop(name)

    async def start(self, name: str) -> Node:
        values = {
            "node.id": name,
            "node.data_dir": str(self.root / name),
            "cluster.members": self.members if len(self.names) > 1 else (),
            "cluster.bootstrap": True,
            "api.listen": f"127.0.0.1:{self.api[name]}",
            "storage.segment_bytes": 1 << 20,
            **self.settings,
        }

        def die(reason: str, error: BaseException | None) -> None:
            self.deaths.append((name, reason, error))

        node = Node(from_values(values), log=silent_log(), meters=Metrics(), die=die)
        self.nodes[name] = node
        await node.start()
        return node

    async def stop(self, name: str, drain: bool = False) -> None:
        node = self.nodes.pop(name)
        if drain:
            await node.drain()
        await node.stop()

    def leader_now(self) -> Node | None:
        """The one node that may write, and that all running nodes follow."""
        writers = [
            node for node in self.nodes.values() if node.replica.can_propose and node.machine.cluster_id
        ]
        if len(writers) != 1:
            return None
        agreed = all(node.replica.leader == writers[0].node_id for node in self.nodes.values())
        return writers[0] if agreed else None

    async def leader(self, seconds: float = 10.0) -> Node:
        node = await until(self.leader_now, seconds)
        assert isinstance(node, Node)
        return node

    async def enqueue(self, queue: str, body: bytes = b'"x"', node: Node | None = None) -> Committed:
        node = node or await self.leader()
        return await node.broker.submit(Request(Enqueue(queue, (Draft(body=body),))))

    async def settle(self, seconds: float = 10.0) -> None:
        """Waits until all running nodes have applied the same index, and checks that their states are equal."""
        await until(lambda: len({node.replica.applied_index for node in self.nodes.values()}) == 1, seconds)
        assert len({node.machine.digest() for node in self.nodes.values()}) == 1
