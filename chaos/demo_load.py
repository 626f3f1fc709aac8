"""What works in the demo: a producer in this process, workers in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from trivet.client import Client, OutcomeUnknown

BATCH = 50
AHEAD_MAX = 3000  # the producer waits when so many are unworked: the storm decides how long it goes on


class Producer:
    """Sends numbered messages in batches. `sent`: number → message id, of acknowledged ones only."""

    def __init__(self, client: Client, queue: str) -> None:
        self.sent: dict[int, str] = {}
        self._client = client
        self._queue = queue
        self._stop = False
        self._next = 0
        self._sent_at_s = 0.0  # when the last acknowledged enqueue was begun
        self._acknowledged = asyncio.Condition()

    def stop(self) -> None:
        self._stop = True

    async def acknowledged_after(self, at_s: float) -> None:
        """Until an enqueue that was begun after the instant `at_s` (monotonic) is acknowledged."""
        async with self._acknowledged:
            await self._acknowledged.wait_for(lambda: self._sent_at_s > at_s)

    async def run(self) -> None:
        while not self._stop:
            numbers = range(self._next, self._next + BATCH)
            self._next += BATCH
            await self._send(numbers)
            await asyncio.sleep(0.01)
            queue = await self._client.queue(self._queue)
            if queue["ready"] > AHEAD_MAX:
                # Single messages go on at a slow pace, so that every kill finds a write under way.
                await asyncio.sleep(0.05)
                self._next += 1
                await self._send(range(self._next - 1, self._next))

    async def _send(self, numbers: range) -> None:
        messages = [{"body": {"n": n, "cents": 100 + n % 900}} for n in numbers]
        request_id: str | None = None
        began_s = time.monotonic()
        for _ in range(3):
            try:
                answer = await self._client.enqueue_many(self._queue, messages, request_id=request_id)
                break
            except OutcomeUnknown as error:
                request_id = error.request_id  # the same id: the answer says what became of it
        else:
            return  # never acknowledged: nothing was promised
        self.sent.update(zip(numbers, (one["id"] for one in answer["messages"]), strict=True))
        async with self._acknowledged:
            self._sent_at_s = began_s
            self._acknowledged.notify_all()


class WorkerProcess:
    """`chaos.demo_worker`, its journal, and a running count of what the journal says."""

    def __init__(self, name: str, nodes: list[str], queue: str, sink: Path, journal: Path) -> None:
        self.name = name
        self.journal = journal
        self._arguments = {"nodes": ",".join(nodes), "queue": queue, "sink": str(sink)}
        self._process: asyncio.subprocess.Process | None = None
        self._counts: Counter[str] = Counter()
        self._read = 0

    async def start(self) -> None:
        arguments = {**self._arguments, "journal": str(self.journal), "name": self.name}
        flags = [part for name, value in arguments.items() for part in (f"--{name}", value)]
        with self.journal.with_suffix(".log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "chaos.demo_worker",
                *flags,
                "--parent",
                str(os.getpid()),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raises if the process ended by itself."""
        if self._process is not None and self._process.returncode is not None:
            log = self.journal.with_suffix(".log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"worker {self.name} ended with {self._process.returncode}\n{log}")

    async def kill(self) -> None:
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.send_signal(number)
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def counted(self, what: str) -> int:
        """How often the journal has the event, or the settled status, `what` so far."""
        if not self.journal.exists():
            return 0
        with self.journal.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data.rfind(b"\n") + 1
        self._read += whole
        for line in data[:whole].splitlines():
            entry = json.loads(line)
            self._counts[entry["event"]] += 1
            self._counts["reconciled"] += bool(entry.get("happened"))
            if entry["event"] == "settled":
                self._counts[entry["status"]] += 1
                self._counts["repeated"] += bool(entry["repeated"])
        return self._counts[what]
