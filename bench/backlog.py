"""A backlog in one queue: memory, disk, the loop while a snapshot is taken, and the way back after a restart.

    python -m bench.backlog [--messages 1000000] [--size 256] [--nodes 3] [--out FILE.json]

Bulk enqueues of 1,000, two under way; nothing is consumed. Then, in this order: a snapshot on all nodes at once,
one on each alone, one node killed (SIGKILL) and started, all nodes killed and started, each until `/readyz` says yes,
and the depth is counted again: nothing may be missing. The loop's hold is told twice: by each node's own histogram (a
turn's wall time, so a neighbour on the core counts) and from outside, as the slowest answers to a GET of `/livez` every 10 ms (connection,
scheduling and HTTP included). Exit 1 if a line of issue 4 is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from bench.process import cpu_s, disk_mb, rss_mb
from trivet.cli.local import LocalCluster, LocalNode, free_base_port
from trivet.client import Client, RetryPolicy

QUEUE = "backlog"
BATCH = 1000
BEAT_S = 0.01
SETTLE_S = 8.0
RSS_MB_MAX = 900
RESTART_S_MAX = 20
HOLD_MS_MAX = (10, 20)  # p99.9 and the very most (R9)
BUCKETS_MS = (5.0, 10.0, 20.0, 50.0)


@dataclass
class Hold:
    """Meanwhile. `over`: turns that held the loop for longer than so many ms of wall time, by the node. `ran_s`,
    `waited_s`: the main thread had a core, or was ready and had none: what others on the machine did to it."""

    turns: int
    over: dict[str, int]
    ran_s: float
    waited_s: float
    beat_p50_ms: float
    beat_p999_ms: float
    beat_max_ms: float


@dataclass
class Found:
    messages: int
    size: int
    load: float  # of the machine, one minute, at the end
    idle_rss_mb: dict[str, float] = field(default_factory=dict)
    rss_mb: dict[str, float] = field(default_factory=dict)  # right after the fill
    settled_rss_mb: dict[str, float] = field(default_factory=dict)
    snapshot_rss_mb: dict[str, float] = field(default_factory=dict)
    restarted_rss_mb: dict[str, float] = field(default_factory=dict)
    disk_mb: dict[str, float] = field(default_factory=dict)
    fill_per_second: float = 0
    fill: dict[str, Hold] = field(default_factory=dict)
    snapshot_s: float = 0
    snapshot: dict[str, Hold] = field(default_factory=dict)  # of all nodes at once
    snapshot_alone: dict[str, Hold] = field(default_factory=dict)  # of one node after the other
    restart_one_s: float = 0
    restart_all_s: float = 0
    restart_all_write_s: float = 0  # until the first enqueue after it is acknowledged
    restart_cpu_s: dict[str, float] = field(default_factory=dict)  # of each node by then


class Watch:
    """Heartbeats of one node, and its own counts of turns, from `begin` to `end`."""

    def __init__(self, node: LocalNode, http: aiohttp.ClientSession) -> None:
        self._node, self._http = node, http
        self._beats_ms: list[float] = []
        self._task: asyncio.Task[None] | None = None
        self._before: dict[str, float] = {}
        self._scheduled = (0.0, 0.0)

    def _schedule(self) -> tuple[float, float]:
        """(ran, ready without a core) seconds of the main thread."""
        ran_ns, waited_ns, _ = Path(f"/proc/{self._node.pid}/schedstat").read_text().split()
        return int(ran_ns) / 1e9, int(waited_ns) / 1e9

    async def begin(self) -> None:
        self._before, self._scheduled = await self.counters(), self._schedule()
        self._task = asyncio.create_task(self._beat())

    async def end(self) -> Hold:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        after = await self.counters()
        turns = after["count"] - self._before["count"]
        over = {
            f"{at:g}": round(turns - (after[f"{at:g}"] - self._before[f"{at:g}"]))
            for at in BUCKETS_MS
            if f"{at:g}" in after
        }
        beats = sorted(self._beats_ms)
        ran_s, waited_s = (
            now - before for now, before in zip(self._schedule(), self._scheduled, strict=True)
        )
        return Hold(
            round(turns),
            over,
            round(ran_s, 3),
            round(waited_s, 3),
            beats[len(beats) // 2],
            beats[min(len(beats) - 1, int(len(beats) * 0.999))],
            beats[-1],
        )

    async def counters(self) -> dict[str, float]:
        """Turns up to each limit in ms, and all of them."""
        async with self._http.get(self._node.api + "/metrics") as answer:
            text = await answer.text()
        found = {"count": 0.0}
        for name, limit, value in re.findall(
            r'^trivet_loop_held_seconds_(bucket|count)(?:\{le="([^"]+)"\})? (\S+)$', text, re.M
        ):
            if name == "count":
                found["count"] = float(value)
            elif limit != "+Inf":
                found[f"{float(limit) * 1000:g}"] = float(value)
        return found

    async def _beat(self) -> None:
        due_s = time.monotonic()
        while True:
            began_s = time.monotonic()
            async with self._http.get(self._node.api + "/livez") as answer:
                await answer.read()
            now_s = time.monotonic()
            self._beats_ms.append((now_s - began_s) * 1000)
            due_s = max(due_s + BEAT_S, now_s)
            await asyncio.sleep(due_s - now_s)


async def fill(cluster: LocalCluster, found: Found) -> float:
    """Messages a second."""
    left = found.messages // BATCH
    body = bytes(found.size)

    async with Client(cluster.apis, retry=RetryPolicy(total_s=40)) as client:
        await client.put_queue(QUEUE)

        async def write() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await client.enqueue_many(QUEUE, [{"body": body} for _ in range(BATCH)])

        began_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(write())
        return found.messages / (time.monotonic() - began_s)


async def watched(cluster: LocalCluster, http: aiohttp.ClientSession, work: Any) -> dict[str, Hold]:
    """Each node's loop while `work` runs."""
    watches = {node.id: Watch(node, http) for node in cluster.nodes}
    for watch in watches.values():
        await watch.begin()
    await work
    return {name: await watch.end() for name, watch in watches.items()}


