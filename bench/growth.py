"""Does a message cost the same however much there is? Ratios, and a plot.

    python -m bench.growth [--only depth,queues,polls,size,nodes] [--rounds 5] [--out DIR]

* `depth`: apply (a follower's enqueue, lease and ack) with 1 k … 5 M messages waiting (5 M where 8 GB are free); one
  process, no network.
* `queues`: the same over 1 … 10,000 queues, each request of 100 to another one.
* `size`: the same for bodies of 256 B … 1 MiB: per message and per KiB.
* `polls`: a cluster of three, 200 single enqueues a second into one queue while 1 … 2,000 long polls are parked on
  others: server CPU a message, and what a parked poll costs in a second.
* `nodes`: a cluster of three and of five: server CPU a message on each node, bulk requests of 500.

CPU time (process time, or utime + stime of the servers), so that a neighbour changes little; the best of the rounds.
Exit 1 if a depth costs more than 1.3 × depth 1 k.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from html import escape
from pathlib import Path

from bench.micro import NOW_MS
from bench.process import available_mb, cpu_of
from trivet.cli.local import LocalCluster, free_base_port
from trivet.client import Client, RetryPolicy
from trivet.errors import TrivetError
from trivet.machine.commands import (
    MACHINE_VERSION,
    AckLeases,
    Draft,
    Enqueue,
    Genesis,
    Lease,
    PutQueue,
    QueueConfig,
    Request,
)
from trivet.machine.replies import Leased
from trivet.node.applier import Applier
from trivet.node.garbage import Garbage
from trivet.wire.entry import encode_request, join_entry

DEPTH_RATIO_MAX = 1.3
DEPTHS = (1_000, 10_000, 100_000, 1_000_000)
DEEPEST = 5_000_000
DEEPEST_NEEDS_MB = 8_000
QUEUES = (1, 1_000, 10_000)
SIZES = (256, 4_096, 65_536, 1_048_576)
POLLS = (1, 200, 2_000)
NODES = (3, 5)
WINDOW_S = 6.0

Points = list[tuple[float, float]]
"""(how much there is, µs a message)."""


class Follower:
    """A machine behind its applier, fed with entries."""

    def __init__(self, queues: int) -> None:
        self.applier = Applier(lambda _index, _effects: None)
        self.names = [f"q{number}" for number in range(queues)]
        self.now_ms = NOW_MS
        self.spent_s = 0.0
        self.entry(Genesis("c", b"s" * 32, ("n1",)))
        for name in self.names:
            self.entry(PutQueue(name, QueueConfig()))

    def entry(self, *commands: object) -> list[object]:
        """Decode and apply, timed; the replies."""
        self.now_ms += 1
        pieces = [encode_request(Request(command)) for command in commands]  # type: ignore[arg-type]
        data = join_entry(MACHINE_VERSION, self.now_ms, pieces)
        began = time.process_time()
        self.applier.start(self.applier.applied_index + 1, 1, data)
        while not self.applier.step(lambda: False):
            pass
        self.spent_s += time.process_time() - began
        return [answer.reply for answer in self.applier.result]

    def fill(self, count: int, size: int) -> None:
        """So many messages wait, spread over all queues."""
        for done in range(0, count, 1000):
            for name in {self.names[(done // 1000) % len(self.names)]}:
                self.entry(Enqueue(name, tuple(Draft(bytes(size)) for _ in range(min(1000, count - done)))))

    def work(self, count: int, size: int, batch: int) -> float:
        """µs a message of enqueue, lease and ack in requests of `batch`, an entry for each kind."""
        garbage = Garbage()
        garbage.start()
        self.spent_s = 0.0
        places = max(1, batch // 100)
        per_queue = batch // places
        at = 0
        for _ in range(count // batch):
            names = [self.names[(at + n * 7919) % len(self.names)] for n in range(places)]
            at += places * 7919
            self.entry(
                *(Enqueue(name, tuple(Draft(bytes(size)) for _ in range(per_queue))) for name in names)
            )
            replies = self.entry(*(Lease((name,), "bench", per_queue) for name in names))
            fences: list[int] = []
            for reply in replies:
                assert isinstance(reply, Leased), reply
                fences += reply.fences
            assert len(fences) == places * per_queue, f"{len(fences)} leased of {places * per_queue}"
            self.entry(AckLeases(tuple(fences)))
            garbage.on_timer()
        garbage.stop()
        return self.spent_s / count * 1e6


def in_turns(work: dict[int, Callable[[], float]], rounds: int) -> Points:
    """The best of each, in rounds of all: what else runs on the machine meets every size."""
    found: dict[int, list[float]] = {amount: [] for amount in work}
    for _ in range(rounds):
        for amount, one in work.items():
            found[amount].append(one())
    return [(amount, min(times)) for amount, times in found.items()]


def depth(rounds: int) -> Points:
    depths: tuple[int, ...] = DEPTHS
    if available_mb() >= DEEPEST_NEEDS_MB:
        depths += (DEEPEST,)
    else:
        print(f"depth {DEEPEST:,} is left out: {DEEPEST_NEEDS_MB:,} MB are not free")
    followers = {waiting: Follower(1) for waiting in depths}
    for waiting, follower in followers.items():
        follower.fill(waiting, 256)
    return in_turns({n: partial(one.work, 20_000, 256, 1000) for n, one in followers.items()}, rounds)


def queues(rounds: int) -> Points:
    followers = {count: Follower(count) for count in QUEUES}
    return in_turns({n: partial(one.work, 20_000, 256, 100) for n, one in followers.items()}, rounds)


def size(rounds: int) -> Points:
    work: dict[int, Callable[[], float]] = {}
    for length in SIZES:
        batch = max(1, min(1000, 4_000_000 // length))
        count = max(batch * 10, min(20_000, 40_000_000 // length) // batch * batch)
        work[length] = partial(Follower(1).work, count, length, batch)
    return in_turns(work, rounds)


# --- real clusters --------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def cluster_of(nodes: int):  # type: ignore[no-untyped-def]
    """(cluster, pids, client)."""
    with tempfile.TemporaryDirectory(prefix="trivet-growth-") as directory:
        cluster = LocalCluster(Path(directory), nodes, free_base_port(nodes))
        try:
            await cluster.start()
            await cluster.wait_for_leader()
            async with Client(cluster.apis, retry=RetryPolicy(total_s=40), connections=4000) as client:
                yield cluster, [node.pid for node in cluster.nodes], client
        finally:
            await cluster.stop()


async def _spent(pids: list[int], work: Callable[[], Awaitable[int]]) -> tuple[float, int]:
    """(CPU seconds of the servers, what `work` answers)."""
    before_s = cpu_of(pids)
    count = await work()
    return cpu_of(pids) - before_s, count


async def polls(_rounds: int) -> tuple[Points, Points]:
    """µs a message with so many parked polls; µs a second of each parked poll, when nothing happens."""
    a_message: Points = []
    a_poll: Points = []
    async with cluster_of(3) as (_, pids, client):
        await client.put_queue("busy")

        async def idle() -> int:
            await asyncio.sleep(WINDOW_S)
            return 1

        async def busy() -> int:
            end_s, count = time.monotonic() + WINDOW_S, 0
            while (due_s := end_s - WINDOW_S + count / 200) < end_s:
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                await client.enqueue("busy", {"n": count})
                count += 1
            return count

        base_s, _ = await _spent(pids, idle)
        for parked in POLLS:
            names = [f"idle{number % 100}" for number in range(parked)]
            for name in dict.fromkeys(names):
                await client.put_queue(name)
            tasks = [asyncio.create_task(_poll(client, name)) for name in names]
            await asyncio.sleep(2 + parked / 500)  # all have arrived
            quiet_s, _ = await _spent(pids, idle)
            spent_s, count = await _spent(pids, busy)
            a_message.append((parked, (spent_s - quiet_s) / count * 1e6))
            a_poll.append((parked, max(0.0, quiet_s - base_s) / WINDOW_S / parked * 1e6))
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            wrong = [one for one in ended if not isinstance(one, asyncio.CancelledError)]
            assert not wrong, f"{len(wrong)} polls did not wait: {wrong[0]!r}"
    return a_message, a_poll


async def _poll(client: Client, name: str) -> None:
    while True:
        try:
            assert not await client.lease(name, "bench", wait_ms=30_000), "nobody enqueues there"
        except TrivetError as error:
            raise AssertionError(f"a poll of {name} ended: {error!r}") from error


async def nodes(_rounds: int) -> Points:
    """µs a message, all nodes together: enqueue, lease and ack in requests of 500."""
    found: Points = []
    for count in NODES:
        async with cluster_of(count) as (_, pids, client):
            await client.put_queue("bench")

            async def work(client: Client = client) -> int:
                done, end_s = 0, time.monotonic() + WINDOW_S
                while time.monotonic() < end_s:
                    await client.enqueue_many("bench", [{"body": bytes(256)} for _ in range(500)])
                    leases = await client.lease("bench", "bench", max_messages=500)
                    await client.ack_many(leases)
                    done += len(leases)
                return done

            spent_s, done = await _spent(pids, work)
            found.append((count, spent_s / done * 1e6))
    return found


# --- telling --------------------------------------------------------------------------------------------


def plot(found: dict[str, Points], path: Path) -> None:
    """A panel of bars for each question, on its own scale: an SVG without anything from elsewhere."""
    rows, y = [], 20
    for title, points in found.items():
        most = max(value for _, value in points) or 1
        rows.append(f'<text x="10" y="{y}" font-weight="bold">{escape(title)}</text>')
        y += 8
        for amount, value in points:
            width = value / most * 380
            rows.append(
                f'<text x="10" y="{y + 14}">{amount:,.0f}</text>'
                f'<rect x="110" y="{y}" width="{width:.0f}" height="18" fill="#0b6e4f"/>'
                f'<text x="{116 + width:.0f}" y="{y + 14}">{value:,.2f} µs · × {value / (points[0][1] or 1):.2f}</text>'
            )
            y += 24
        y += 24
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {y}" font-family="sans-serif" font-size="13">'
        f'<rect width="720" height="{y}" fill="#fff"/>{"".join(rows)}</svg>'
    )


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m bench.growth")
    options.add_argument("--only", default="depth,queues,size,polls,nodes")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--out", type=Path, help="keep growth.json and growth.svg there")
    given = options.parse_args()
    found: dict[str, Points] = {}
    for name in given.only.split(","):
        if name == "depth":
            found["apply, by depth"] = depth(given.rounds)
        elif name == "queues":
            found["apply, by queues (requests of 100)"] = queues(given.rounds)
        elif name == "size":
            points = size(given.rounds)
            found["apply, by bytes of a body"] = points
            found["apply, a KiB of body"] = [(length, us / length * 1024) for length, us in points]
        elif name == "polls":
            messages, parked = asyncio.run(polls(given.rounds))
            found["three servers, a single enqueue, by parked polls"] = messages
            found["three servers, a second of a parked poll"] = parked
        elif name == "nodes":
            points = asyncio.run(nodes(given.rounds))
            found["all servers, by nodes (requests of 500)"] = points
            found["each server, by nodes"] = [(count, us / count) for count, us in points]
        else:
            options.error(f"no such question: {name}")
    for title, points in found.items():
        print(title)
        for amount, us in points:
            print(f"  {amount:>12,.0f} {us:>12,.2f} µs   × {us / (points[0][1] or 1):.2f}")
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "growth.json").write_text(json.dumps(found, indent=1))
        plot(found, given.out / "growth.svg")
    deep = found.get("apply, by depth")
    return 1 if deep and max(us for _, us in deep) > DEPTH_RATIO_MAX * deep[0][1] else 0


if __name__ == "__main__":
    sys.exit(main())
