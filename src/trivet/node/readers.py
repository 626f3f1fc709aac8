"""Who follows the events of a run on this node, leader or not (R29).

A reader asks for the events behind its position and is woken when an applied entry brings new ones (an
effect, not a poll). Everything that many readers at once could make long is spread over turns of the loop.
A reader's stream ends when this node has not heard of a leader for `CONTACT_LOST_MS`, when it drains, or
when the run is forgotten; its client goes on at another node.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from trivet.errors import TrivetError
from trivet.node.broker import Broker
from trivet.node.waiters import Waiters
from trivet.units import SECOND_MS

if TYPE_CHECKING:
    from trivet.machine.core import Machine
    from trivet.machine.effects import EntryEffects

T = TypeVar("T")

CONTACT_LOST_MS = 5 * SECOND_MS
LOOK_S = 0.5  # how often the contact is looked at while anybody reads
WOKEN_AT_ONCE = 25  # readers that begin to look in one turn of the loop
PAGES_AT_ONCE = 4  # pages that are made in one turn


class Reader:
    """One stream. `ended`: why it must end. `stale`: something happened since it looked last."""

    __slots__ = ("ended", "news", "queued", "run_id", "stale")

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.ended: str | None = None
        self.stale = True
        self.queued = False
        self.news: asyncio.Future[None] | None = None


class Readers:
    """The node's readers. One thread."""

    def __init__(self, broker: Broker, waiters: Waiters) -> None:
        self._broker = broker
        self._waiters = waiters
        self._by_run: dict[str, dict[Reader, None]] = {}
        self._woken: deque[Reader] = deque()
        self._pumping = False
        self._desk = asyncio.Semaphore(PAGES_AT_ONCE)
        self._look: asyncio.TimerHandle | None = None
        broker.on_effects.append(self._effects)

    def open(self, run_id: str) -> Reader:
        """Raises `overloaded` and `draining`. Close it, whatever happens."""
        if self._broker.host.draining:
            raise TrivetError("draining", "this node is stopping")
        self._waiters.take_place()
        reader = Reader(run_id)
        self._by_run.setdefault(run_id, {})[reader] = None
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(LOOK_S, self._on_look)
        return reader

    def close(self, reader: Reader) -> None:
        readers = self._by_run.get(reader.run_id)
        if readers is None or reader not in readers:
            return
        self._waiters.give_place()
        del readers[reader]
        if not readers:
            del self._by_run[reader.run_id]
        if not self._by_run and self._look is not None:
            self._look.cancel()
            self._look = None

    async def page(self, reader: Reader, view: Callable[[Machine], T]) -> T:
        """`view` of this node's own state; readers that have much to catch up with take turns."""
        async with self._desk:
            reader.stale = False
            made = await self._broker.read_local(view)
            await asyncio.sleep(0)
            return made

    async def wait(self, reader: Reader, seconds: float) -> None:
        """Until there is something new for it, it must end, or the time is over."""
        if reader.stale or reader.ended is not None or seconds <= 0:
            return
        reader.news = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait((reader.news,), timeout=seconds)
        finally:
            reader.news = None

    def end_all(self, why: str) -> None:
        for readers in self._by_run.values():
            for reader in readers:
                reader.ended = reader.ended or why
                self._wake(reader)

    def lost_contact(self) -> bool:
        """No leader was heard of for too long: what is read here may be any age."""
        if self._broker.consensus.is_leader:
            return False
        age_ms = self._broker.host.leader_contact_age_ms()
        return age_ms is None or age_ms > CONTACT_LOST_MS

    # --- news -------------------------------------------------------------------------------------------

    def _effects(self, effects: EntryEffects) -> None:
        if not self._by_run:
            return
        for run_id in effects.runs:
            for reader in self._by_run.get(run_id, ()):
                self._wake(reader)

    def _wake(self, reader: Reader) -> None:
        reader.stale = True
        if reader.queued:
            return
        reader.queued = True
        self._woken.append(reader)
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        for _ in range(min(WOKEN_AT_ONCE, len(self._woken))):
            reader = self._woken.popleft()
            reader.queued = False
            if reader.news is not None and not reader.news.done():
                reader.news.set_result(None)
        self._pumping = bool(self._woken)
        if self._pumping:
            asyncio.get_running_loop().call_soon(self._pump)

    def _on_look(self) -> None:
        self._look = None
        if not self._by_run:
            return
        if self._broker.host.draining:
            self.end_all("draining")
        elif self._broker.consensus.recovering is not None or self.lost_contact():
            self.end_all("no leader was heard of")
        self._look = asyncio.get_running_loop().call_later(LOOK_S, self._on_look)
