"""How long processes were ready to run and had no core: what a busy machine takes is not the cluster's doing.

The bounds of liveness (L1) are lengths of real time. On a machine that others use, too, a node may wait for a
core longer than for its peers; that time is measured and does not count. A node that is stuck waits for no core.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def delay_s(pid: int) -> float:
    """Seconds that the main thread of `pid` has waited in a run queue since its start; 0 for a process that ended.

    Linux: the second field of /proc/PID/schedstat, in nanoseconds.
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def stolen_s() -> float:
    """Seconds that the host took from each core of this machine since boot, on average (/proc/stat)."""
    stolen = int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])
    return stolen * TICK_S / (os.cpu_count() or 1)


class Starved:
    """From its making on: the seconds that the worst of the processes, this one and the host took."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self._before = self._now()
        self._stolen = stolen_s()

    def _now(self) -> dict[int, float]:
        return {pid: delay_s(pid) for pid in (*self._pids(), os.getpid())}

    def seconds(self) -> float:
        """A process that was not there before counts from its start; the harness's own wait adds to the nodes'."""
        own = os.getpid()
        waited = {pid: now - self._before.get(pid, 0.0) for pid, now in self._now().items()}
        mine = waited.pop(own)
        return max(waited.values(), default=0.0) + mine + stolen_s() - self._stolen
