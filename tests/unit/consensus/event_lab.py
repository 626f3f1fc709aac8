"""Replicas driven as the real driver does it, on a virtual clock: events, not steps.

Turns follow messages and syncs and come at least every 20 ms, one sync is under way at a time and every fsync in it
takes its time, messages and the news of a closed connection arrive when they arrive.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

from tests.simulation.disk import SimDisk
from tests.unit.consensus.lab import Lab, LabNode
from trivet.consensus.port import Applied, Outcome
from trivet.wire import frames
from trivet.wire.frames import Message

TICK_S = 0.02


class EventLab(Lab):
    """`disk_s`, `net_s`, `notice_s`: ranges of seconds for an fsync, a message, and for a survivor to be told that a
    process has died."""

    def __init__(
        self,
        names: str = "abc",
        seed: int = 1,
        disk_s: tuple[float, float] = (0.001, 0.003),
        net_s: tuple[float, float] = (0.0002, 0.001),
        notice_s: tuple[float, float] = (0.001, 0.02),
        **settings: Any,
    ) -> None:
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._rng = random.Random(f"events {seed}")
        self.disk_s, self.net_s, self.notice_s = disk_s, net_s, notice_s
        self._arrives: dict[tuple[str, str], float] = {}
        self._asked: set[str] = set()
        self._running: dict[str, Any] = {}
        super().__init__(names, seed, **settings)
        for node in self.nodes.values():
            self._tick_for_ever(node)

    # --- events -----------------------------------------------------------------------------------------

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, what))

    def step(self, seconds: float = 0.0) -> None:
        """One event."""
        when, _, what = heapq.heappop(self._events)
        self.now = max(self.now, when)
        what()

    def between(self, span: tuple[float, float]) -> float:
        return self._rng.uniform(*span)

    def sent(self, sender: str, receiver: str, message: Message) -> None:
        """In order on each link, like TCP."""
        if (sender, receiver) not in self.links:
            return
        frame = frames.encode(message)
        when = max(self.now + self.between(self.net_s), self._arrives.get((sender, receiver), 0.0))
        self._arrives[sender, receiver] = when

        def arrive() -> None:
            node = self[receiver]
            if node.alive and (sender, receiver) in self.links:
                decoded = frames.decode(frame)
                assert decoded is not None
                node.replica.receive(sender, decoded)
                self._wake(node)

        self.at(when, arrive)

    # --- the driver ---------------------------------------------------------------------------------------

    def _tick_for_ever(self, node: LabNode) -> None:
        def tick() -> None:
            self._turn(node, timer=True)
            self.at(self.now + TICK_S, tick)

        self.at(self.now + self.between((0.0, TICK_S)), tick)

    def _wake(self, node: LabNode) -> None:
        if node.name not in self._asked:
            self._asked.add(node.name)
            self.at(self.now, lambda: self._turn(node))

    def _turn(self, node: LabNode, timer: bool = False) -> None:
        self._asked.discard(node.name)
        if node.alive:
            self._begin_sync(node)
            if timer or not node.replica.steady:
                node.replica.tick()
            self._begin_sync(node)

    def _begin_sync(self, node: LabNode) -> None:
        if node.name in self._running:
            return
        job = node.replica.take_sync()
        if job is None:
            return
        took = sum(self.between(self.disk_s) for _ in range(fsyncs(node.disk, job.run)))
        life = node.lives
        self._running[node.name] = job

        def end() -> None:
            del self._running[node.name]
            if node.alive and node.lives == life:
                node.replica.synced(job)
                self._turn(node)

        self.at(self.now + took, end)

    # --- a kill ---------------------------------------------------------------------------------------------

    def kill_now(self, name: str) -> None:
        """kill -9: what is in the sockets still arrives, then each survivor learns of it in its own time."""
        node = self[name]
        node.alive = False
        node.disk.kill()
        for other in self.names:
            if other == name:
                continue
            when = self.now + self.between(self.notice_s)
            self.at(max(when, self._arrives.get((name, other), 0.0)), self._closer(name, other))

    def _closer(self, name: str, other: str) -> Callable[[], None]:
        def close() -> None:
            self.links -= {(name, other), (other, name)}
            if self[other].alive:
                self[other].replica.peer_down(name)
                self._wake(self[other])

        return close


def fsyncs(disk: SimDisk, run: Callable[[], None]) -> int:
    """How many fsyncs `run` makes."""
    count = 0
    enter = disk.enter

    def counting(operation: str, *more: Any, **named: Any) -> None:
        nonlocal count
        count += operation in ("sync", "sync_dir")
        enter(operation, *more, **named)

    disk.enter = counting  # type: ignore[method-assign]
    try:
        run()
    finally:
        del disk.enter  # type: ignore[method-assign]
    return count


def failover_s(lab: EventLab) -> float:
    """From the kill of a leader that writes all the time to the first applied write of another."""
    leader = lab.leader()
    load(lab, leader)
    lab.run(lab.between((0.3, 0.5)))
    lab.kill_now(leader.name)
    killed_at = lab.now
    done: list[Outcome] = []
    asked: dict[str, bool] = {}

    def applied() -> bool:
        for node in lab.nodes.values():
            if node.alive and node.replica.can_propose and not asked.get(node.name):
                asked[node.name] = True
                node.replica.propose(b"after", done.append, 5.0)
        return any(isinstance(one, Applied) for one in done)

    lab.until(applied, 20)
    return lab.now - killed_at


def load(lab: EventLab, leader: LabNode) -> None:
    """One write after the other while it leads."""

    def put(_: Outcome | None = None) -> None:
        if leader.alive and leader.replica.can_propose:
            lab.at(lab.now, lambda: leader.replica.propose(b"x" * 100, put, 5.0) if leader.alive else None)

    put()
