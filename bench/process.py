"""What a process used, from /proc: CPU seconds, resident memory; and what else ran on the machine meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, all its threads (utime + stime: fields 14 and 15 of /proc/PID/stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def cpu_of(pids: Iterable[int]) -> float:
    return sum(cpu_s(pid) for pid in pids)


def rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has no memory")


def available_mb() -> float:
    """What the machine could give to a new process without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    return 0.0  # an old kernel


def disk_mb(directory: Path) -> float:
    """Blocks in use below a directory, in MB."""
    return sum(path.stat().st_blocks for path in directory.rglob("*") if path.is_file()) * 512 / 1e6


@dataclass(frozen=True)
class Machine:
    """Ticks of all cores since boot: in use, stolen by the host."""

    busy_s: float
    stolen_s: float

    @classmethod
    def now(cls) -> Machine:
        user, nice, system, _idle, _iowait, irq, softirq, steal = (
            int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        )
        return cls((user + nice + system + irq + softirq) * TICK_S, steal * TICK_S)
