"""Linearizable reads: ReadIndex (Ongaro 6.4). Reads that arrive during a round share the next one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trivet.consensus.engine import Engine

Done = Callable[[bool], None]


@dataclass(slots=True)
class _Round:
    """Confirmed once a quorum answered a message numbered `sequence` or later, in this term."""

    index: int
    sequence: int
    reads: list[Done]


class Reads:
    """A read is answered True when this node led at some instant after it arrived, and everything committed by
    then is applied here; False when leadership ends first."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: list[Done] = []
        self._round: _Round | None = None
        self._confirmed: list[_Round] = []

    def __len__(self) -> int:
        rounds = len(self._round.reads) if self._round is not None else 0
        return len(self._waiting) + rounds + sum(len(r.reads) for r in self._confirmed)

    def read(self, done: Done) -> None:
        engine = self._engine
        if not engine.is_leader or not engine.may_vote or engine.stopped:
            engine.call(done, False)
            return
        self._waiting.append(done)
        self.check()

    def check(self) -> None:
        """After anything that may move a round: an answer, an applied entry, a new read."""
        engine = self._engine
        if not engine.is_leader:
            return
        current = self._round
        if current is not None and engine.replication.heard_quorum(current.sequence):
            self._confirmed.append(current)
            self._round = None
        # A leader knows what is committed only after its own no-op is (Ongaro 6.4, step 1)
        if self._round is None and self._waiting and engine.caught_up:
            waiting, self._waiting = self._waiting, []
            self._round = _Round(engine.commit_index, engine.outbox.sequence + 1, waiting)
            engine.replication.heartbeats()
            if engine.replication.heard_quorum(self._round.sequence):  # alone
                self._confirmed.append(self._round)
                self._round = None
        self.answer()

    def answer(self) -> None:
        """What is confirmed, also between two entries: the next one may be open for long. Nothing while an entry is
        half applied, not even to reads of an earlier index: they look at the state as it is (R25)."""
        if not self._confirmed or not self._engine.applying.between_entries:
            return
        applied = self._engine.applied_index
        while self._confirmed and self._confirmed[0].index <= applied:
            for done in self._confirmed.pop(0).reads:
                self._engine.call(done, True)

    def fail_all(self) -> None:
        rounds = [*self._confirmed, *([self._round] if self._round is not None else [])]
        reads = [done for r in rounds for done in r.reads] + self._waiting
        self._waiting, self._round, self._confirmed = [], None, []
        for done in reads:
            self._engine.call(done, False)
