"""The load of a drill: its workloads, their processes, and the end of every message."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from chaos.history import Recorder
from chaos.sink import Sink
from chaos.workloads.base import LIVE, Role, Surroundings, Workload, pause, run
from chaos.workloads.recording import Process
from chaos.workloads.registry import WORKLOADS
from trivet.client import ApiError

WATCH_S = 1.0
DOUBT_AGE_S = 5.0  # before it is asked about: by then nothing of the call is under way
PAGE = 500
PREPARE_S = 40.0


class Load:
    """`names` of `WORKLOADS` against the cluster at `nodes`, together about `rate` new messages a second.

    `await prepare()`, `start()`, `await stop()`, `await drain(patience_s)`. `seed` fixes what the processes
    choose; what the cluster makes of it, and when, is not seeded. What a process finds that can only be a
    defect of the drill is raised by `stop` or `drain`.
    """

    def __init__(
        self,
        nodes: list[str],
        recorder: Recorder,
        sink: Sink,
        seed: int,
        names: Iterable[str],
        rate: float = 60.0,
    ) -> None:
        if not 0 < rate <= 10_000:
            raise ValueError(f"rate is {rate}; it must be above 0 and at most 10 000 messages a second")
        self.recorder = recorder
        self._around = Surroundings(nodes, recorder, sink, seed)
        chosen = [WORKLOADS[name] for name in names]
        whole = sum(one.weight for one in chosen) or 1.0
        self._workloads = [one(self._around, rate * one.weight / whole) for one in chosen]
        for one in self._workloads:
            self._around.queues.extend(one.queues())
        if not self._around.queues:
            raise ValueError("none of the workloads has a queue; choose one that enqueues, too")
        self._processes: dict[str, Process] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def counts(self) -> dict[str, dict[str, int]]:
        """By operation: how many ended `ok`, `fail` and `info` so far."""
        return {f: dict(counts) for f, counts in sorted(self.recorder.counts.items())}

    async def prepare(self, patience_s: float = PREPARE_S) -> None:
        """Makes the queues. Raises the last error if the cluster takes none of it for `patience_s`."""
        process = self._process("load.setup-0")
        deadline_s = time.monotonic() + patience_s
        for workload in self._workloads:
            for queue, config in workload.queues().items():
                while True:
                    try:
                        await workload.make(process, queue, config)
                        break
                    except ApiError:
                        if time.monotonic() > deadline_s:
                            raise
                        await asyncio.sleep(0.2)

    def start(self) -> None:
        self.recorder.note("phase", phase="load")
        for workload in self._workloads:
            self._begin(workload, [*workload.producers(), *workload.consumers()])
        self._spawn(self._watch(self._process("load.watch-0")))
        self._spawn(self._ask(self._process("load.doubts-0")))

    async def stop(self) -> None:
        """Every process ends its call (at most some 10 s when the cluster is down) and makes no more."""
        self.recorder.note("phase", phase="stop")
        self._around.stopping.set()
        await self._gather()

    async def drain(self, patience_s: float = 60.0) -> None:
        """Consumes until nothing is unfinished, then asks about all of it. Raises TimeoutError if either
        is not done within `patience_s`, after writing what is left into the history."""
        self.recorder.note("phase", phase="drain")
        deadline_s = time.monotonic() + patience_s
        self._around.stopping.clear()
        asker = self._process("load.drain-0")
        for workload in self._workloads:
            await self._said(workload.rest, asker, deadline_s)
            self._begin(workload, workload.consumers())
        try:
            await self._empty(asker, deadline_s)
        finally:
            self._around.stopping.set()
            await self._gather()
        self.recorder.note("phase", phase="drained")
        await self._resolve(asker, deadline_s)
        self.recorder.note("phase", phase="resolved")

    async def close(self) -> None:
        """Ends what still runs and closes the connections. `stop` first, for a history without loose ends."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for process in self._processes.values():
            await process.close()

    # --- processes ----------------------------------------------------------------------------------

    def _process(self, name: str) -> Process:
        if name not in self._processes:
            self._processes[name] = self._around.process(name)
        return self._processes[name]

    def _begin(self, workload: Workload, roles: list[Role]) -> None:
        for role in roles:
            process = self._process(f"{workload.name}.{role.name}")
            self._spawn(run(role, process, self._around.stopping))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _gather(self) -> None:
        """Until all have ended. The first defect found is raised, when all have ended."""
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for one in ended:
            if isinstance(one, BaseException):
                raise one

    # --- looking on ---------------------------------------------------------------------------------

    async def _watch(self, process: Process) -> None:
        """Keeps the producers told how much is unfinished."""
        while not self._around.stopping.is_set():
            for queue in self._around.queues:
                await self._left(process, queue)
            await pause(WATCH_S, self._around.stopping)

    async def _left(self, process: Process, queue: str) -> int | None:
        """Unfinished messages of the queue; None if nobody would say."""
        try:
            found = await process.queue(queue)
        except ApiError:
            return None
        self._around.live[queue] = sum(found[state] for state in LIVE)
        return self._around.live[queue]

    async def _ask(self, process: Process) -> None:
        """Settles doubts while the load goes on: finished messages are not kept forever."""
        while not self._around.stopping.is_set():
            await self._ask_once(process, time.monotonic() - DOUBT_AGE_S)
            await pause(0.1, self._around.stopping)

    async def _ask_once(self, process: Process, before_s: float) -> bool:
        """About the oldest doubts, if they are older than that. False if an answer failed to come."""
        doubts = self._around.doubts
        message = next(iter(doubts.messages), None)
        if message is not None and doubts.messages[message] < before_s:
            state = await _answer(process.message(message))
            if state is None:
                return False
            del doubts.messages[message]
            if state.get("state") in LIVE:  # not over: ask again, after the others
                doubts.messages[message] = time.monotonic()
        effect = next(iter(doubts.effects), None)
        if effect is not None and doubts.effects[effect] < before_s:
            if await _answer(process.effect_state(effect)) is None:
                return False
            del doubts.effects[effect]
        return True

    # --- the end ------------------------------------------------------------------------------------

    async def _said(
        self, what: Callable[[Process], Awaitable[None]], process: Process, deadline_s: float
    ) -> None:
        while True:
            try:
                return await what(process)
            except ApiError:
                self._in_time(deadline_s, what.__qualname__)
                await asyncio.sleep(0.2)

    async def _empty(self, process: Process, deadline_s: float) -> None:
        """Until every queue, read once more, has nothing unfinished."""
        left = list(self._around.queues)
        while left:
            self._check_tasks()
            left = [queue for queue in self._around.queues if await self._left(process, queue) != 0]
            if left and time.monotonic() > deadline_s:
                self.recorder.note("undrained", left={queue: self._around.live.get(queue) for queue in left})
                raise TimeoutError(f"unfinished messages are left in {', '.join(left)}")
            await asyncio.sleep(0.1 if left else 0)

    def _check_tasks(self) -> None:
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _resolve(self, process: Process, deadline_s: float) -> None:
        """Every doubt, and the state of every message that the cluster still has."""
        doubts = self._around.doubts
        # And one effect that nobody doubts: a calm drill has no other to ask about.
        if doubts.committed is not None:
            doubts.effects.setdefault(doubts.committed, 0.0)
        end_s = time.monotonic()
        while any(at_s < end_s for at_s in (*doubts.messages.values(), *doubts.effects.values())):
            await self._ask_once(process, end_s)
            self._in_time(deadline_s, f"{len(doubts.messages)} messages, {len(doubts.effects)} effects")
        for workload in self._workloads:
            await self._said(workload.look, process, deadline_s)
        for queue in self._around.queues:
            after: str | None = None
            while True:
                page = await _answer(process.messages(queue, limit=PAGE, after=after))
                self._in_time(deadline_s, f"the messages of {queue} after {after}")
                if page is None:
                    await asyncio.sleep(0.1)
                    continue
                after = page["next"]
                if after is None:
                    break

    def _in_time(self, deadline_s: float, what: str) -> None:
        if time.monotonic() > deadline_s:
            self.recorder.note("unresolved", left=what)
            raise TimeoutError(f"not asked in time: {what}")


async def _answer(asked: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any] | None:
    """The answer; `{}` for "there is none such"; None if it must be asked again."""
    try:
        return await asked
    except ApiError as error:
        return {} if error.status == 404 else None
