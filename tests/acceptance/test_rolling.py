"""Drain on SIGTERM: a rolling restart of all three nodes under load, seen through the SDK."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from trivet.cli.local import LocalCluster, free_base_port
from trivet.client import Client, Lease, RetryPolicy, Worker


def test_a_rolling_restart_under_load_loses_and_fails_nothing(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path, 3, free_base_port(3))
    done: list[int] = []

    async def handle(lease: Lease) -> None:
        done.append(lease.body)

    async def produce(client: Client, stop: asyncio.Event) -> int:
        count = 0
        while not stop.is_set():
            await client.enqueue_many("work", [{"body": n} for n in range(count, count + 10)])
            count += 10
            await asyncio.sleep(0.005)
        return count

    async def run() -> tuple[int, list[int], Worker, Client]:
        await cluster.start()
        try:
            await cluster.wait_for_leader()
            async with Client(cluster.apis, retry=RetryPolicy(total_s=30)) as client:
                await client.put_queue("work")
                stop = asyncio.Event()
                worker = Worker(client, "work", handle, wait_ms=1000)
                working = asyncio.create_task(worker.run())
                producing = asyncio.create_task(produce(client, stop))
                codes = []
                for node in cluster.nodes:
                    codes.append(await cluster.kill(node, signal.SIGTERM))
                    await cluster.start_node(node)
                    await cluster.wait_ready(node)
                stop.set()
                count = await producing
                async with asyncio.timeout(20):
                    while len(set(done)) < count:  # noqa: ASYNC110 - a list has no event
                        await asyncio.sleep(0.05)
                await worker.stop()
                await working
                return count, codes, worker, client
        finally:
            await cluster.stop()

    count, codes, worker, client = asyncio.run(run())
    assert codes == [0, 0, 0], "a drain ends with exit 0"
    assert count > 100 and set(done) == set(range(count))
    assert client.stats.failed_calls == 0 and client.stats.unknown_calls == 0
    assert worker.stats.acked >= count and worker.stats.unknown == 0
