"""Orders that are paid and shipped, or undone: a saga of six steps on a real cluster whose leader is killed.

    python examples/payment_saga/main.py [--orders 28] [--nodes 3] [--kills 3]

Each order is a flow. The parts of the outside world are rows of an SQLite table, written under an effect. Of seven
orders one passes; each of the others fails at another step. In the end the table must show, for every order, its steps
in order up to the one that failed, and then the same steps undone in the reverse order, each exactly once. Exit code 0
if it does.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from trivet.cli.local import LocalCluster, free_base_port
from trivet.client import Client, Happened, Lease, Reject, RetryPolicy, Worker

STEPS = ("reserve", "authorise", "check_fraud", "capture", "book_courier", "send_receipt")
AMOUNT = 5
PATIENT = RetryPolicy(total_s=45)
WAIT_S = 120.0


class World:
    """What happened outside, in the order in which it happened. It has no unique key on purpose: what is done twice is
    there twice."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path)
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("CREATE TABLE facts (effect TEXT, receipt TEXT)")

    def do(self, effect: str, receipt: str) -> None:
        with self._database:
            self._database.execute("INSERT INTO facts VALUES (?, ?)", (effect, receipt))

    def receipt(self, effect: str) -> str | None:
        row = self._database.execute("SELECT receipt FROM facts WHERE effect = ?", (effect,)).fetchone()
        return None if row is None else str(row[0])

    def facts(self) -> list[tuple[str, str]]:
        return list(self._database.execute("SELECT effect, receipt FROM facts ORDER BY rowid"))


class Shop:
    """The workers: one handler for all steps, one for all compensations."""

    def __init__(self, client: Client, world: World) -> None:
        self._client = client
        self._world = world

    async def work(self, lease: Lease) -> dict[str, str]:
        order, step = lease.body["order"], lease.data["step_id"]
        if lease.body["fails"]:
            raise Reject(f"{step} of order {order} is impossible")
        return await self._once(lease, f"{order}:{step}", f"{step}-{order}")

    async def undo(self, lease: Lease) -> dict[str, str]:
        """It is told what its step gave back: that is what must be undone."""
        step = lease.data["step_id"]
        return await self._once(lease, f"{lease.body['order']}:undo {step}", lease.parents[step]["receipt"])

    async def _once(self, lease: Lease, effect_id: str, receipt: str) -> dict[str, str]:
        async def look(effect_id: str) -> Happened | None:
            found = self._world.receipt(effect_id)
            return None if found is None else Happened({"receipt": found})

        async with self._client.effect(effect_id, lease=lease, with_ack=True, reconcile=look) as effect:
            if not effect.done:
                self._world.do(effect_id, receipt)
                effect.result = {"receipt": receipt}
        return {"receipt": receipt}


def fails_at(order: int) -> int:
    """The position of the step that fails; none for every seventh order."""
    return order % (len(STEPS) + 1)


async def place(client: Client, order: int) -> str:
    flow = client.flow(run_id=f"order-{order}")
    before: list[str] = []
    for at, step in enumerate(STEPS):
        body = {"order": order, "fails": at == fails_at(order)}
        undo = {"queue": "undo", "body": {"order": order}}
        before = [flow.step(step, "orders", body, after=before, compensate=undo)]
    return str((await flow.create())["id"])


async def disturb(cluster: LocalCluster, kills: int) -> int:
    """Kill the leader, wait for another one, start it again; answers how often that was done."""
    for _ in range(kills):
        await asyncio.sleep(0.4)
        await cluster.bounce_leader()
    return kills


def judge(orders: int, states: dict[int, str], facts: list[tuple[str, str]]) -> list[str]:
    """What is wrong, in words."""
    wrong = []
    for order in range(orders):
        done = STEPS[: fails_at(order)]
        passed = len(done) == len(STEPS)
        undone = [] if passed else [f"undo {step}" for step in reversed(done)]
        wanted = [f"{order}:{what}" for what in (*done, *undone)]
        found = [effect for effect, _ in facts if effect.startswith(f"{order}:")]
        if found != wanted:
            wrong.append(f"order {order}: {found}, not {wanted}")
        state = "done" if passed else "compensated" if done else "failed"
        if states.get(order) != state:
            wrong.append(f"order {order} is {states.get(order)}, not {state}")
        for effect, receipt in facts:
            if effect.startswith(f"{order}:") and not receipt.endswith(f"-{order}"):
                wrong.append(f"{effect} was done with {receipt}")
    captured = sum(AMOUNT for effect, _ in facts if effect.endswith(":capture"))
    given_back = sum(AMOUNT for effect, _ in facts if effect.endswith(":undo capture"))
    sold = sum(AMOUNT for order in range(orders) if fails_at(order) == len(STEPS))
    if captured - given_back != sold:
        wrong.append(f"{captured} captured, {given_back} given back, {sold} sold")
    return wrong


async def run(orders: int, nodes: int, kills: int, directory: Path) -> int:
    cluster = LocalCluster(directory, nodes, free_base_port(nodes))
    world = World(directory / "world.db")
    await cluster.start()
    try:
        await cluster.wait_for_leader()
        async with Client(cluster.apis, retry=PATIENT) as client:
            for queue in ("orders", "undo"):
                await client.put_queue(queue, max_attempts=20, backoff={"type": "fixed", "base_ms": 100})
            shop = Shop(client, world)
            handlers: list[tuple[str, Callable[[Lease], Awaitable[Any]]]] = [
                ("orders", shop.work),
                ("undo", shop.undo),
            ]
            workers = [Worker(client, queue, handler, wait_ms=2000) for queue, handler in handlers]
            async with asyncio.TaskGroup() as tasks:
                for worker in workers:
                    tasks.create_task(worker.run())
                try:
                    struck, states = await watched(cluster, client, orders, kills)
                finally:
                    for worker in workers:
                        await worker.stop(grace_s=5)
            unknown = client.stats.unknown_attempts
    finally:
        await cluster.stop()
    wrong = judge(orders, states, world.facts())
    if struck < kills:
        wrong.append(f"the leader was killed {struck} times, not {kills}")
    facts = len(world.facts())
    print(
        f"{orders} orders, {facts} facts, leader killed {struck} times, {unknown} requests without an answer"
    )
    for one in wrong[:20]:
        print(f"  {one}")
    print("VERDICT: " + ("FAILED" if wrong else "every order is whole, or undone in reverse order, once"))
    return 1 if wrong else 0


async def watched(
    cluster: LocalCluster, client: Client, orders: int, kills: int
) -> tuple[int, dict[int, str]]:
    """Place the orders while the leader is killed again and again; wait for their ends."""
    placed: dict[int, str] = {}
    chaos = asyncio.create_task(disturb(cluster, kills))
    for order in range(orders):
        placed[order] = await place(client, order)
    struck = await chaos
    until = time.monotonic() + WAIT_S
    states = {}
    for order, flow_id in placed.items():
        flow = await client.wait_flow(flow_id, timeout_s=max(0.0, until - time.monotonic()))
        states[order] = str(flow["state"])
    return struck, states


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--orders", type=int, default=28)
    parser.add_argument("--nodes", type=int, choices=(1, 3, 5), default=3)
    parser.add_argument("--kills", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trivet-saga-") as directory:
        return asyncio.run(run(options.orders, options.nodes, options.kills, Path(directory)))


if __name__ == "__main__":
    sys.exit(main())