async def snapshots(cluster: LocalCluster, http: aiohttp.ClientSession, nodes: list[LocalNode]) -> None:
    """One on each, all at the same time. One that is under way counts, and another is not begun beside it: call it
    once before the one that is measured."""

    async def taken(node: LocalNode) -> int:
        async with http.get(node.api + "/metrics") as answer:
            match = re.search(r"^trivet_snapshots_total (\S+)$", await answer.text(), re.M)
        assert match is not None
        return int(float(match[1]))

    async with Client(cluster.apis, retry=RetryPolicy(total_s=40)) as client:
        await client.put_queue("news")  # an entry: a snapshot of nothing new is not taken
    left = {node.id: (node, await taken(node)) for node in nodes}
    async with asyncio.timeout(120):
        while left:
            for node, before in list(left.values()):
                if await taken(node) > before:
                    del left[node.id]
                    continue
                # Nothing is begun while one runs.
                async with http.post(node.api + "/v1/cluster/snapshot") as answer:
                    assert answer.status == 202, await answer.text()
            await asyncio.sleep(0.25)


def resident(cluster: LocalCluster) -> dict[str, float]:
    return {node.id: round(rss_mb(node.pid), 1) for node in cluster.nodes if node.pid is not None}


async def depth(cluster: LocalCluster) -> int:
    async with Client(cluster.apis, retry=RetryPolicy(total_s=40)) as client:
        return int((await client.queue(QUEUE))["ready"])


async def measure(directory: Path, messages: int, size: int, nodes: int) -> Found:
    cluster = LocalCluster(directory, nodes, free_base_port(nodes))
    found = Found(messages, size, 0)
    try:
        await cluster.start()
        await cluster.wait_for_leader()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:
            found.idle_rss_mb = resident(cluster)
            task = asyncio.create_task(fill(cluster, found))
            found.fill = await watched(cluster, http, task)
            found.fill_per_second = round(task.result())
            found.rss_mb = resident(cluster)
            print(f"filled at {found.fill_per_second:,.0f}/s; RSS {found.rss_mb}", flush=True)
            await asyncio.sleep(SETTLE_S)
            found.settled_rss_mb = resident(cluster)
            await snapshots(cluster, http, cluster.nodes)
            began_s = time.monotonic()
            found.snapshot = await watched(cluster, http, snapshots(cluster, http, cluster.nodes))
            found.snapshot_s = round(time.monotonic() - began_s, 2)
            found.snapshot_rss_mb = resident(cluster)
            for node in cluster.nodes:
                holds = await watched(cluster, http, snapshots(cluster, http, [node]))
                found.snapshot_alone[node.id] = holds[node.id]
        found.disk_mb = {node.id: round(disk_mb(node.data_dir)) for node in cluster.nodes}
        print(f"snapshots in {found.snapshot_s} s; RSS {found.snapshot_rss_mb}", flush=True)
        leader = await cluster.wait_for_leader()
        follower = next(node for node in cluster.nodes if node.id != leader)
        found.restart_one_s = await restart(cluster, [follower])
        print(f"one node back in {found.restart_one_s} s", flush=True)
        began_s = time.monotonic()
        found.restart_all_s = await restart(cluster, cluster.nodes)
        async with Client(cluster.apis, retry=RetryPolicy(total_s=40)) as client:
            await client.enqueue("after", {"n": 1})
        found.restart_all_write_s = round(time.monotonic() - began_s, 2)
        found.restart_cpu_s = {
            node.id: round(cpu_s(node.pid), 1) for node in cluster.nodes if node.pid is not None
        }
        there = await depth(cluster)
        assert there == messages // BATCH * BATCH, f"{there} of {messages} messages are there"
        found.restarted_rss_mb = resident(cluster)
        found.load = os.getloadavg()[0]
    finally:
        await cluster.stop()
    return found


