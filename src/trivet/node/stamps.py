"""R1: the time that goes into the log. The leader stamps each entry; nothing else decides time.

    stamp = max(last stamp + monotonic time since it, W)

W is the lower median of the wall clocks which the last quorum round reported. So time never stops and
never goes back, and one wrong clock never moves it. On a single node W is the own wall clock, with one
rule: a forward step of more than 60 s while running is ignored and raised as an alarm.
"""

from __future__ import annotations

from collections.abc import Callable

from trivet.units import MINUTE_MS, Clock

FORWARD_STEP_MS_MAX = MINUTE_MS
CLOCK_SUSPECT = "clock_suspect"


class WallGuard:
    """The wall clock of a single node, without its forward steps of more than 60 s.

    It remembers the offset between the wall clock and the monotonic one. The offset only rises, and only
    by steps of at most `FORWARD_STEP_MS_MAX`: a clock set back and later set right again raises nothing.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_ms = self._measure_ms()
        self.suspect = False

    def _measure_ms(self) -> int:
        return self._clock.wall_ms() - int(self._clock.monotonic() * 1000)

    def wall_ms(self) -> int:
        """Unix milliseconds that never go back while this object lives."""
        offset_ms = self._measure_ms()
        step_ms = offset_ms - self._offset_ms
        self.suspect = step_ms > FORWARD_STEP_MS_MAX
        if step_ms > 0 and not self.suspect:
            self._offset_ms = offset_ms
        return int(self._clock.monotonic() * 1000) + self._offset_ms


class Stamper:
    """Makes the stamps of one node's entries while it leads.

    `quorum_wall_ms`: W, or None while no quorum round has reported (then time goes on by the monotonic
    clock alone). `alone`: this is a single node; W is its own wall clock behind a `WallGuard`.
    """

    def __init__(self, clock: Clock, quorum_wall_ms: Callable[[], int | None], *, alone: bool) -> None:
        self._clock = clock
        self._quorum_wall_ms = quorum_wall_ms
        self._guard = WallGuard(clock) if alone else None
        self._last_ms = 0
        self._last_at = clock.monotonic()

    def take_office(self, machine_clock_ms: int) -> None:
        """Called when this node becomes leader: the time of earlier terms is not counted twice."""
        self._last_ms = max(self._last_ms, machine_clock_ms)
        self._last_at = self._clock.monotonic()

    def now_ms(self, machine_clock_ms: int) -> int:
        """The stamp of an entry proposed now. Never less than an earlier stamp or than the machine's clock."""
        stamp_ms = self.peek_ms(machine_clock_ms)
        if stamp_ms > self._last_ms:
            # Whole milliseconds only: the rest of the monotonic time goes on counting, so that a busy
            # leader, stamping many times a millisecond, does not lose time.
            elapsed_ms = int((self._clock.monotonic() - self._last_at) * 1000)
            self._last_at += elapsed_ms / 1000
            self._last_ms = stamp_ms
        return stamp_ms

    def peek_ms(self, machine_clock_ms: int) -> int:
        """What `now_ms` would answer, without counting as a stamp."""
        elapsed_ms = int((self._clock.monotonic() - self._last_at) * 1000)
        wall_ms = self._guard.wall_ms() if self._guard is not None else self._quorum_wall_ms()
        return max(self._last_ms + elapsed_ms, machine_clock_ms, wall_ms or 0)

    def alarms(self) -> list[str]:
        """`clock_suspect` while this node's own wall clock cannot be believed."""
        if self._guard is not None:
            self._guard.wall_ms()
            return [CLOCK_SUSPECT] if self._guard.suspect else []
        wall_ms = self._quorum_wall_ms()
        if wall_ms is None:
            return []
        return [CLOCK_SUSPECT] if abs(self._clock.wall_ms() - wall_ms) > FORWARD_STEP_MS_MAX else []
