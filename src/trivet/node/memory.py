"""How much memory the node needs, by a measure that falls again (R10).

The resident size of a Python process hardly falls when a backlog has been worked off: freed records leave holes in
its arenas, which new records fill. Refusing enqueues until it falls may mean refusing them for ever. So what the
state has given up since it was largest is taken off: that much is free inside the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

HIGH = 0.80
LOW = 0.75
HARD = 0.95
"""Above it nothing is taken off: the estimate is not worth the process."""
MESSAGE_BYTES = 1000
"""What a message takes besides its body, at the least: too little only keeps the pressure up for longer."""


class MemoryGauge:
    """`pressed`: new messages are refused. `resident`: bytes; `weight`: bytes the state takes, as far as is known."""

    def __init__(self, resident: Callable[[], int], weight: Callable[[], int], limit_bytes: int) -> None:
        self._resident = resident
        self._weight = weight
        self.limit_bytes = limit_bytes
        self.resident_bytes = 0
        self.pressed = False
        self._largest = 0

    def look(self) -> bool:
        """Whether `pressed` has changed."""
        before = self.pressed
        used = self.resident_bytes = self._resident()
        if used <= self.limit_bytes * LOW:
            self._largest = 0
        else:
            weight = self._weight()
            self._largest = max(self._largest, weight)
            used -= self._largest - weight
        mark = LOW if self.pressed else HIGH
        self.pressed = used > self.limit_bytes * mark or self.resident_bytes > self.limit_bytes * HARD
        return self.pressed != before


def resident_bytes() -> int:
    """Resident memory of this process."""
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_limit_bytes(
    configured: int,
    cgroup_files: tuple[str, ...] = (
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ),
) -> int:
    """`configured`, else the smaller of the cgroup's limit and the machine's memory."""
    if configured:
        return configured
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in cgroup_files:
        try:
            text = Path(name).read_text(encoding="ascii").strip()
        except OSError:
            continue  # not that version of cgroups, or none
        if text.isdigit():
            limit = min(limit, int(text))
    return limit
