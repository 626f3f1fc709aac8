"""A worker of the SDK against a real node."""

from __future__ import annotations

import asyncio

from tests.acceptance.conftest import Start
from trivet.client import Client, Lease, Worker

LEASE_MS = 300
MESSAGES = 5


def test_a_worker_may_wait_longer_than_its_leases_last(dev: Start) -> None:
    """Each message comes when its poll has waited twice as long as its lease will last: all are handled at their
    first delivery, by a worker that has room for fewer than there are."""
    nodes = dev(nodes=1).apis
    handled: list[tuple[int, int]] = []

    async def go() -> None:
        async with Client(nodes) as client:
            await client.put_queue("jobs", lease_ms=LEASE_MS)
            ended = asyncio.Event()

            async def handle(lease: Lease) -> None:
                assert lease.remaining_s() > 0
                handled.append((lease.body, lease.attempt))

            worker = Worker(
                client,
                "jobs",
                handle,
                concurrency=2,
                wait_ms=20_000,
                on_settled=lambda lease, result, error: ended.set(),
            )
            running = asyncio.create_task(worker.run())
            for n in range(MESSAGES):
                await asyncio.sleep(2 * LEASE_MS / 1000)
                ended.clear()
                await client.enqueue("jobs", n)
                async with asyncio.timeout(10):
                    await ended.wait()
            await worker.stop(grace_s=5)
            await running
            assert worker.stats.acked == MESSAGES and worker.stats.lost == 0

    asyncio.run(go())
    assert handled == [(n, 1) for n in range(MESSAGES)]
