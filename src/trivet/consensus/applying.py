"""Committed entries into the state machine, in order and in slices (R9, R25; hazard r07)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trivet.consensus.contained import FOLLOWER, REGULAR
from trivet.consensus.port import Fatal, OutOfTime
from trivet.units import KIB

if TYPE_CHECKING:
    from trivet.consensus.engine import Engine

LATER_ENTRIES_MAX = 16
LATER_BYTES_MAX = 64 * KIB


class Applying:
    """At most one entry is open at a time; it may take many turns."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._open: tuple[int, int] | None = None  # (index, term)

    @property
    def between_entries(self) -> bool:
        return self._open is None

    @property
    def behind(self) -> bool:
        return self._open is not None or self._engine.machine.applied_index < self._engine.commit_index

    @property
    def urgent(self) -> bool:
        """Behind, and not to be left to the timer's next tick. A follower's few small entries are: nobody waits for
        them (what it knows to be committed is older anyway), and together they cost less than one by one."""
        engine = self._engine
        if self._open is not None or engine.state != FOLLOWER:
            return self.behind
        first, last = engine.machine.applied_index + 1, engine.commit_index
        if last - first >= LATER_ENTRIES_MAX:
            return True
        return engine.storage.bytes_of(first, last) > LATER_BYTES_MAX

    def run(self, out_of_time: OutOfTime) -> None:
        """Until all that is committed is applied or the slice is used up; at least one step."""
        engine = self._engine
        while self.behind:
            if self._open is None:
                self._begin()
            assert self._open is not None
            try:
                done = engine.machine.step(out_of_time)
            except Exception as error:  # r07: a deterministic defect; going on would diverge or wedge
                raise Fatal(f"the state machine raised at index {self._open[0]}: {error!r}") from error
            if done:
                self._finish()
            if out_of_time():
                return

    def _begin(self) -> None:
        engine = self._engine
        index = engine.machine.applied_index + 1
        term = engine.journal.term_at(index)
        command = engine.storage.entry(index)
        data = command[1:] if command[:1] == REGULAR else b""
        try:
            engine.machine.start(index, term, data)
        except Exception as error:
            raise Fatal(f"the state machine refused index {index}: {error!r}") from error
        self._open = (index, term)

    def _finish(self) -> None:
        engine = self._engine
        assert self._open is not None
        index, term = self._open
        self._open = None
        if engine.machine.applied_index != index:
            raise Fatal(f"applied index {engine.machine.applied_index} after entry {index}")
        engine.last_applied = index
        engine.proposals.applied(index, term, engine.machine.result)
        engine.reads.answer()
