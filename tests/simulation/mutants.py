"""Rules taken out one at a time: the simulation must notice (``python -m tests.simulation.mutants [--seeds N] [NAME…]``).

Exit 1 if a mutant survives its seeds. Directed tests of further mutants: tests/unit/consensus/test_mutants.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.simulation.queue_mutants import QUEUE_MUTANTS
from tests.simulation.run import simulation
from trivet.consensus.elections import Elections
from trivet.consensus.engine import Engine
from trivet.consensus.outbox import Outbox
from trivet.consensus.receiver import Receiver
from trivet.consensus.replication import Replication
from trivet.storage import recovery
from trivet.storage.hard_state import HardSlots
from trivet.storage.storage import Storage

Patch = tuple[Any, str, Any]


def no_barrier() -> Patch:
    """Votes and acknowledgements leave before they are durable (design 3)."""
    post = Outbox.post
    return Outbox, "post", lambda self, peer, message, barrier: post(self, peer, message, 0)


def leader_counts_itself_early() -> Patch:
    """Commit passes the leader's durable index (R8)."""
    return Engine, "may_count", lambda self, index: True


def cut_without_conflict() -> Patch:
    """The stock truncation (r03)."""
    take = Receiver._take

    def cutting(self: Receiver, previous: int, entries: list[tuple[int, bytes]]) -> tuple[bool, int]:
        if entries and previous < self._engine.storage.last_index:
            self._engine.truncate_from(previous + 1)
        return take(self, previous, entries)

    return Receiver, "_take", cutting


def read_without_quorum() -> Patch:
    """A leader answers reads without asking anybody."""
    return Replication, "heard_quorum", lambda self, sequence: True


def vote_not_stored() -> Patch:
    """Term and vote never reach the disk (r01b)."""
    return HardSlots, "_write", lambda self, slot, data: None


def recovering_votes() -> Patch:
    """A damaged or wiped node votes at once (R6)."""
    return Engine, "may_vote", property(lambda self: self.born and not self.stopped)


def damage_is_torn() -> Patch:
    """Whatever is unreadable is cut, as if it had never been synced (R3)."""
    return recovery, "judge", lambda end, unused, proof, watermark: recovery.Verdict("torn", end)


def no_sync() -> Patch:
    """The log is written and not synced."""
    from tests.simulation.disk import SimFile

    return SimFile, "sync", lambda self: None


def double_vote() -> Patch:
    """A vote of this term is forgotten when another candidate asks."""
    asked = Elections.on_request_vote

    def forgetting(self: Elections, peer: Any, m: Any) -> None:
        if m.term == self._engine.term:
            self._engine.voted_for = None
        asked(self, peer, m)

    return Elections, "on_request_vote", forgetting


def truncate_forgotten() -> Patch:
    """A conflict is overwritten in memory only: the record of the cut is not written."""
    cut = Storage.truncate_from

    def silent(self: Storage, index: int) -> None:
        cut(self, index)
        self._log._buffer = [item for item in self._log._buffer if item.kind != 2]

    return Storage, "truncate_from", silent


MUTANTS: tuple[Callable[[], Patch], ...] = (
    no_barrier, leader_counts_itself_early, cut_without_conflict, read_without_quorum, vote_not_stored,
    recovering_votes, damage_is_torn, no_sync, double_vote, truncate_forgotten,
)  # fmt: skip


def hunt(mutant: Callable[[], Patch], seeds: int, seconds: float = 20.0) -> tuple[int, str] | None:
    """The first seed that notices, and what it says."""
    owner, name, new = mutant()
    old = owner.__dict__[name]
    machine = "queue" if mutant in QUEUE_MUTANTS else "list"
    setattr(owner, name, new)
    try:
        for seed in range(seeds):
            result = simulation((seed, 5 if seed % 3 == 2 else 3, seconds, machine, False))
            if result.violations:
                return seed, result.violations[0]
    finally:
        setattr(owner, name, old)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description=__doc__)
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    survived = 0
    for mutant in (*MUTANTS, *QUEUE_MUTANTS):
        if options.names and mutant.__name__ not in options.names:
            continue
        started = time.perf_counter()
        found = hunt(mutant, options.seeds)
        survived += found is None
        verdict = (
            f"caught at seed {found[0]}: {found[1][:90]}" if found else f"NOT caught in {options.seeds} seeds"
        )
        print(f"{mutant.__name__:<28} {verdict} ({time.perf_counter() - started:.0f} s)", flush=True)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
