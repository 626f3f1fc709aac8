"""A worker process of the demo: takes messages, makes each one's payment once, and keeps a journal.

    python -m chaos.demo_worker --nodes URL,… --queue payments --sink sink.db --journal w1.jsonl

One JSON line per event, written with one `write`, so that the journal outlives a SIGKILL of this process.
Instants are CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import msgspec

from chaos.demo_sink import Sink
from trivet.cli.node import die_with
from trivet.client import Attempt, Client, Happened, Lease, OutcomeUnknown, RetryPolicy, Verdict, Worker


class Journal:
    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __call__(self, event: str, **values: Any) -> None:
        line = {"event": event, "at_s": time.monotonic(), **values}
        os.write(self._file, msgspec.json.encode(line) + b"\n")


class Shift:
    """The handler and what it tells the journal."""

    def __init__(self, client: Client, sink: Sink, journal: Journal) -> None:
        self._client = client
        self._sink = sink
        self._journal = journal

    async def handle(self, lease: Lease) -> dict[str, Any]:
        if lease.attempt > 1:
            self._journal("redelivered", id=lease.id, attempt=lease.attempt)
        effect_id = f"pay:{lease.body['n']}"
        async with self._client.effect(
            effect_id, lease=lease, reconcile=self._reconcile, with_ack=True
        ) as effect:
            if not effect.done:
                await self._sink.pay(effect_id, lease)
                effect.result = {"receipt": effect_id}
        return {"receipt": effect_id}

    async def _reconcile(self, effect_id: str) -> Happened | None:
        happened = await self._sink.has(effect_id)
        self._journal("uncertain", effect_id=effect_id, happened=happened)
        return Happened({"receipt": effect_id}) if happened else None

    def settled(self, lease: Lease, result: dict[str, Any] | None, error: Exception | None) -> None:
        status = result["status"] if result else "none"
        self._journal(
            "settled",
            id=lease.id,
            status=status,
            repeated=bool(result and result.get("repeated")),
            unknown=isinstance(error, OutcomeUnknown),
            error=None if error is None else str(error)[:300],
        )


async def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    for name in ("nodes", "queue", "sink", "journal", "name"):
        options.add_argument("--" + name, required=True)
    options.add_argument("--parent", type=int, help="end when this process does")
    options.add_argument("--concurrency", type=int, default=50)
    given = options.parse_args()
    if given.parent is not None:
        die_with(given.parent)
    journal = Journal(Path(given.journal))

    def attempted(attempt: Attempt) -> None:
        if attempt.verdict is Verdict.UNKNOWN:
            journal("unknown_attempt", path=attempt.path, node=attempt.node)

    async with Client(given.nodes, retry=RetryPolicy(total_s=30), on_attempt=attempted) as client:
        shift = Shift(client, Sink(Path(given.sink), given.name), journal)
        worker = Worker(
            client,
            given.queue,
            shift.handle,
            concurrency=given.concurrency,
            prefetch=given.concurrency,
            wait_ms=2000,
            consumer=given.name,
            on_settled=shift.settled,
        )
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        running = asyncio.create_task(worker.run())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            await worker.stop(grace_s=3)
        await running
        journal("ended", stats=client.stats.as_dict(), worker=worker.stats.as_dict())


if __name__ == "__main__":
    asyncio.run(main())
