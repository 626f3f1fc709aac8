"""A run of 10,000 events followed through killed leaders and reconnects to other nodes (issue 5, "Shows"; R29).

Real processes. The writer may repeat itself (its outcomes become unknown when a leader dies); every reader must
get every event once, in order.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from trivet.cli.local import LocalCluster, free_base_port
from trivet.client import Client, RetryPolicy, RunEvent
from trivet.client.runs import read_stream

EVENTS = 10_000
BATCH = 50
KILLS = 3
RUN = "the-run"


@dataclass
class Reader:
    """Goes from node to node, on purpose and when its node dies; counts what it was told."""

    nodes: list[str]
    rng: random.Random
    ids: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    connections: dict[str, int] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return len(self.tokens) >= EVENTS

    def take(self, event: RunEvent) -> None:
        assert event.type in ("token", "message.ready"), event
        self.ids.append(event.id)
        if event.type == "token":
            self.tokens.append(event.data)

    async def read(self) -> None:
        """With plain HTTP: a new connection, to another node, after every few hundred events."""
        async with aiohttp.ClientSession() as http:
            turn = 0
            while not self.done:
                node = self.nodes[turn % len(self.nodes)]
                turn += 1
                try:
                    await self._from(http, node, self.rng.randrange(50, 800))
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)  # it is dead, or has just died

    async def _from(self, http: aiohttp.ClientSession, node: str, most: int) -> None:
        headers = {"Last-Event-ID": str(self.ids[-1])} if self.ids else {}
        timeout = aiohttp.ClientTimeout(sock_connect=1, sock_read=20)
        url = f"{node}/v1/runs/{RUN}/events"
        async with http.get(url, headers=headers, timeout=timeout) as response:
            if response.status != 200:
                assert response.status in (502, 503), await response.text()
                await asyncio.sleep(0.05)
                return
            self.connections[str(response.url.origin())] = (
                self.connections.get(str(response.url.origin()), 0) + 1
            )
            async for event in read_stream(response.content):
                if event is not None:
                    self.take(event)
                    most -= 1
                if most <= 0 or self.done:
                    return

    async def read_by_sdk(self, client: Client) -> None:
        async for event in client.run_events(RUN):
            self.take(event)
            if self.done:
                return


class Pace:
    """A leader dies each time another quarter is written; the writer does not outrun that."""

    def __init__(self) -> None:
        self.written = 0
        self.allowed = EVENTS // (KILLS + 1)
        self.changed = asyncio.Condition()

    async def wrote(self, count: int) -> None:
        async with self.changed:
            self.written += count
            self.changed.notify_all()
            await self.changed.wait_for(lambda: self.written < self.allowed + 10 * BATCH)

    async def due(self) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.written >= self.allowed)

    async def happened(self) -> None:
        async with self.changed:
            self.allowed += EVENTS // (KILLS + 1)
            self.changed.notify_all()


async def write(client: Client, pace: Pace) -> None:
    for start in range(0, EVENTS, BATCH):
        events = [{"type": "token", "data": n, "event_id": f"t{n}"} for n in range(start, start + BATCH)]
        await client.append_events(RUN, events)
        await pace.wrote(BATCH)


async def kill_leaders(cluster: LocalCluster, pace: Pace) -> list[str]:
    """While the writer is in the middle of it: it goes on for ten batches beyond the mark."""
    killed: list[str] = []
    for _ in range(KILLS):
        await pace.due()
        leader = await cluster.wait_for_leader()
        await cluster.kill(cluster.node(leader))
        killed.append(leader)
        await pace.happened()
        await cluster.start_node(cluster.node(leader))
        await cluster.wait_ready(cluster.node(leader))
    return killed


def test_every_reader_gets_every_event_once_and_in_order(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path, 3, free_base_port(3))
    rng = random.Random(29)
    readers = [Reader(cluster.apis, random.Random(rng.random())) for _ in range(3)]
    by_sdk = Reader(cluster.apis, rng)

    async def show() -> list[str]:
        await cluster.start()
        try:
            await cluster.wait_for_leader()
            async with Client(cluster.apis, retry=RetryPolicy(total_s=30)) as client:
                await client.enqueue("work", 1, run_id=RUN)
                pace = Pace()
                async with asyncio.timeout(120), asyncio.TaskGroup() as group:
                    group.create_task(write(client, pace))
                    killing = group.create_task(kill_leaders(cluster, pace))
                    group.create_task(by_sdk.read_by_sdk(client))
                    for reader in readers:
                        group.create_task(reader.read())
                return killing.result()
        finally:
            await cluster.stop()

    killed = asyncio.run(show())
    assert len(killed) == KILLS
    for reader in (*readers, by_sdk):
        assert reader.tokens == list(range(EVENTS))
        assert reader.ids == list(range(1, EVENTS + 2))
    for reader in readers:
        assert len(reader.connections) == 3, "it has been at every node"
        assert sum(reader.connections.values()) > 10
