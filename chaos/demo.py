"""`make demo`: three real nodes, payments that must happen once, and a leader that keeps being killed.

    python -m chaos.demo [--messages 10000] [--kills 3] [--data DIR] [--keep]

A producer sends messages, two worker processes lease them, make each payment once through the effect
ledger (the sink is an SQLite table without a unique key, so a double would show) and ack. The leader is
killed with SIGKILL while acks are in flight, a worker too, and both come back. The verdict:

* *lost*: an enqueue was acknowledged, and the message is not done in the end;
* *doubled*: two first-time `acked` for one message, or two rows for one payment in the sink.

The demo fails if that happened, and also if it proved nothing (R38): no redelivery, no unknown outcome,
or no ack that came back `repeated` after a kill. Exit 0: proven. 1: not, and the data stays.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from chaos.demo_judge import Verdict, judge
from chaos.demo_load import Producer, WorkerProcess
from chaos.demo_sink import create
from chaos.workloads.base import LIVE
from trivet.cli.local import ClusterFailed, LocalCluster, LocalNode, free_base_port
from trivet.client import Client, RetryPolicy, TrivetError

QUEUE = "payments"
LEASE_MS = 1500
WHOLE_S_MAX = 165.0
DRAIN_S_MAX = 60.0
KILLS_MAX = 10
NOT_PROVEN = 1
CONFIG = {
    "lease_ms": LEASE_MS,
    "max_attempts": 0,
    "backoff": {"type": "fixed", "base_ms": 100, "jitter": 0.5},
}


class Demo:
    def __init__(self, directory: Path, messages: int, kills: int) -> None:
        self.directory = directory
        self.messages = messages
        self.kills = kills
        self.began_s = time.monotonic()
        self.cluster = LocalCluster(directory / "cluster", 3, free_base_port(3))
        self.sink = directory / "sink.db"
        self.workers = [
            WorkerProcess(f"w{n}", self.cluster.apis, QUEUE, self.sink, directory / f"w{n}.jsonl")
            for n in (1, 2)
        ]
        self.first_kill_s: float | None = None
        self.killed = 0
        self.gaps_s: list[float] = []

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began_s:6.2f} s] {text}", flush=True)

    async def run(self) -> Verdict:
        create(self.sink)
        await self.cluster.start()
        leader = await self.cluster.wait_for_leader()
        self.say(f"three nodes run; {leader} leads · data in {self.directory}")
        async with Client(self.cluster.apis, retry=RetryPolicy(total_s=40)) as client:
            await client.put_queue(QUEUE, **CONFIG)
            producer = Producer(client, QUEUE)
            producing = asyncio.create_task(producer.run())
            for worker in self.workers:
                await worker.start()
            try:
                await self._storm(producer)
                producer.stop()
                await producing
                self.say(f"{len(producer.sent)} messages acknowledged; the queue runs dry")
                await self._run_dry(client)
            finally:
                producing.cancel()
                for worker in self.workers:
                    await worker.stop()
            self.say("judging")
            return await judge(
                client,
                QUEUE,
                sent=producer.sent,
                journals=[worker.journal for worker in self.workers],
                sink=self.sink,
                first_kill_s=self.first_kill_s,
                kills=self.killed,
                producer_unknown=client.stats.unknown_attempts,
            )

    # --- the storm ----------------------------------------------------------------------------------

    async def _storm(self, producer: Producer) -> None:
        """Kill, restart, until there are enough messages, enough kills, and proof that they hit (R38)."""
        while True:
            await self._until_acks(200)
            enough = len(producer.sent) >= self.messages
            if self.killed < self.kills:
                due = len(producer.sent) >= self.messages * (self.killed + 1) // (self.kills + 1)
            elif enough and (self._proven() or self.killed >= KILLS_MAX):
                return  # if something was not proven, the verdict says so
            else:
                due = enough
            if due:
                await self._kill(producer)

    async def _kill(self, producer: Producer) -> None:
        """The leader, and at once a worker: what that one has paid and nobody has taken its word for is uncertain."""
        leader = self.cluster.node(await self.cluster.wait_for_leader())
        worker = self.workers[self.killed % len(self.workers)]
        acked = self._count("acked")
        pid = leader.pid
        killed_s = time.monotonic()
        await self.cluster.kill(leader)
        await worker.kill()
        self.first_kill_s = self.first_kill_s or killed_s
        self.killed += 1
        self.say(f"kill -9 {pid}: {leader.id}, the leader, in the middle of acks ({acked} acked so far)")
        self.say(f"kill -9: worker {worker.name}, with payments made and not yet committed")
        await worker.start()
        await producer.acknowledged_after(killed_s)
        gap_s = time.monotonic() - killed_s
        self.gaps_s.append(gap_s)
        new = await self.cluster.wait_for_leader()
        self.say(f"  {new} leads; next acknowledged write {gap_s:.2f} s after the kill")
        await self._restart(leader)

    async def _restart(self, node: LocalNode) -> None:
        await self.cluster.start_node(node)
        await self.cluster.wait_ready(node)
        self.say(f"  {node.id} is back and caught up")

    async def _until_acks(self, more: int) -> None:
        """Until `more` acks came since now: nothing is killed while nothing happens."""
        wanted = self._count("acked") + more
        while self._count("acked") < wanted:
            for worker in self.workers:
                worker.check()
            await asyncio.sleep(0.02)

    def _count(self, status: str) -> int:
        return sum(worker.counted(status) for worker in self.workers)

    def _proven(self) -> bool:
        return all(
            self._count(what) > 0 for what in ("redelivered", "unknown_attempt", "repeated", "reconciled")
        )

    async def _run_dry(self, client: Client) -> None:
        end_s = time.monotonic() + DRAIN_S_MAX
        while time.monotonic() < end_s:
            queue = await client.queue(QUEUE)
            left = {state: queue[state] for state in LIVE if queue[state]}
            if not left:
                self.say("the queue is empty")
                return
            for worker in self.workers:
                worker.check()
            await asyncio.sleep(0.1)
        self.say(f"the queue did not run dry in {DRAIN_S_MAX:g} s: {left}")
        for state in left:
            page = await client.messages(QUEUE, state=state, limit=3)
            for message in page["messages"]:
                self.say(f"  {message}")

    async def close(self) -> None:
        for worker in self.workers:
            await worker.kill()
        for node in self.cluster.nodes:
            if node.is_running:
                await self.cluster.kill(node)


def print_verdict(demo: Demo, verdict: Verdict) -> None:
    gaps = ", ".join(f"{gap:.2f}" for gap in sorted(demo.gaps_s))
    print()
    for name, value in verdict.facts.items():
        print(f"  {name:<46} {value}")
    print(f"  {'kill -9 → next acknowledged write, seconds':<46} {gaps}")
    print(f"  {'whole time, seconds':<46} {time.monotonic() - demo.began_s:.1f}")
    for problem in verdict.problems:
        print(f"  FAILED: {problem}")
    print(f"\n{verdict.sent} sent · {verdict.lost} lost · {verdict.doubled} doubled")


def data_directory(given: Path | None) -> Path:
    if given is None:
        return Path(tempfile.mkdtemp(prefix="trivet-demo-"))
    shutil.rmtree(given, ignore_errors=True)
    given.mkdir(parents=True)
    return given


async def play(directory: Path, messages: int, kills: int) -> int:
    demo = Demo(directory, messages, kills)
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        async with asyncio.timeout(WHOLE_S_MAX):
            verdict = await demo.run()
    except (ClusterFailed, TrivetError) as error:
        print(f"FAILED: {error}")
        return NOT_PROVEN
    except TimeoutError:
        print(f"FAILED: not through after {WHOLE_S_MAX:g} s")
        return NOT_PROVEN
    except asyncio.CancelledError:
        print("interrupted")
        return 130
    finally:
        await demo.close()
    print_verdict(demo, verdict)
    return 0 if verdict.good else NOT_PROVEN


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m chaos.demo", description="The demo; see the README.")
    options.add_argument("--messages", type=int, default=10_000)
    options.add_argument("--kills", type=int, default=3)
    options.add_argument(
        "--data", type=Path, help="directory to use (emptied first); default: a temporary one"
    )
    options.add_argument("--keep", action="store_true", help="leave the data and the journals behind")
    given = options.parse_args()
    directory = data_directory(given.data)
    outcome = asyncio.run(play(directory, given.messages, given.kills))
    if given.keep or outcome == NOT_PROVEN:
        print(f"data and journals: {directory}")
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
