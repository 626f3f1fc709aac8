"""nats-py at its best (peers-perf.md): pipelined publishes with a window of unconfirmed ones, and two pull
requests of 256 kept outstanding, each message acked by itself (a work-queue stream demands it)."""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import msgspec
import nats
import uvloop

from bench.drivers.common import Level, Result, body_of, made_at_s, options, paced, report, wait_for_start

PREFETCH = 500  # the best of 256, 500 and 1000, three rounds each in turns


async def publish(given: Namespace, client: Any, result: Result) -> None:
    stream = client.jetstream(publish_async_max_pending=given.window + 10, timeout=20)
    subject = f"{given.queue}.in"
    level = Level(given.level) if given.level else None
    started = wait_for_start()
    end_s = started[0] + given.seconds

    async def one() -> None:
        began_s = time.monotonic()
        await stream.publish(subject, body_of(given.size))
        result.messages += 1
        result.confirm_s.append(time.monotonic() - began_s)

    if given.rate:
        async with asyncio.TaskGroup() as group:
            await paced(given.rate, end_s, lambda: group.create_task(one()))
        report(result, started)
        return

    room = asyncio.Semaphore(given.window)

    def confirmed(began_s: float) -> Callable[[asyncio.Future[Any]], None]:
        def note(future: asyncio.Future[Any]) -> None:
            future.result()  # a publish that failed fails the run
            result.messages += 1
            result.confirm_s.append(time.monotonic() - began_s)
            room.release()

        return note

    sent = 0
    while time.monotonic() < end_s and not (given.count and sent >= given.count):
        if level is not None:
            await level.room(given.ahead, end_s)
            level.published(1)
        await room.acquire()
        sent += 1
        future = await stream.publish_async(subject, body_of(given.size))
        future.add_done_callback(confirmed(time.monotonic()))
    for _ in range(given.window):
        await room.acquire()
    report(result, started)


async def consume(given: Namespace, client: Any, result: Result) -> None:
    level = Level(given.level) if given.level else None
    inbox = client.new_inbox()
    next_messages = f"$JS.API.CONSUMER.MSG.NEXT.{given.queue}.bench"
    request = msgspec.json.encode({"batch": PREFETCH, "expires": 30_000_000_000})
    done = asyncio.Event()
    started = wait_for_start()
    credit = 0

    async def take(message: Any) -> None:
        nonlocal credit
        if not message.reply:
            return  # a status line of the server
        if given.rate:
            result.delivered_s.append(time.monotonic() - made_at_s(message.data))
        await client.publish(message.reply, b"+ACK")
        result.messages += 1
        result.seconds = time.monotonic() - started[0]
        credit -= 1
        if level is not None:
            level.consumed(1)
        if credit <= PREFETCH:
            credit += PREFETCH
            await client.publish(next_messages, request, reply=inbox)
        if given.count and result.messages >= given.count:
            done.set()

    await client.subscribe(inbox, cb=take, pending_msgs_limit=1 << 20, pending_bytes_limit=1 << 28)
    for _ in range(2):
        credit += PREFETCH
        await client.publish(next_messages, request, reply=inbox)
    try:
        await asyncio.wait_for(done.wait(), given.seconds)
    except TimeoutError:
        result.seconds = 0.0  # the whole time
    await client.flush()
    report(result, started)


async def main() -> None:
    given = options()
    client = await nats.connect(f"nats://{given.address}", pending_size=64 << 20)
    work = publish if given.role == "publish" else consume
    await work(given, client, Result(given.role))
    await client.close()


if __name__ == "__main__":
    uvloop.run(main())
