"""One stream of orders, three independent readers, on a real cluster whose leader is killed.

    python examples/order_events/main.py [--orders 60] [--nodes 3] [--kills 2]

Orders are published to a topic, each said twice under its key, as a careful client does that lost an answer. `mail` and
`stock` read along from the start, two workers each; `stock` fails now and then. `search` is set up only when all is
published, from offset 0, and later reads the last three orders again (a replay). What each reader did stands in a table
without a unique key, written under an effect. In the end every reader must have done every order exactly once, and each
order must have one offset. Exit code 0 if so.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from trivet.cli.local import LocalCluster, free_base_port
from trivet.client import Client, Happened, Lease, RetryPolicy, Worker, group_queue

PATIENT = RetryPolicy(total_s=45)
WAIT_S = 120.0
TOPIC = "orders"
REPLAYED = 3


class Journal:
    """What the readers did."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path)
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("CREATE TABLE done (reader TEXT, n INTEGER)")

    def add(self, reader: str, n: int) -> None:
        with self._database:
            self._database.execute("INSERT INTO done VALUES (?, ?)", (reader, n))

    def of(self, reader: str) -> Counter[int]:
        found = self._database.execute("SELECT n FROM done WHERE reader = ?", (reader,))
        return Counter(n for (n,) in found)


class Reader:
    """A consumer group and its workers."""

    def __init__(self, client: Client, journal: Journal, name: str, *, flaky: bool = False) -> None:
        self.client, self.journal, self.name, self.flaky = client, journal, name, flaky
        self.seen = 0  # deliveries that came to their end
        self.failed = 0

    def workers(self, count: int) -> list[Worker]:
        return [Worker(self.client, group_queue(TOPIC, self.name), self.handle) for _ in range(count)]

    async def handle(self, lease: Lease) -> None:
        n = lease.body["order"]
        if self.flaky and lease.attempt == 1 and n % 5 == 0:
            self.failed += 1
            raise RuntimeError("the warehouse does not answer")

        async def look(_: str) -> Happened | None:
            return Happened() if self.journal.of(self.name)[n] else None

        name = f"{self.name}:{n}"
        async with self.client.effect(name, lease=lease, with_ack=True, reconcile=look) as effect:
            if not effect.done:
                self.journal.add(self.name, n)
        self.seen += 1


async def publish(client: Client, orders: int) -> dict[int, set[int]]:
    """Order → the offsets that were answered for it."""
    offsets: dict[int, set[int]] = {}
    for first in range(0, orders, 4):
        some = range(first, min(first + 4, orders))
        messages = [{"body": {"order": n}, "idempotency_key": f"order-{n}"} for n in some]
        for _ in range(2):
            answer = await client.publish_many(TOPIC, messages)
            for n, one in zip(some, answer["messages"], strict=True):
                offsets.setdefault(n, set()).add(one["offset"])
        await asyncio.sleep(0.05)
    return offsets


async def disturb(cluster: LocalCluster, kills: int) -> int:
    """Kill the leader, wait for another one, start it again; answers how often that was done."""
    for _ in range(kills):
        await asyncio.sleep(0.4)
        await cluster.bounce_leader()
    return kills


async def until(is_done: Callable[[], bool]) -> None:
    """Or as long as anybody would wait: the judge says what is missing."""
    end_s = time.monotonic() + WAIT_S
    while not is_done() and time.monotonic() < end_s:  # noqa: ASYNC110 - a table tells nobody
        await asyncio.sleep(0.05)


async def play(cluster: LocalCluster, given: argparse.Namespace, journal: Journal) -> list[str]:
    async with Client(cluster.apis, retry=PATIENT) as client:
        await client.put_topic(TOPIC)
        mail, stock = Reader(client, journal, "mail"), Reader(client, journal, "stock", flaky=True)
        search = Reader(client, journal, "search")
        for reader in (mail, stock):
            await client.put_group(TOPIC, reader.name, backoff={"type": "fixed", "base_ms": 100})
        workers = [*mail.workers(2), *stock.workers(2)]
        running = [asyncio.create_task(worker.run()) for worker in workers]
        offsets, kills = await asyncio.gather(publish(client, given.orders), disturb(cluster, given.kills))
        print(f"{given.orders} orders published, each twice; the leader was killed {kills} times")

        made = await client.put_group(TOPIC, search.name, from_offset=0)
        workers += search.workers(1)
        running.append(asyncio.create_task(workers[-1].run()))
        readers = (mail, stock, search)
        await until(lambda: all(len(journal.of(reader.name)) >= given.orders for reader in readers))
        before = search.seen
        again = await client.replay_group(TOPIC, search.name, from_offset=given.orders - REPLAYED)
        await until(lambda: search.seen >= before + REPLAYED)
        topic = await client.topic(TOPIC)
        left = [(await client.group(TOPIC, reader.name))["ready"] for reader in readers]
        await asyncio.gather(*(worker.stop() for worker in workers))
        await asyncio.gather(*running)
    print(f"search began with {made['replayed']} orders from before, and got {again['replayed']} again")
    print(f"stock failed {stock.failed} times")
    wrong = judge(given.orders, journal, offsets)
    if topic["next_offset"] != given.orders:
        wrong.append(f"the topic is at {topic['next_offset']}, {given.orders} orders were published")
    if (
        made["replayed"] != given.orders
        or again["replayed"] != REPLAYED
        or search.seen < given.orders + REPLAYED
    ):
        wrong.append(f"search was to see {given.orders} and {REPLAYED} orders, it saw {search.seen}")
    if any(left) or not stock.failed:
        wrong.append(f"left in the groups: {left}; stock failed {stock.failed} times")
    return wrong


def judge(orders: int, journal: Journal, offsets: dict[int, set[int]]) -> list[str]:
    """What is wrong, in words."""
    wrong = []
    expected = Counter(range(orders))
    for reader in ("mail", "stock", "search"):
        done = journal.of(reader)
        if done != expected:
            missing, doubled = expected - done, done - expected
            wrong.append(f"{reader}: missing {sorted(missing)}, once too often {sorted(doubled)}")
    if any(len(each) != 1 for each in offsets.values()):
        wrong.append(f"an order has several offsets: {offsets}")
    if sorted(offset for each in offsets.values() for offset in each) != list(range(orders)):
        wrong.append(f"the offsets are not 0 … {orders - 1}")
    return wrong


async def main() -> int:
    options = argparse.ArgumentParser(description="A topic with three readers while the leader is killed.")
    options.add_argument("--orders", type=int, default=60)
    options.add_argument("--nodes", type=int, default=3)
    options.add_argument("--kills", type=int, default=2)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="trivet-orders-") as directory:
        cluster = LocalCluster(Path(directory) / "cluster", given.nodes, free_base_port(given.nodes))
        journal = Journal(Path(directory) / "journal.sqlite")
        try:
            await cluster.start()
            await cluster.wait_for_leader()
            wrong = await play(cluster, given, journal)
        finally:
            await cluster.stop()
    for line in wrong:
        print(f"  {line}")
    print("VERDICT: " + ("FAILED" if wrong else "every reader did every order exactly once"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
