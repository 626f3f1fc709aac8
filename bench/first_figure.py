"""A first figure: enqueue + lease + ack through the SDK, bulk requests of 100, three nodes, fsync on.

    python -m bench.first_figure [--seconds 8] [--batch 100] [--size 256] [--nodes 3] [--pairs 4] [--json]

Each pair is a producer (`enqueue_many`) and a consumer (`lease`, `ack_many`) in closed loops, in one client
process. Reported: messages that went the whole way (acknowledged enqueue, leased, acknowledged ack) per
second, and CPU time per such message: of the servers (utime + stime of their pids from /proc/PID/stat,
all threads) and of the client, with the leader's share. A run on shared cores says little about peaks:
compare the CPU figures and the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.process import cpu_s
from trivet.cli.local import LocalCluster, LocalNode, free_base_port
from trivet.client import Client, RetryPolicy

WARM_UP_S = 1.5
AHEAD_MAX = 20  # batches a producer may be ahead of its consumer


@dataclass
class Counts:
    enqueued: int = 0
    acked: int = 0


@dataclass
class Figure:
    nodes: int
    batch: int
    body_bytes: int
    pairs: int
    seconds: float
    messages: int
    messages_per_second: float
    server_cpu_us_per_message: float
    leader_cpu_us_per_message: float
    followers_to_leader_cpu: float  # ratio: all followers together / leader
    client_cpu_us_per_message: float
    server_cores_used: float
    machine_cores: int


class Pair:
    """One producer and one consumer of a queue."""

    def __init__(self, client: Client, queue: str, batch: int, size: int, counts: Counts) -> None:
        self.client = client
        self.queue = queue
        self.batch = batch
        self.counts = counts
        self._messages = [{"body": b"x" * size}] * batch
        self._ahead = asyncio.Semaphore(AHEAD_MAX)

    async def produce(self) -> None:
        while True:
            await self._ahead.acquire()
            await self.client.enqueue_many(self.queue, self._messages)
            self.counts.enqueued += self.batch

    async def consume(self) -> None:
        while True:
            leases = await self.client.lease(self.queue, "bench", max_messages=self.batch, wait_ms=5000)
            if not leases:
                continue
            await self.client.ack_many(leases)
            self.counts.acked += len(leases)
            for _ in range(round(len(leases) / self.batch)):
                self._ahead.release()


async def measure(directory: Path, given: argparse.Namespace) -> Figure:
    cluster = LocalCluster(directory, given.nodes, free_base_port(given.nodes))
    counts = Counts()
    try:
        await cluster.start()
        leader = cluster.node(await cluster.wait_for_leader())
        async with Client(cluster.apis, retry=RetryPolicy(total_s=20)) as client:
            pairs = [Pair(client, f"bench-{n}", given.batch, given.size, counts) for n in range(given.pairs)]
            for pair in pairs:
                await client.put_queue(pair.queue)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one) for pair in pairs for one in (pair.produce(), pair.consume())]
                await asyncio.sleep(WARM_UP_S)
                figure = await _window(cluster, leader, counts, given)
                for task in tasks:
                    task.cancel()
            if await cluster.wait_for_leader() != leader.id:
                raise SystemExit("the leader changed during the run: not a figure")
            return figure
    finally:
        await cluster.stop()


async def _window(
    cluster: LocalCluster, leader: LocalNode, counts: Counts, given: argparse.Namespace
) -> Figure:
    def used() -> dict[str, float]:
        return {node.id: cpu_s(node.pid) for node in cluster.nodes if node.pid is not None}

    before, client_before, acked = used(), time.process_time(), counts.acked
    began_s = time.monotonic()
    await asyncio.sleep(given.seconds)
    seconds = time.monotonic() - began_s
    after = used()
    messages = counts.acked - acked
    server = {name: after[name] - before[name] for name in before}
    followers = sum(value for name, value in server.items() if name != leader.id)
    per_us = 1e6 / max(messages, 1)
    return Figure(
        nodes=given.nodes,
        batch=given.batch,
        body_bytes=given.size,
        pairs=given.pairs,
        seconds=round(seconds, 2),
        messages=messages,
        messages_per_second=round(messages / seconds),
        server_cpu_us_per_message=round(sum(server.values()) * per_us, 1),
        leader_cpu_us_per_message=round(server[leader.id] * per_us, 1),
        followers_to_leader_cpu=round(followers / server[leader.id], 2),
        client_cpu_us_per_message=round((time.process_time() - client_before) * per_us, 1),
        server_cores_used=round(sum(server.values()) / seconds, 2),
        machine_cores=os.cpu_count() or 1,
    )


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m bench.first_figure")
    options.add_argument("--seconds", type=float, default=8.0)
    options.add_argument("--batch", type=int, default=100)
    options.add_argument("--size", type=int, default=256, help="bytes of a body")
    options.add_argument("--nodes", type=int, default=3, choices=(1, 3, 5))
    options.add_argument("--pairs", type=int, default=4)
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="trivet-figure-") as directory:
        figure = asyncio.run(measure(Path(directory), given))
    if given.json:
        print(msgspec.json.encode(figure).decode())
        return 0
    print("enqueue + lease + ack, each in bulk, through the SDK; fsync on")
    for name, value in vars(figure).items():
        print(f"  {name.replace('_', ' '):<28} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
