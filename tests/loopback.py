"""A node without consensus: the real machine, applier, broker, waiters and HTTP API over a log that
commits at once. For tests of the API's own behaviour; durability and elections have tests of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from trivet.consensus.port import Applied, NotProposed, Outcome, Unknown
from trivet.errors import TrivetError
from trivet.http.app import Settings
from trivet.http.server import ApiServer
from trivet.machine.commands import Expire, Genesis, PutQueue, QueueConfig, Request
from trivet.machine.core import Machine
from trivet.node.applier import Applier
from trivet.node.broker import Broker, Committed
from trivet.node.waiters import Waiters


class LoopClock:
    """The event loop's time, and a wall clock that tests may push on."""

    def __init__(self) -> None:
        self.pushed_ms = 0
        self._start_ms = 1_800_000_000_000

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall_ms(self) -> int:
        return self._start_ms + self.pushed_ms + int(self.monotonic() * 1000)


class Loopback:
    """`Consensus` and `Host` at once. Roles, holds and failures are set by the test."""

    def __init__(
        self, node_id: str = "n1", *, auto_create_queues: bool = True, parked_max: int = 10_000
    ) -> None:
        self.node_id = node_id
        self.clock = LoopClock()
        self.role = "leader"
        self.term = 1
        self.leader: str | None = node_id
        self.has_quorum = True
        self.can_commit = True
        self.recovering: str | None = None
        self.draining = False
        self.pressed: str | None = None
        self.urls: dict[str, str] = {}
        self.entries: list[bytes] = []
        self.hold = False  # entries are proposed and not decided until `decide`
        self.held: list[tuple[bytes, Callable[[Outcome], None]]] = []
        self.reads_fail = False
        self.snapshots = 0
        self.transferred: list[str | None] = []
        self.applier = Applier(lambda _index, effects: self.broker.entry_applied(effects))
        self.broker = Broker(
            consensus=self,
            machine=lambda: self.applier.machine,
            host=self,
            clock=self.clock,
            stamp=self._stamp,
            wake=self._wake,
            applying=lambda: self.applier.busy,
            auto_create_queues=auto_create_queues,
        )
        self.waiters = Waiters(self.broker, parked_max)
        self._woken = False
        self._duty: asyncio.TimerHandle | None = None

    # --- Consensus --------------------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        return self.role == "leader"

    @property
    def can_propose(self) -> bool:
        return self.is_leader and self.can_commit

    @property
    def machine(self) -> Machine:
        return self.applier.machine

    @property
    def applied_index(self) -> int:
        return self.machine.applied_index

    @property
    def commit_index(self) -> int:
        return self.machine.applied_index

    def read(self, done: Callable[[bool], None], /) -> None:
        done(self.is_leader and not self.reads_fail)

    def transfer(self, to: str | None = None) -> bool:
        self.transferred.append(to)
        others = [name for name in self.urls if name != self.node_id]
        return to in others if to is not None else bool(others)

    def snapshot_now(self) -> None:
        self.snapshots += 1

    # --- Host -------------------------------------------------------------------------------------

    def api_url(self, node_id: str) -> str | None:
        return self.urls.get(node_id)

    def pressure(self) -> str | None:
        return self.pressed

    def leader_contact_age_ms(self) -> int | None:
        return 0 if self.is_leader else 17

    def quorum_critical(self) -> bool:
        return True

    def caught_up(self) -> bool:
        return True

    def cluster(self) -> dict[str, Any]:
        return {"cluster_id": self.machine.cluster_id, "node": self.node_id, "leader": self.leader}

    def metrics(self) -> bytes:
        return b"# HELP trivet_up 1\n"

    # --- the log ------------------------------------------------------------------------------------

    def _stamp(self) -> int:
        return max(self.machine.clock_ms, self.clock.wall_ms())

    def _wake(self) -> None:
        if not self._woken and self.is_leader:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._woken = False
        while self.can_propose and (batch := self.broker.next_batch()) is not None:
            if self.hold:
                self.held.append(batch)
            else:
                self.commit(*batch)
        self._plan_expiry()

    def commit(self, data: bytes, done: Callable[[Outcome], None]) -> None:
        index = self.machine.applied_index + 1
        self.entries.append(data)
        self.applier.start(index, self.term, data)
        assert self.applier.step(lambda: False)
        done(Applied(index, self.term, self.applier.result))

    def decide(self, outcome: NotProposed | Unknown | None = None) -> None:
        """End what is held: applied, or as told."""
        held, self.held = self.held, []
        for data, done in held:
            if outcome is None:
                self.commit(data, done)
            else:
                done(outcome)
        self._plan_expiry()

    def _plan_expiry(self) -> None:
        """The leader's duty: propose `Expire` when something is due."""
        if self._duty is not None:
            self._duty.cancel()
            self._duty = None
        due = self.machine.next_deadline_ms()
        if due is not None and self.is_leader and not self.hold:
            wait_s = max(0, due - self.clock.wall_ms()) / 1000 + 0.001
            self._duty = asyncio.get_running_loop().call_later(wait_s, self._expire)

    def _expire(self) -> None:
        self._duty = None
        self.broker.offer(Request(Expire()), _ignore)

    def advance(self, ms: int) -> None:
        """The wall clock goes on by `ms` at once."""
        self.clock.pushed_ms += ms
        self._plan_expiry()

    def change(self, *, role: str, leader: str | None, term: int | None = None) -> None:
        self.role, self.leader = role, leader
        self.term = self.term + 1 if term is None else term
        self.broker.role_changed()

    def start(self) -> None:
        self.broker.role_changed()
        self.broker.offer(Request(Genesis("c-test", b"s" * 32, (self.node_id,))), _ignore)

    def stop(self) -> None:
        self.broker.close()
        if self._duty is not None:
            self._duty.cancel()


def _ignore(_result: Committed | TrivetError) -> None:
    return None


@contextlib.asynccontextmanager
async def serving(node: Loopback, settings: Settings | None = None) -> AsyncIterator[str]:
    """The node behind a real socket; yields its base URL."""
    server = ApiServer(node.broker, node.waiters, settings)
    port = await server.start("127.0.0.1", 0)
    url = f"http://127.0.0.1:{port}"
    node.urls[node.node_id] = url
    node.start()
    try:
        yield url
    finally:
        node.stop()
        await server.stop(timeout_s=0.2)


def run(
    test: Callable[[Loopback], Awaitable[None]], config: QueueConfig | None = None, **options: int
) -> None:
    """The test on a started node that has a queue `q`."""

    async def main() -> None:
        node = Loopback(**options)  # type: ignore[arg-type]
        node.start()
        try:
            async with asyncio.timeout(20):
                await node.broker.submit(Request(PutQueue("q", config or QueueConfig())))
                await test(node)
        finally:
            node.stop()

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - bounded by the test's timeout
        await asyncio.sleep(0)
