"""All points of one scenario in one walk: the clean run is forked at each call, once for each fault.

The prefix is shared by that: a child costs what comes behind its fault, its recovery and its verdict. A fork is
the run itself, so what a child finds a replay from the beginning finds too (a test compares their traces).
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from tests.crashpoints.cluster import Result
from tests.crashpoints.play import play
from tests.crashpoints.points import FAULTS, Point

CHILD_SECONDS = 60
"""Of real time. A run that takes longer hangs: it is ended and counts as a violation."""

Took = Callable[[Point, Result], None]


@dataclass
class Walk:
    """One scenario, story and victim. `jobs` children run side by side."""

    scenario: str
    story: int
    victim: str
    jobs: int
    took: Took
    control: str | None = None
    chosen: frozenset[Point] | None = None  # None: all
    _running: dict[int, tuple[int, Point]] = field(default_factory=dict)  # pipe → (process, point)
    _pipe: int | None = None  # in a child: where its result goes

    def point(self, call: str, n: int, fault: str) -> Point:
        return Point(self.scenario, self.story, self.victim, call, n, fault)

    @cached_property
    def clean(self) -> Result:
        """The run in which nothing fails, and which must pass."""
        result = play(self.scenario, self.story, self.victim, lambda call, n: None, self.control)
        if result.violations:
            raise RuntimeError(
                f"{self.scenario} story {self.story} fails without any fault: {result.violations[0]}"
            )
        return result

    @property
    def points(self) -> list[Point]:
        """All of them: the clean run's calls, each with the faults that make sense there."""
        return [
            self.point(call, n, fault)
            for call, count in sorted(self.clean.calls.items())
            for n in range(1, count + 1)
            for fault in FAULTS[call]
        ]

    def run(self) -> None:
        """Calls `took` for each point, in no order."""
        sys.stdout.flush()
        gc.collect()
        gc.freeze()
        try:
            clean = play(
                self.scenario, self.story, self.victim, self._strike, self.control, ended=self._child_ended
            )
            if clean.violations:
                raise RuntimeError(
                    f"{self.scenario} story {self.story} fails without any fault: {clean.violations}"
                )
            while self._running:
                self._collect()
        finally:
            gc.unfreeze()

    def _strike(self, call: str, n: int) -> str | None:
        for fault in FAULTS[call]:
            point = self.point(call, n, fault)
            if self.chosen is not None and point not in self.chosen:
                continue
            while len(self._running) >= self.jobs:
                self._collect()
            if self._fork(point):
                return fault
        return None

    def _fork(self, point: Point) -> bool:
        """True in the child."""
        reader, writer = os.pipe()
        process = os.fork()
        if process:
            os.close(writer)
            self._running[reader] = (process, point)
            return False
        gc.disable()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(CHILD_SECONDS)
        self._pipe = writer
        return True

    def _child_ended(self, result: Result) -> None:
        if self._pipe is None:
            return
        with os.fdopen(self._pipe, "wb") as pipe:
            pipe.write(msgspec.json.encode(result))
        os._exit(0)

    def _collect(self) -> None:
        """Waits for one child."""
        for reader in select.select(list(self._running), [], [])[0]:
            process, point = self._running.pop(reader)
            with os.fdopen(reader, "rb") as pipe:
                said = pipe.read()
            status = os.waitpid(process, 0)[1]
            if status or not said:
                result = Result(
                    [f"process: ended with status {status} and no verdict"], None, {}, 0, 0, "", 0.0
                )
            else:
                result = msgspec.json.decode(said, type=Result)
            self.took(point, result)
