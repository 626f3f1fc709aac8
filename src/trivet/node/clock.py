"""The real clock: the one place of the server that asks the operating system for time."""

from __future__ import annotations

import time


class RealClock:
    """`units.Clock` over CLOCK_MONOTONIC and the wall clock."""

    __slots__ = ()

    monotonic = staticmethod(time.monotonic)  # itself: asked some thirty times a message

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000
