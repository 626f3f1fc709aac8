"""Python's cycle collector, kept from holding the loop (R9).

Its full collection looks at every living object: 60-170 ms of CPU were measured at 15,000 messages, and it grows with
the state. So what has lived through the two young generations is frozen: no later collection looks at it again. The
machine's records are freed by their counts like everything else; only a cycle that was frozen while it lived is never
found, and the servers make next to none (measured: 10 objects after 22,500 messages over HTTP).
"""

from __future__ import annotations

import gc

YOUNG = 1_000
"""Objects born until the youngest generation is collected."""
MIDDLE = 2
"""Collections of the youngest until the second one is: about 3,000 objects, up to 1 us each."""
NEVER = 1 << 30
TIMERS = 10
"""Calls of `on_timer`, some 20 ms apart, after which the young are frozen at the latest. What holds plain records makes
no work for the collector while it grows, and was met, still young, with millions of them: 26-46 ms at 1,000,000."""


class Garbage:
    """One for each node; the process's collector is changed while any of them is started."""

    _started = 0
    _before = (700, 10, 10)

    def __init__(self) -> None:
        self._mine = False
        self._timers = 0

    def start(self) -> None:
        """Everything that is there by now (modules, a recovered state) is frozen: nobody waits for the loop yet."""
        if self._mine:
            return
        self._mine = True
        if Garbage._started == 0:
            Garbage._before = gc.get_threshold()
            gc.collect()
            gc.freeze()
            gc.set_threshold(YOUNG, MIDDLE, NEVER)
        Garbage._started += 1

    def on_timer(self) -> None:
        """Costs next to nothing: the collector's lists are joined."""
        self._timers += 1
        if self._mine and (gc.get_count()[2] or self._timers >= TIMERS):
            self._timers = 0
            gc.collect(1)  # what is garbage by now goes first
            gc.freeze()

    def stop(self) -> None:
        """The last one gives the collector back as it was."""
        if not self._mine:
            return
        self._mine = False
        Garbage._started -= 1
        if Garbage._started == 0:
            gc.set_threshold(*Garbage._before)
            gc.unfreeze()
