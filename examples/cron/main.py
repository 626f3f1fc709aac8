"""A crontab that outlives machines: its lines become schedules, a worker runs the commands.

    python examples/cron/main.py [--seconds 20] [--nodes 3] [--kills 3]
    python examples/cron/main.py --crontab /etc/my-crontab --cluster http://127.0.0.1:7480,http://127.0.0.1:7482

The first starts a real cluster, runs the crontab below, kills the leader again and again, and judges: every slot of
every line ran exactly once. Exit code 0 if so. The second takes over a crontab of yours until Ctrl-C: start it
on as many machines as you like, each command runs on one of them. Put it there again after a change: lines
that stayed are left alone, lines that went are deleted.

A line is a crontab's: five fields or @daily and the like, then a command for the shell; or `@every 15s COMMAND`.
`CRON_TZ=Europe/Berlin` sets the time zone of the lines below it, any other `NAME=value` a variable of their commands.
The command finds its slot in $TRIVET_SLOT_MS.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trivet.cli.local import LocalCluster, free_base_port
from trivet.cli.schedules import length_ms
from trivet.client import Client, Happened, Lease, RetryPolicy, Worker

QUEUE = "crontab"
PREFIX = "crontab-"
PATIENT = RetryPolicy(total_s=45)
OUTPUT_KEPT = 10_000  # characters of a command's output, in its message's result

DEMO = """
# what the demo runs; $LEDGER is its own
@every 1s   echo "second $TRIVET_SLOT_MS" >> $LEDGER
@every 700ms  echo "quick $TRIVET_SLOT_MS" >> $LEDGER
CRON_TZ=Asia/Kathmandu
* * * * *   echo "minute $TRIVET_SLOT_MS" >> $LEDGER
"""


@dataclass(frozen=True)
class Job:
    """One line. Its name is made of what it says, so a changed line is another job."""

    when: dict[str, Any]  # cron and timezone, or every_ms
    command: str
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        said = repr((sorted(self.when.items()), self.command, sorted(self.variables.items())))
        return PREFIX + hashlib.sha256(said.encode()).hexdigest()[:16]


def read_crontab(text: str) -> list[Job]:
    """Raises ValueError with the number of the line."""
    jobs: list[Job] = []
    timezone = "UTC"
    variables: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        setting = re.fullmatch(r"([A-Za-z_]\w*)\s*=\s*(.*)", line)
        if setting is not None:
            if setting[1] == "CRON_TZ":
                timezone = setting[2]
            else:
                variables = {**variables, setting[1]: setting[2].strip("\"'")}
            continue
        words = line.split(None, 1 if line.startswith("@") else 5)
        if words[0] == "@every":
            words = line.split(None, 2)
            if len(words) == 3:
                jobs.append(Job({"every_ms": length_ms(words[1])}, words[2], variables))
                continue
        elif len(words) == (2 if line.startswith("@") else 6):
            jobs.append(Job({"cron": " ".join(words[:-1]), "timezone": timezone}, words[-1], variables))
            continue
        raise ValueError(f"line {number} has no command: {line}")
    return jobs


async def install(client: Client, jobs: list[Job]) -> None:
    """The cluster's schedules of this kind are these and no others."""
    for job in jobs:
        body = {"command": job.command, "variables": job.variables}
        await client.put_schedule(job.name, QUEUE, body, overlap="allow", **job.when)
    wanted = {job.name for job in jobs}
    after: str | None = PREFIX
    while after is not None:
        page = await client.schedules(after=after)
        for one in page["schedules"]:
            if one["name"].startswith(PREFIX) and one["name"] not in wanted:
                await client.delete_schedule(one["name"])
        after = page["next"]


