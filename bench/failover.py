"""kill -9 of the leader → next acknowledged write through the SDK.

    python -m bench.failover [--kills 20] [--nodes 3] [--json]

A writer enqueues one message at a time through one `Client`, as fast as answers come. The leader is
killed with SIGKILL; measured is the time from the signal to the answer of the first write that was *begun*
after it, which the new leader has acknowledged. The killed node is started again and caught up before the
next kill. Real processes, sockets and fsync. Exit 1 if the median is 0.5 s or the worst 1.5 s or more.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec

from trivet.cli.local import LocalCluster, free_base_port
from trivet.client import Client, RetryPolicy

MEDIAN_S_MAX = 0.5
WORST_S_MAX = 1.5


@dataclass
class Kill:
    number: int
    node: str
    at_ms: int  # Unix milliseconds, to find it in the nodes' logs
    write_s: float  # kill → answer of the first write begun after it
    silence_s: float  # longest pause between two acknowledged writes around the kill
    attempts: int  # attempts all writers made in that time


class Writer:
    """Writes all the time and notes when each write began and was acknowledged."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.writes: list[tuple[float, float]] = []
        self._news = asyncio.Condition()

    async def run(self) -> None:
        while True:
            began_s = time.monotonic()
            await self.client.enqueue("failover", {"n": len(self.writes)})
            async with self._news:
                self.writes.append((began_s, time.monotonic()))
                self._news.notify_all()
            await asyncio.sleep(0.002)

    async def first_begun_after(self, at_s: float) -> float:
        """When it was acknowledged."""
        async with self._news:
            await self._news.wait_for(lambda: bool(self.writes) and self.writes[-1][0] > at_s)
            return next(done_s for began_s, done_s in self.writes if began_s > at_s)


async def measure(directory: Path, nodes: int, kills: int, quiet: bool) -> list[Kill]:
    cluster = LocalCluster(directory, nodes, free_base_port(nodes))
    found: list[Kill] = []
    try:
        await cluster.start()
        await cluster.wait_for_leader()
        async with Client(cluster.apis, retry=RetryPolicy(total_s=40)) as client:
            writer = Writer(client)
            writing = asyncio.create_task(writer.run())
            for number in range(1, kills + 1):
                await writer.first_begun_after(time.monotonic())
                kill = await one(cluster, writer, number)
                found.append(kill)
                if not quiet:
                    print(
                        f"kill {number:2}: {kill.node}  write {kill.write_s:.3f} s  silence {kill.silence_s:.3f} s"
                        f"  attempts {kill.attempts}",
                        flush=True,
                    )
            writing.cancel()
    finally:
        await cluster.stop()
    return found


async def one(cluster: LocalCluster, writer: Writer, number: int) -> Kill:
    leader = cluster.node(await cluster.wait_for_leader())
    attempts = writer.client.stats.attempts
    at_ms = time.time_ns() // 1_000_000
    killed_s = time.monotonic()
    await cluster.kill(leader)
    async with asyncio.timeout(30):
        done_s = await writer.first_begun_after(killed_s)
    ends = [end_s for _, end_s in writer.writes if end_s > killed_s - 1]
    silence_s = max(after - before for before, after in pairwise(ends))
    kill = Kill(
        number, leader.id, at_ms, done_s - killed_s, silence_s, writer.client.stats.attempts - attempts
    )
    await cluster.start_node(leader)
    await cluster.wait_ready(leader)
    return kill


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m bench.failover")
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--nodes", type=int, default=3, choices=(3, 5))
    options.add_argument("--json", action="store_true")
    options.add_argument("--data", type=Path, help="keep data and logs there; default: a temporary directory")
    given = options.parse_args()
    with contextlib.ExitStack() as stack:
        directory = given.data or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="trivet-failover-"))
        )
        kills = asyncio.run(measure(directory, given.nodes, given.kills, given.json))
    writes = sorted(kill.write_s for kill in kills)
    median_s, worst_s = statistics.median(writes), writes[-1]
    if given.json:
        print(msgspec.json.encode({"median_s": median_s, "worst_s": worst_s, "kills": kills}).decode())
    else:
        print(
            f"{len(kills)} kills of {given.nodes} nodes: median {median_s:.3f} s, worst {worst_s:.3f} s, "
            f"longest silence {max(kill.silence_s for kill in kills):.3f} s"
        )
    return 0 if median_s < MEDIAN_S_MAX and worst_s < WORST_S_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
