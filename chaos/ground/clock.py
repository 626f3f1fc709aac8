"""Wall clocks that a drill can set, one for each node. The monotonic clock of a node always tells the truth.

A shim (`clock.c`) is preloaded into the node; it reads how far the clock is off from a mapped file, and
writes there how often it was asked and what it last answered: that is the proof that a jump was seen.
(libfaketime cannot do it: with its monotonic clock left alone, Python's sleep fails.)
"""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from chaos.ground import native
from chaos.ground.tools import Unavailable

VARIABLE = "TRIVET_DRILL_CLOCK"
_LAYOUT = struct.Struct("=9q")  # struct page of clock.c
_SETTING = struct.Struct("=5q")
_CONTROL = (
    "import time; a = time.time_ns(); b = time.monotonic_ns(); "
    "time.sleep(0.01); print(a, b, time.monotonic_ns() - b)"
)
_CONTROL_MS = 86_400_000


@dataclass(frozen=True)
class Reading:
    """What the shim of one node has done: `calls` times asked, `steps` sudden changes of more than 10 ms
    handed out, `applied_ms` how far off its last answer was. All zero while no process has the shim."""

    calls: int
    steps: int
    applied_ms: float


class Clocks:
    """`count` clocks, numbered from 1, with their files in `directory`. Raises `Unavailable`."""

    def __init__(self, directory: Path, count: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._shim = native.build("clock")
        self._paths = [directory / f"clock-{node}" for node in range(1, count + 1)]
        self._pages: list[mmap.mmap] = []
        for path in self._paths:
            path.write_bytes(bytes(_LAYOUT.size))
            with path.open("r+b") as file:
                self._pages.append(mmap.mmap(file.fileno(), _LAYOUT.size))
        self._prove()

    @staticmethod
    def available() -> str | None:
        """Why not, or None."""
        try:
            native.build("clock")
        except Unavailable as why:
            return str(why)
        return None

    def environment(self, node: int) -> dict[str, str]:
        """What a process needs to run on this clock."""
        return {"LD_PRELOAD": str(self._shim), VARIABLE: str(self._paths[node - 1])}

    def jump(self, node: int, milliseconds: int) -> None:
        """The node's wall clock is off by this much from now on (not added to an earlier jump)."""
        self._set(node, offset_ns=milliseconds * 1_000_000)

    def drift(self, node: int, parts_per_million: int) -> None:
        """The node's wall clock runs faster (or slower) by this much from now on, beginning with the truth."""
        self._set(node, drift_ppb=parts_per_million * 1000)

    def strobe(self, node: int, milliseconds: int, period_ms: int) -> None:
        """Off by `milliseconds` for half of each period, true for the other half."""
        self._set(node, strobe_ns=milliseconds * 1_000_000, half_ns=max(1, period_ms * 500_000))

    def heal(self) -> None:
        """All tell the truth (for a node that was off, that is a jump back)."""
        for node in range(1, len(self._pages) + 1):
            self._set(node)

    def reading(self, node: int) -> Reading:
        *_, calls, steps, applied_ns = _LAYOUT.unpack(self._pages[node - 1][:])
        return Reading(calls, steps, applied_ns / 1e6)

    def close(self) -> None:
        """The files stay: a process may still have them mapped."""
        for page in self._pages:
            page.close()
        self._pages.clear()

    def _set(
        self, node: int, offset_ns: int = 0, drift_ppb: int = 0, strobe_ns: int = 0, half_ns: int = 0
    ) -> None:
        """The version is odd while the values change, so that the shim never takes a mixture."""
        page = self._pages[node - 1]
        version = int.from_bytes(page[:8], sys.byteorder)
        page[:8] = (version + 1).to_bytes(8, sys.byteorder)
        page[8 : 8 + _SETTING.size] = _SETTING.pack(
            offset_ns, drift_ppb, time.monotonic_ns(), strobe_ns, half_ns
        )
        page[:8] = (version + 2).to_bytes(8, sys.byteorder)

    def _prove(self) -> None:
        """Positive control: a Python with the shim sees the jump, and its monotonic clock does not."""
        self.jump(1, _CONTROL_MS)
        began_ns, steady_ns = time.time_ns(), time.monotonic_ns()
        done = subprocess.run(
            [sys.executable, "-S", "-c", _CONTROL],
            env={**os.environ, **self.environment(1)},
            capture_output=True,
            text=True,
            timeout=30,
        )
        self.jump(1, 0)
        if done.returncode:
            raise Unavailable(f"a Python with the clock shim does not run: {done.stderr.strip()}")
        wall_ns, monotonic_ns, slept_ns = map(int, done.stdout.split())
        off_ms = (wall_ns - began_ns) / 1e6 - _CONTROL_MS
        if not (0 <= off_ms < 30_000 and 0 <= monotonic_ns - steady_ns < 30e9 and slept_ns > 9e6):
            raise Unavailable(f"the clock shim has no effect here: off by {off_ms:.0f} ms from what was set")