class Runner:
    """Runs commands, each slot's once: what has run is written down in `spool` before it is acknowledged."""

    def __init__(self, client: Client, spool: Path, variables: dict[str, str]) -> None:
        self._client = client
        self._spool = spool
        self._variables = variables

    async def work(self, lease: Lease) -> Any:
        key = lease.data.get("idempotency_key") or f"{lease.id}@{lease.data['enqueued_at_ms']}"  # run by hand

        async def look(_: str) -> Happened | None:
            """An earlier worker began and never said how it went: did the command end?"""
            done = self._done(key)
            return Happened(done.read_text()) if done.exists() else None

        async with self._client.effect(f"run {key}", lease=lease, with_ack=True, reconcile=look) as effect:
            if not effect.done:
                effect.result = await self._run(key, lease.body)
        return effect.result

    def _done(self, key: str) -> Path:
        return self._spool / f"{key}.done"

    async def _run(self, key: str, body: dict[str, Any]) -> str:
        variables = {**self._variables, **body["variables"], "TRIVET_SLOT_MS": key.rpartition("@")[2]}
        process = await asyncio.create_subprocess_shell(
            body["command"],
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", **variables},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        told = f"exit {process.returncode}\n{output.decode(errors='replace')[-OUTPUT_KEPT:]}"
        self._done(key).write_text(told)
        return told


async def serve(crontab: str, nodes: list[str], spool: Path) -> None:
    """Until it is interrupted."""
    async with Client(nodes, retry=PATIENT) as client:
        await install(client, read_crontab(crontab))
        await Worker(client, QUEUE, Runner(client, spool, {}).work, concurrency=8).run()


# --- the demo -----------------------------------------------------------------------------------------


async def disturb(cluster: LocalCluster, kills: int, seconds: float) -> int:
    """Kill the leader, wait for another one, start it again; answers how often that was done."""
    for _ in range(kills):
        await asyncio.sleep(seconds / (kills + 1))
        await cluster.bounce_leader()
    await asyncio.sleep(seconds / (kills + 1))
    return kills


def slots_of(shown: dict[str, Any]) -> list[int]:
    """All slots of a line since it was installed, worked out here: the demo's one expression is every minute."""
    start, end = shown["anchor_at_ms"], shown["decided_at_ms"]
    if shown["every_ms"] is not None:
        return list(range(start + shown["every_ms"], end + 1, shown["every_ms"]))
    return list(range(start - start % 60_000 + 60_000, end + 1, 60_000))


def judge(ledger: Path, shown: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """What is wrong, in words. `shown`: of each line, the word it writes and its schedule, paused."""
    lines = Counter(ledger.read_text().split("\n")[:-1]) if ledger.exists() else Counter[str]()
    wrong = []
    for word, schedule in shown:
        wanted = {f"{word} {slot}" for slot in slots_of(schedule)}
        last = schedule["last_skip"]
        paused = last is not None and last["reason"] == "paused"  # it was due at the moment of our pause
        if paused:
            wanted.discard(f"{word} {last['slot_ms']}")
        found = Counter({line: count for line, count in lines.items() if line.startswith(word)})
        wrong += [f"lost: {line}" for line in sorted(wanted - found.keys())]
        wrong += [f"never due: {line}" for line in sorted(found.keys() - wanted)]
        wrong += [f"{count} times: {line}" for line, count in found.items() if count > 1]
        if schedule["fired"] != len(wanted) or schedule["skipped"] != paused:
            wrong.append(
                f"{word}: {schedule['fired']} fired, {schedule['skipped']} skipped, of {len(wanted)}"
            )
        if not wanted and schedule["every_ms"] is not None:
            wrong.append(f"{word}: nothing was due")
    return wrong


async def demo(seconds: float, nodes: int, kills: int, directory: Path) -> int:
    cluster = LocalCluster(directory, nodes, free_base_port(nodes))
    ledger, spool = directory / "ledger", directory / "spool"
    spool.mkdir()
    jobs = read_crontab(DEMO)
    await cluster.start()
    try:
        await cluster.wait_for_leader()
        async with Client(cluster.apis, retry=PATIENT) as client:
            runner = Runner(client, spool, {"LEDGER": str(ledger)})
            worker = Worker(client, QUEUE, runner.work, concurrency=4, wait_ms=2000)
            await client.put_queue(QUEUE)
            await install(client, jobs)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(worker.run())
                try:
                    struck = await disturb(cluster, kills, seconds)
                    await install(client, jobs)  # a deployment: nothing changes
                    shown = []
                    for job in jobs:
                        word = job.command.split('"')[1].split()[0]
                        shown.append((word, await client.pause_schedule(job.name)))
                    await drained(client)
                finally:
                    await worker.stop(grace_s=5)
    finally:
        await cluster.stop()
    wrong = judge(ledger, shown)
    if struck < kills:
        wrong.append(f"the leader was killed {struck} times, not {kills}")
    print(f"{sum(one['fired'] for _, one in shown)} slots of {len(jobs)} lines, leader killed {struck} times")
    for one in wrong[:20]:
        print(f"  {one}")
    print("VERDICT: " + ("FAILED" if wrong else "every slot ran, and ran once"))
    return 1 if wrong else 0


async def drained(client: Client) -> None:
    """Wait until no command waits or runs."""
    while True:
        counts = await client.queue(QUEUE)
        if not any(counts[state] for state in ("ready", "delayed", "leased", "blocked")):
            return
        await asyncio.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--nodes", type=int, choices=(1, 3, 5), default=3)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--crontab", type=Path, help="a crontab of yours, on a cluster of yours")
    parser.add_argument("--cluster", help="its addresses, separated by commas")
    parser.add_argument(
        "--spool", type=Path, default=Path("spool"), help="where ended commands are written down"
    )
    options = parser.parse_args()
    if (options.crontab is None) != (options.cluster is None):
        parser.error("--crontab and --cluster belong together")
    if options.crontab is not None:
        options.spool.mkdir(parents=True, exist_ok=True)
        asyncio.run(serve(options.crontab.read_text(), options.cluster.split(","), options.spool))
        return 0
    with tempfile.TemporaryDirectory(prefix="trivet-cron-") as directory:
        return asyncio.run(demo(options.seconds, options.nodes, options.kills, Path(directory)))


if __name__ == "__main__":
    sys.exit(main())
