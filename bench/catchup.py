"""How long a node that was away takes to be one of the others again, against how much there is.

    python -m bench.catchup [--sizes 100000,300000,1000000] [--out FILE.json]

Three nodes, 256 B bodies, nothing consumed. For each size one follower is killed, the others take the backlog and
forget the log that it would need, and it comes back:

* `install`: it is sent a snapshot and builds a machine of it, until it has applied what the leader had committed;
* `restart`: killed again and started at once, with its snapshot on disk;
* `log`: killed, a tenth of the backlog more is enqueued, started: the difference to `restart` is entries.

In the install the leader goes on serving: one write every 20 ms, and the turns of both loops (R9). Exit 1 if a turn
held a loop for more than 20 ms, or it came back without a snapshot.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import msgspec

from bench.backlog import QUEUE, Found, Hold, Watch, fill, snapshots
from trivet.cli.local import LocalCluster, LocalNode, free_base_port
from trivet.client import Client, RetryPolicy
from trivet.units import MIB

SIZES = "100000,300000,1000000"
BODY_BYTES = 256
WRITE_EVERY_S = 0.02
READY_S = 180.0
SMALL_SEGMENTS = {"TRIVET__STORAGE__SEGMENT_BYTES": str(4 * MIB)}  # a log is forgotten by whole segments
INSTALLED = '"snapshot_installed"'


@dataclass
class Figure:
    messages: int
    restart_s: float
    install_s: float
    log_s: float  # a tenth of `messages` behind
    leader: Hold  # during the install
    installing: Hold  # since it answers
    write_p50_ms: float
    write_max_ms: float
    load: float


class Writer:
    """One small message at a time, to another queue; how long each took."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._took_ms: list[float] = []
        self._task = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while True:
            began_s = time.monotonic()
            await self._client.enqueue("meanwhile", {"at": began_s})
            self._took_ms.append((time.monotonic() - began_s) * 1000)
            await asyncio.sleep(WRITE_EVERY_S)

    async def end(self) -> list[float]:
        """Milliseconds, ascending."""
        self._task.cancel()
        (ended,) = await asyncio.gather(self._task, return_exceptions=True)
        if not isinstance(ended, asyncio.CancelledError):
            raise RuntimeError(f"a write failed: {ended!r}")
        return sorted(self._took_ms)


async def install(
    cluster: LocalCluster, away: LocalNode, http: aiohttp.ClientSession, client: Client
) -> tuple[float, Hold, Hold, list[float]]:
    """Seconds until it is ready, the turns of the leader and of it, the writes meanwhile."""
    leader = Watch(cluster.node(await cluster.wait_for_leader()), http)
    installing = Watch(away, http)
    writer = Writer(client)
    before = installs(away)
    await leader.begin()
    seconds = await back(cluster, away, http, installing.begin)
    if installs(away) == before:
        raise RuntimeError(f"{away.id} came back without a snapshot")
    return seconds, await leader.end(), await installing.end(), await writer.end()


async def nothing() -> None:
    """Nobody watches."""


async def back(
    cluster: LocalCluster,
    away: LocalNode,
    http: aiohttp.ClientSession,
    answers: Callable[[], Awaitable[None]] = nothing,
) -> float:
    """Seconds from its start until it is level. `answers` runs as soon as it does."""
    leader = cluster.node(await cluster.wait_for_leader())
    began_s = time.monotonic()
    await cluster.start_node(away)
    await _answers(away, http)
    await answers()
    await _level(away, leader, http)
    return time.monotonic() - began_s


def installs(node: LocalNode) -> int:
    return node.log.read_text().count(INSTALLED)


async def _answers(node: LocalNode, http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(READY_S):
        while True:
            try:
                async with http.get(node.api + "/livez"):
                    return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.02)  # it does not listen yet


async def _level(away: LocalNode, leader: LocalNode, http: aiohttp.ClientSession) -> None:
    """Until it has applied what the leader has committed by now."""

    async def told(node: LocalNode, what: str) -> int:
        async with http.get(node.api + "/readyz?verbose") as answer:
            return int((await answer.json())[what])

    committed = await told(leader, "commit_index")
    async with asyncio.timeout(READY_S):
        while await told(away, "applied_index") < committed:  # noqa: ASYNC110 - the node tells nobody
            await asyncio.sleep(0.02)


async def measure(directory: Path, messages: int) -> Figure:
    cluster = LocalCluster(directory, 3, free_base_port(3), environment=SMALL_SEGMENTS)
    try:
        await cluster.start()
        leader = await cluster.wait_for_leader()
        away = next(node for node in cluster.nodes if node.id != leader)
        here = [node for node in cluster.nodes if node is not away]
        backlog = Found(messages, BODY_BYTES, 0)
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http,
            Client(cluster.apis, retry=RetryPolicy(total_s=40)) as client,
        ):
            await client.put_queue("meanwhile")
            await cluster.kill(away)
            await fill(cluster, backlog)
            for _ in range(2):  # the log since the older of two snapshots stays (R7)
                await snapshots(cluster, http, here)
            install_s, leading, installing, took_ms = await install(cluster, away, http, client)
            await cluster.kill(away)
            restart_s = await back(cluster, away, http)
            await cluster.kill(away)
            await fill(cluster, replace(backlog, messages=messages // 10))
            installed = installs(away)
            log_s = await back(cluster, away, http)
            assert installs(away) == installed, "that was no log, but a snapshot"
            there = int((await client.queue(QUEUE))["ready"])
            assert there == messages // 1000 * 1000 + messages // 10 // 1000 * 1000, there
    finally:
        await cluster.stop()
    load = float(Path("/proc/loadavg").read_text().split()[0])
    return Figure(
        messages, round(restart_s, 2), round(install_s, 2), round(log_s, 2), leading, installing,
        round(took_ms[len(took_ms) // 2], 2), round(took_ms[-1], 2), load,
    )  # fmt: skip


def told(figure: Figure) -> str:
    def turns(hold: Hold) -> str:
        return f"{hold.over['10']} of {hold.turns} turns above 10 ms, {hold.over['20']} above 20"

    return (
        f"{figure.messages:>10,}  restart {figure.restart_s:6.2f} s   install {figure.install_s:6.2f} s   "
        f"{figure.messages // 10:,} behind in the log {figure.log_s:6.2f} s   load {figure.load}\n"
        f"            meanwhile: leader {turns(figure.leader)}; installing {turns(figure.installing)}; "
        f"writes p50 {figure.write_p50_ms} ms, longest {figure.write_max_ms} ms"
    )


async def all_sizes(sizes: list[int]) -> list[Figure]:
    figures = []
    for messages in sizes:
        with tempfile.TemporaryDirectory(prefix="trivet-catchup-") as directory:
            figures.append(await measure(Path(directory), messages))
            print(told(figures[-1]), flush=True)
    return figures


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m bench.catchup")
    options.add_argument("--sizes", default=SIZES, help="messages waiting, several with commas")
    options.add_argument("--out", type=Path, help="keep the figures there, as JSON")
    given = options.parse_args()
    figures = asyncio.run(all_sizes([int(size) for size in given.sizes.split(",")]))
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_bytes(msgspec.json.encode(figures))
    held = [hold.over["20"] for one in figures for hold in (one.leader, one.installing)]
    return 1 if any(held) else 0


if __name__ == "__main__":
    sys.exit(main())
