"""Runs: workers tell what they do, readers follow from node to node (R29)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from chaos.history import FAIL, OK
from chaos.workloads.base import Role, Workload
from chaos.workloads.recording import Process
from trivet.client import ApiError, Lease, OutcomeUnknown
from trivet.client.errors import RunNotFound

RUNS = 4
FOLLOWED_MAX = 200
FOLLOW_S = 1.5
PAGE = 1000


class Runs(Workload):
    """A token's `data` is `[op, n]`: the append that told it first, and its place in it."""

    name = "runs"
    weight = 0.8

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._runs = [f"{self.around.recorder.run}-run-{n}" for n in range(RUNS)]
        self._begun: set[str] = set()
        self._positions: dict[tuple[str, str], int] = {}  # (reader, run) → the event it read last

    def producers(self) -> list[Role]:
        readers = [Role(f"reader-{n}", self.follow) for n in range(2)]
        return [Role("producer-0", self.produce, self.rate), Role("pager-0", self.page, 1.0), *readers]

    def consumers(self) -> list[Role]:
        return [Role(f"worker-{n}", self.work) for n in range(2)]

    async def produce(self, process: Process) -> None:
        if self.is_full():
            return
        run = process.rng.choice(self._runs)
        op = process.reserve()
        body = self.body(op, 0, process.rng)
        await self.enqueue(process, [{"body": body, "run_id": run, "step_id": f"s{op}"}])
        self._begun.add(run)

    async def work(self, process: Process) -> None:
        for lease in await self.lease(process, process.rng.randint(1, 5), calls=2):
            await self._tell(process, lease)
            if lease.attempt == 1 and process.rng.random() < 0.1:
                await process.nack_many([{"lease_token": lease.token, "error": "half way"}], strict=False)
            else:
                await self.ack(process, [lease])

    async def _tell(self, process: Process, lease: Lease) -> None:
        """Tokens of this lease; whoever does not know whether they were told says them once more (R12, or only the
        same event ids)."""
        op, request_id, run = process.reserve(), process.request_id(), str(lease.run_id)
        count = process.rng.choice((1, 3, 20))
        events = [{"type": "token", "data": [op, n], "event_id": f"{op}-{n}"} for n in range(count)]
        try:
            await process.append_events(run, events, request_id=request_id)
        except OutcomeUnknown:
            chance = process.rng.random()
            if chance < 0.3:
                raise
            process.repeats = op
            again = request_id if chance < 0.6 else None
            await process.append_events(run, events, request_id=again)

    # --- readers ------------------------------------------------------------------------------------

    async def page(self, process: Process) -> None:
        """An ordinary read, or of whatever node answers."""
        if self._begun:
            run = process.rng.choice(sorted(self._begun))
            local = process.rng.random() < 0.5
            after = process.rng.choice((0, self._positions.get(("pager", run), 0)))
            try:
                told = await process.events_page(run, after=after, limit=100, local=local)
            except RunNotFound:
                if not local:
                    raise  # a run that was acknowledged is gone
                return  # a node that has just started answers from the little it has applied
            if told["events"]:
                self._positions["pager", run] = told["events"][-1]["id"]

    async def follow(self, process: Process) -> None:
        """The stream, for a while; then on from there, mostly at another node."""
        if not self._begun:
            await asyncio.sleep(0.1)
            return
        run = process.rng.choice(sorted(self._begun))
        at = (process.consumer, run)
        after = 0 if process.rng.random() < 0.05 else self._positions.get(at, 0)
        op = process.recorder.invoke(process.proc, "follow", {"run": run, "after": after})
        events: list[list[Any]] = []
        error: dict[str, str] | None = None
        process.session.ring.turn()
        try:
            async with (
                asyncio.timeout(FOLLOW_S),
                contextlib.aclosing(process.run_events(run, after=after)) as told,
            ):
                async for event in told:
                    events.append([event.id, event.type, event.data])
                    if len(events) == FOLLOWED_MAX:
                        break
        except TimeoutError:
            pass  # nothing more came: the stream has no end
        except ApiError as refused:
            error = {"code": refused.code, "detail": refused.detail[:300]}
        if events:
            self._positions[at] = events[-1][0]
        process.recorder.returned(op, OK if error is None else FAIL, result={"events": events}, error=error)

    async def look(self, process: Process) -> None:
        """All of every run, once nothing is unfinished."""
        for run in sorted(self._begun):
            after: int | None = 0
            while after is not None:
                after = (await process.events_page(run, after=after, limit=PAGE))["next"]