async def restart(cluster: LocalCluster, nodes: list[LocalNode]) -> float:
    """SIGKILL to all of them, then seconds from the start of the first process until all are ready."""
    for node in nodes:
        await cluster.kill(node)
    began_s = time.monotonic()
    for node in nodes:
        await cluster.start_node(node)
    await asyncio.gather(*(cluster.wait_ready(node, 180) for node in nodes))
    return round(time.monotonic() - began_s, 2)


def lines(found: Found) -> list[tuple[str, str, bool]]:
    """What, measured, reached."""
    rss = max(*found.rss_mb.values(), *found.settled_rss_mb.values(), *found.snapshot_rss_mb.values())
    rss = max(rss, *found.restarted_rss_mb.values())
    per_message = (rss - max(found.idle_rss_mb.values())) * 1024 * 1024 / found.messages
    return [
        (
            f"RSS per node ≤ {RSS_MB_MAX} MB",
            f"{rss:.0f} MB, {per_message:.0f} B a message",
            rss <= RSS_MB_MAX,
        ),
        (
            f"restart of one ≤ {RESTART_S_MAX} s",
            f"{found.restart_one_s} s",
            found.restart_one_s <= RESTART_S_MAX,
        ),
        (
            f"restart of all ≤ {RESTART_S_MAX} s",
            f"{found.restart_all_s} s (first write {found.restart_all_write_s} s, CPU s"
            f" {list(found.restart_cpu_s.values())})",
            found.restart_all_write_s <= RESTART_S_MAX,
        ),
        held("one node's snapshot", list(found.snapshot_alone.values())),
        held("all nodes' at once", list(found.snapshot.values())),
    ]


def held(when: str, holds: list[Hold]) -> tuple[str, str, bool]:
    turns = sum(hold.turns for hold in holds)
    long = sum(hold.over["10"] for hold in holds)
    longest = sum(hold.over["20"] for hold in holds)
    beats = " ".join(f"{hold.beat_p999_ms:.0f}/{hold.beat_max_ms:.0f}" for hold in holds)
    waits = " ".join(f"{hold.waited_s / (hold.waited_s + hold.ran_s):.0%}" for hold in holds)
    usual, most = HOLD_MS_MAX
    return (
        f"loop hold in {when}: p99.9 ≤ {usual} ms, all ≤ {most}",
        f"{long} of {turns} turns above {usual}, {longest} above {most}; /livez p99.9/max ms {beats}; ready without a"
        f" core for {waits}",
        long <= turns / 1000 and not longest,
    )


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m bench.backlog")
    options.add_argument("--messages", type=int, default=1_000_000)
    options.add_argument("--size", type=int, default=256, help="bytes of a body")
    options.add_argument("--nodes", type=int, default=3, choices=(1, 3, 5))
    options.add_argument("--out", type=Path, help="keep the figures there, as JSON")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="trivet-backlog-") as directory:
        found = asyncio.run(measure(Path(directory), given.messages, given.size, given.nodes))
    print(f"{found.messages:,} × {found.size} B, {given.nodes} nodes, load average {found.load:.1f}")
    print(f"  fill {found.fill_per_second:,.0f}/s, disk of each node {list(found.disk_mb.values())} MB")
    print(
        f"  RSS MB: idle {list(found.idle_rss_mb.values())}, filled {list(found.rss_mb.values())}, after"
        f" {SETTLE_S:g} s {list(found.settled_rss_mb.values())}, after a snapshot"
        f" {list(found.snapshot_rss_mb.values())}, after the restart {list(found.restarted_rss_mb.values())}"
    )
    for what, measured, reached in lines(found):
        print(f"  {'ok  ' if reached else 'MISS'} {what}: {measured}")
    if given.out:
        given.out.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    return 0 if all(reached for _, _, reached in lines(found)) else 1


if __name__ == "__main__":
    sys.exit(main())
