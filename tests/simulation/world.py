"""Virtual time, per-node clocks, seeded random streams and the trace of one simulated world.

Everything that happens is one callable in one queue, ordered by (virtual time, serial number); the trace
hash is taken over every step that matters, so that two runs of a seed can be compared bit for bit.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter
from collections.abc import Callable

EPOCH_MS = 1_760_000_000_000
"""The wall clock of a perfect node at virtual time 0."""


class Violation(BaseException):
    """A law was broken. The run ends and the seed is printed. Not an `Exception`: the product isolates callbacks
    that raise, and must not isolate this."""


class World:
    """Owns the queue, the clock, the counters and the trace. Seconds everywhere."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 0.0
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.log: list[str] | None = None  # a readable trace, only when asked for
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self._trace = hashlib.blake2b(digest_size=16)
        self.events = 0

    def stream(self, name: str) -> random.Random:
        """A random stream of its own, so that one part's draws do not shift another's (R37)."""
        return random.Random(f"trivet/{self.seed}/{name}")

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (max(when, self.now), self._serial, action))

    def after(self, delay: float, action: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (self.now + delay, self._serial, action))

    def trace(self, what: str, data: bytes = b"") -> None:
        """Add a step to the trace hash (and to the readable log if there is one)."""
        self._trace.update(f"{self.now!r} {what}\n".encode())
        if data:
            self._trace.update(data)
        if self.log is not None:
            self.log.append(f"{self.now:10.4f} {what}")

    def say(self, what: str) -> None:
        """Readable log only: for what the trace hash already covers."""
        if self.log is not None:
            self.log.append(f"{self.now:10.4f}   {what}")

    @property
    def trace_hash(self) -> str:
        return self._trace.hexdigest()

    def count(self, what: str, by: int = 1) -> None:
        self.counts[what] += by

    def violate(self, law: str, text: str) -> None:
        self.violations.append(f"{law}: {text}")
        self.trace(f"VIOLATION {law}: {text}")
        raise Violation(f"{law}: {text} (virtual second {self.now:.4f})")

    def run_until(self, end: float) -> None:
        queue = self._queue
        while queue and queue[0][0] <= end:
            when, _, action = heapq.heappop(queue)
            self.now = when
            self.events += 1
            action()
        self.now = max(self.now, end)


class NodeClock:
    """One node's time (`units.Clock`): a monotonic clock that drifts and, across a reboot, starts anew; a
    wall clock that drifts with it and jumps. `cost` seconds pass at each look while `busy`: code takes time,
    so slices really end (R9, R25)."""

    def __init__(self, world: World, rate: float, offset_ms: int, cost: float) -> None:
        self._world = world
        self.rate = rate
        self.offset_ms = offset_ms
        self.cost = cost
        self._base = 0.0
        self._spent = 0.0

    def monotonic(self) -> float:
        self._spent += self.cost
        return self._base + (self._world.now * self.rate) + self._spent

    def wall_ms(self) -> int:
        return EPOCH_MS + int(self._world.now * self.rate * 1000) + self.offset_ms

    def reboot(self, base: float) -> None:
        self._base = base - self._world.now * self.rate
        self._spent = 0.0

    def jump_wall(self, by_ms: int) -> None:
        self.offset_ms += by_ms
