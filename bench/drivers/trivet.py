"""Trivet's SDK. Bulk requests of `--batch`, as many under way as make up the window; with `--rate` single
messages, each a request of its own."""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace

import uvloop

from bench.drivers.common import Level, Result, body_of, made_at_s, options, paced, report, wait_for_start
from trivet.client import Client, Lease

TAKEN = 1000  # messages a lease, at most: what the API gives


async def publish(given: Namespace, client: Client, result: Result) -> None:
    level = Level(given.level) if given.level else None
    await client.queue(given.queue)  # the connection and the leader are known before the clock starts
    started = wait_for_start()
    end_s = started[0] + given.seconds

    async def bulk() -> None:
        while time.monotonic() < end_s and not (given.count and result.messages >= given.count):
            if level is not None:
                await level.room(given.ahead, end_s)
                level.published(given.batch)
            began_s = time.monotonic()
            await client.enqueue_many(
                given.queue, [{"body": body_of(given.size)} for _ in range(given.batch)]
            )
            result.messages += given.batch
            result.confirm_s.append(time.monotonic() - began_s)

    async def one() -> None:
        began_s = time.monotonic()
        await client.enqueue(given.queue, body_of(given.size))
        result.messages += 1
        result.confirm_s.append(time.monotonic() - began_s)

    async with asyncio.TaskGroup() as group:
        if given.rate:
            await paced(given.rate, end_s, lambda: group.create_task(one()))
        else:
            for _ in range(max(1, given.window // given.batch)):
                group.create_task(bulk())
    report(result, started)


async def consume(given: Namespace, client: Client, result: Result) -> None:
    level = Level(given.level) if given.level else None
    await client.queue(given.queue)
    started = wait_for_start()
    end_s = started[0] + given.seconds

    async def work() -> None:
        while time.monotonic() < end_s and not (given.count and result.messages >= given.count):
            wait_ms = max(1, min(500, round((end_s - time.monotonic()) * 1000)))
            leases = await client.lease(given.queue, "bench", max_messages=TAKEN, wait_ms=wait_ms)
            if not leases:
                continue
            if given.rate:
                now_s = time.monotonic()
                result.delivered_s.extend(now_s - made_at_s(lease.body) for lease in leases)
            if given.rate:
                group.create_task(settle(leases))  # as nats-py's: the next one is asked for meanwhile
            else:
                await settle(leases)

    async def settle(leases: list[Lease]) -> None:
        await client.ack_many(leases)
        result.messages += len(leases)
        result.seconds = time.monotonic() - started[0]
        if level is not None:
            level.consumed(len(leases))

    async with asyncio.TaskGroup() as group:
        for _ in range(2):  # one batch is worked on while the next is on its way
            group.create_task(work())
    if not given.count:
        result.seconds = 0.0  # the whole time, not up to the last message
    report(result, started)


async def main() -> None:
    given = options()
    async with Client(given.address) as client:
        work = publish if given.role == "publish" else consume
        await work(given, client, Result(given.role))


if __name__ == "__main__":
    uvloop.run(main())
