"""Units and the two ports through which time enters Trivet.

Instants are Unix milliseconds (``*_at_ms``), lengths are milliseconds (``*_ms``), sizes are bytes.
Nothing below ``node/`` reads a clock or a random source of its own: both come through a constructor,
so that the simulator can run the same code (design 2, "Build it so that the simulator can run it").
"""

from __future__ import annotations

from typing import Protocol

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


class Clock(Protocol):
    """A source of time. The simulator gives each node its own, which may drift and jump."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes back."""
        ...

    def wall_ms(self) -> int:
        """Unix milliseconds; may jump either way, so nothing is decided by it alone (R1)."""
        ...
