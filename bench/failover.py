"""A fault at the leader → next acknowledged write through the SDK; the same kill at NATS and RabbitMQ.

    python -m bench.failover [--fault kill|pause|link_down|transfer] [--runs 20] [--nodes 3] [--json]
    python -m bench.failover --broker nats-always|rabbit [--runs 5]     # kill only

`kill` is SIGKILL, `pause` SIGSTOP, `link_down` drops every packet to and from the leader's address (a firewall rule:
no reset tells anybody), `transfer` a hand-over asked for by the API while four writers run. Otherwise one writer
enqueues one message at a time, as fast as answers come. Measured is the time from the fault to the answer of the
first write that was *begun* after it (so a write that hung in the fault is waited for first), and the longest
silence between two acknowledged writes around it. The fault is healed, and all nodes are ready, before the next.
Real processes, sockets and fsync. Exit 1 if a limit of issue 4 is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec
from chaos.cluster import DrillCluster
from chaos.ground.tools import Unavailable as NoGround

from bench.brokers import BROKERS, Unavailable
from bench.probes import PROBES, Probe
from trivet.cli.local import LocalCluster, LocalNode, free_base_port
from trivet.client import Client, RetryPolicy
from trivet.client.retry import Verdict
from trivet.client.session import Attempt
from trivet.errors import TrivetError

QUEUE = "failover"
SLOW_S = 0.1


class Limit(NamedTuple):
    """Seconds. `silence`: the limit is for the longest silence and not for the next write."""

    median_s: float
    worst_s: float
    silence: bool = False


LIMITS = {
    "kill": Limit(0.25, 0.6),
    "pause": Limit(1.5, 1.5),
    "link_down": Limit(1.5, 1.5),
    "transfer": Limit(0.15, 0.15, silence=True),
}


@dataclass
class Run:
    number: int
    node: str
    at_ms: int  # Unix milliseconds, to find it in the nodes' logs
    write_s: float  # fault → answer of the first write begun after it
    silence_s: float  # longest pause between two acknowledged writes around it
    attempts: int  # attempts all writers made in that time
    failed: int  # writes that were not acknowledged, however often tried


class Writer:
    """Writes all the time and notes when each write began and was acknowledged."""

    def __init__(self, probe: Probe, count: int) -> None:
        self.probe = probe
        self.writes: list[tuple[float, float]] = []
        self.failed = 0
        self._news = asyncio.Condition()
        self._count = count

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._count):
                group.create_task(self._one())

    async def _one(self) -> None:
        while True:
            began_s = time.monotonic()
            if not await self.probe.write(len(self.writes)):
                self.failed += 1
                continue
            async with self._news:
                self.writes.append((began_s, time.monotonic()))
                self._news.notify_all()
            await asyncio.sleep(0.002)

    async def first_begun_after(self, at_s: float) -> float:
        """When it was acknowledged."""
        async with self._news:
            await self._news.wait_for(lambda: bool(self.writes) and self.writes[-1][0] > at_s)
            return next(done_s for began_s, done_s in self.writes if began_s > at_s)

    def silence_s(self, since_s: float) -> float:
        """The longest between two acknowledged writes from a second before `since_s` on."""
        ends = [end_s for _, end_s in self.writes if end_s > since_s - 1]
        return max(after - before for before, after in pairwise(ends))


class SdkProbe:
    """`Client.enqueue`."""

    def __init__(self, apis: list[str]) -> None:
        self._client = Client(apis, retry=RetryPolicy(total_s=40), on_attempt=self._note)
        self._slow: list[Attempt] = []

    @property
    def attempts(self) -> int:
        return self._client.stats.attempts

    def _note(self, attempt: Attempt) -> None:
        if attempt.ended_at_s - attempt.sent_at_s > SLOW_S or attempt.verdict is not Verdict.DONE:
            self._slow.append(attempt)

    def why(self, since_s: float) -> str:
        """The attempts since then that were slow or did not do it, a line each."""
        told, self._slow = self._slow, []
        return "\n".join(
            f"    {one.sent_at_s - since_s:.3f} … {one.ended_at_s - since_s:.3f} s {one.node} {one.verdict.value}"
            f" {one.status or ''} {one.code or ''}"
            for one in told
            if one.ended_at_s > since_s
        )

    async def close(self) -> None:
        await self._client.close()

    async def write(self, number: int) -> bool:
        try:
            await self._client.enqueue(QUEUE, {"n": number})
        except TrivetError as error:
            print(f"a write failed: {error!r}", flush=True)
            return False
        return True


class Ground:
    """Three or five local nodes and what can be done to one of them."""

    def __init__(self, directory: Path, nodes: int, fault: str) -> None:
        self.fault = fault
        self._drill: DrillCluster | None = None
        if fault == "link_down":
            self._drill = DrillCluster(directory, nodes, needs=frozenset({"nft"}))
        self.cluster: LocalCluster = self._drill or LocalCluster(directory, nodes, free_base_port(nodes))

    async def inflict(self, leader: LocalNode, client: Client) -> None:
        if self.fault == "kill":
            self.cluster.signal(leader, signal.SIGKILL)
        elif self.fault == "pause":
            self.cluster.signal(leader, signal.SIGSTOP)
        elif self.fault == "link_down":
            assert self._drill is not None and self._drill.firewall is not None
            self._drill.firewall.isolate(leader.number)
        else:
            await client.transfer_leadership()

    async def heal(self, leader: LocalNode) -> None:
        if self.fault == "kill":
            assert leader.process is not None
            await leader.process.wait()
            await self.cluster.start_node(leader)
        elif self.fault == "pause":
            self.cluster.signal(leader, signal.SIGCONT)
        elif self.fault == "link_down":
            assert self._drill is not None and self._drill.firewall is not None
            assert self._drill.firewall.dropped_around(leader.number), "the cut dropped nothing"
            self._drill.firewall.heal()
        else:
            now = await self.cluster.wait_for_leader()
            assert now != leader.id, "the hand-over did not happen"
        for node in self.cluster.nodes:
            await self.cluster.wait_ready(node)

    async def close(self) -> None:
        for node in self.cluster.nodes:
            self.cluster.signal(node, signal.SIGCONT)
        await self.cluster.stop()
        if self._drill is not None:
            await self._drill.close()


async def measure(
    directory: Path, fault: str, nodes: int, runs: int, tell: Callable[[Run], None]
) -> list[Run]:
    ground = Ground(directory, nodes, fault)
    cluster = ground.cluster
    found: list[Run] = []
    try:
        await cluster.start()
        await cluster.wait_for_leader()
        async with Client(cluster.apis, retry=RetryPolicy(total_s=40)) as control:
            probe = SdkProbe(cluster.apis)
            writer = Writer(probe, 4 if fault == "transfer" else 1)
            writing = asyncio.create_task(writer.run())
            for number in range(1, runs + 1):
                leader = cluster.node(await cluster.wait_for_leader())
                await asyncio.sleep(1)  # the silence before the fault is looked at, too
                await writer.first_begun_after(time.monotonic())
                attempts, failed = probe.attempts, writer.failed
                at_ms, at_s = time.time_ns() // 1_000_000, time.monotonic()
                await ground.inflict(leader, control)
                async with asyncio.timeout(45):
                    done_s = await writer.first_begun_after(at_s)
                    if fault == "transfer":  # it goes on after the answer
                        await asyncio.sleep(1)
                tried, lost = probe.attempts - attempts, writer.failed - failed
                silence_s = writer.silence_s(at_s)
                found.append(Run(number, leader.id, at_ms, done_s - at_s, silence_s, tried, lost))
                tell(found[-1])
                why = probe.why(at_s)
                if max(found[-1].write_s, found[-1].silence_s) > LIMITS[fault].worst_s:
                    print(why, flush=True)
                await ground.heal(leader)
            writing.cancel()
            await probe.close()
    finally:
        await ground.close()
    return found


async def measure_peer(directory: Path, name: str, runs: int, tell: Callable[[Run], None]) -> list[Run]:
    """Kill of the leader of the queue, with the broker's own client."""
    broker = BROKERS[name]()
    found: list[Run] = []
    try:
        await broker.start(directory)
        await broker.prepare(QUEUE)
        leader = await broker.leader(QUEUE)
        order = [leader, *(node for node in (1, 2, 3) if node != leader)]
        probe = PROBES[name](QUEUE, [broker.address(node) for node in order])
        writer = Writer(probe, 1)
        writing = asyncio.create_task(writer.run())
        for number in range(1, runs + 1):
            leader = await broker.leader(QUEUE)
            await writer.first_begun_after(time.monotonic() + 1)
            attempts, failed = probe.attempts, writer.failed
            at_ms, at_s = time.time_ns() // 1_000_000, time.monotonic()
            await broker.kill(leader)
            async with asyncio.timeout(60):
                done_s = await writer.first_begun_after(at_s)
            tried, lost = probe.attempts - attempts, writer.failed - failed
            silence_s = writer.silence_s(at_s)
            found.append(Run(number, f"n{leader}", at_ms, done_s - at_s, silence_s, tried, lost))
            tell(found[-1])
            await broker.start_node(leader)
            await asyncio.sleep(5)  # it catches up
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await probe.close()
    finally:
        await broker.stop()
    return found


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m bench.failover")
    options.add_argument("--fault", default="kill", choices=tuple(LIMITS))
    options.add_argument("--broker", default="trivet", choices=("trivet", *PROBES))
    options.add_argument("--runs", type=int, help="20, 5 for the others")
    options.add_argument("--nodes", type=int, default=3, choices=(3, 5))
    options.add_argument("--json", action="store_true")
    options.add_argument("--data", type=Path, help="keep data and logs there; default: a temporary directory")
    given = options.parse_args()
    ours = given.broker == "trivet"
    if not ours and given.fault != "kill":
        options.error("the others are killed only")
    runs = given.runs or (20 if ours else 5)

    def tell(run: Run) -> None:
        if not given.json:
            print(
                f"{given.fault} {run.number:2}: {run.node}  write {run.write_s:.3f} s  silence"
                f" {run.silence_s:.3f} s  attempts {run.attempts}  failed {run.failed}",
                flush=True,
            )

    with contextlib.ExitStack() as stack:
        directory = given.data or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="trivet-failover-"))
        )
        try:
            if ours:
                found = asyncio.run(measure(directory, given.fault, given.nodes, runs, tell))
            else:
                found = asyncio.run(measure_peer(directory, given.broker, runs, tell))
        except (Unavailable, NoGround) as why:
            print(f"{given.broker} {given.fault} is left out: {why}")
            return 1
    return report(found, given)


def report(found: list[Run], given: argparse.Namespace) -> int:
    limit = LIMITS[given.fault]
    times = sorted(run.silence_s if limit.silence else run.write_s for run in found)
    median_s, worst_s = statistics.median(times), times[-1]
    silence_s, failed = max(run.silence_s for run in found), sum(run.failed for run in found)
    reached = median_s <= limit.median_s and worst_s <= limit.worst_s and not failed
    if given.json:
        told = {"broker": given.broker, "fault": given.fault, "median_s": median_s, "worst_s": worst_s}
        print(msgspec.json.encode({**told, "failed": failed, "runs": found}).decode())
    else:
        print(
            f"{given.broker}, {len(found)} × {given.fault}: {'silence' if limit.silence else 'next write'} median"
            f" {median_s:.3f} s, worst {worst_s:.3f} s; longest silence {silence_s:.3f} s; {failed} writes failed"
            + (
                f" ({'ok' if reached else 'MISS'}: at most {limit.median_s} s, worst {limit.worst_s} s, none failed)"
                if given.broker == "trivet"
                else ""
            )
        )
    return 0 if reached or given.broker != "trivet" else 1


if __name__ == "__main__":
    sys.exit(main())
