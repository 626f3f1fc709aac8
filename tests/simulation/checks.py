"""The laws of Raft, looked at on every step from outside the nodes.

What a node has shown to others (its term, its votes) and what was committed is kept here, not on the simulated
disks: a disk that forgets is found out (R37, reliability B1 S18).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.world import World


@dataclass
class Audit:
    """What one node has let others see, over all its lives. A wiped or damaged node may forget: see `forgive`."""

    term: int = 0
    votes: dict[int, str] = field(default_factory=dict)
    # of this life only
    life_term: int = 0
    life_commit: int = 0
    life_applied: int = 0
    led: int = -1  # the last term in which it was seen leading
    last_log: tuple[int, int] = (0, 0)


class Checker:
    """Election safety, log matching, leader completeness, state machine safety, monotony, durable votes."""

    def __init__(self, world: World, names: list[str]) -> None:
        self.world = world
        self.audits = {name: Audit() for name in names}
        self.leaders: dict[int, str] = {}
        self.entries: dict[tuple[int, int], tuple[int, int]] = {}  # (index, term) -> (crc, term before)
        self.applied: dict[int, tuple[int, int]] = {}  # index -> (term, crc)
        self.committed: dict[int, int] = {}  # index -> term, as known from anybody's commit index
        self.committed_to = 0
        self.digests: dict[int, bytes] = {}

    # --- one step of one node -------------------------------------------------------------------------

    def life_begins(self, name: str, replica: Any, storage: Any) -> None:
        audit = self.audits[name]
        audit.life_term = audit.life_commit = audit.life_applied = 0
        audit.led = -1
        if storage.recovering is None:
            if storage.term < audit.term:
                self.world.violate(
                    "term forgotten", f"{name} is back in term {storage.term}, showed {audit.term}"
                )
            voted = audit.votes.get(storage.term)
            if voted is not None and storage.voted_for != voted:
                self.world.violate(
                    "vote forgotten", f"{name} in term {storage.term}: {storage.voted_for}, had shown {voted}"
                )

    def step(self, name: str, replica: Any, storage: Any) -> None:
        """After each input: what may only grow has grown, and a new leader is the right one."""
        audit = self.audits[name]
        term, commit, applied = replica.term, replica.commit_index, replica.applied_index
        if term == audit.life_term and commit == audit.life_commit and applied == audit.life_applied:
            if audit.led == term or not replica.is_leader:
                return  # nothing that this looks at has changed: most steps are so
        if term < audit.life_term or commit < audit.life_commit or applied < audit.life_applied:
            self.world.violate(
                "goes back",
                f"{name}: term {audit.life_term}→{term} commit {audit.life_commit}→{commit} "
                f"applied {audit.life_applied}→{applied}",
            )
        if applied > commit:
            self.world.violate("applied beyond commit", f"{name}: applied {applied}, commit {commit}")
        if commit > audit.life_commit:
            if audit.led == term and replica.is_leader and commit > storage.durable_index:
                self.world.violate(
                    "commit passes the leader's disk",
                    f"{name}: commit {commit}, durable {storage.durable_index}",
                )
            self._committed(name, audit.life_commit, commit, storage)
        audit.life_term, audit.life_commit, audit.life_applied = term, commit, applied
        if replica.is_leader and audit.led != term:
            audit.led = term
            self._elected(name, term, storage)

    def _elected(self, name: str, term: int, storage: Any) -> None:
        first = self.leaders.setdefault(term, name)
        self.world.trace(f"leader {name} term {term}")
        self.world.count("elections won")
        if first != name:
            self.world.violate("election safety", f"term {term} is led by {first} and by {name}")
        for index in range(storage.base_index + 1, self.committed_to + 1):
            known = self.committed.get(index)
            if known is not None and known < term and storage.term_at(index) != known:
                self.world.violate(
                    "leader completeness",
                    f"{name} leads term {term} with term {storage.term_at(index)} at {index}, "
                    f"committed there was term {known}",
                )

    def _committed(self, name: str, before: int, commit: int, storage: Any) -> None:
        for index in range(max(before, storage.base_index) + 1, commit + 1):
            term = storage.term_at(index)
            if term is None:
                self.world.violate("commit beyond log", f"{name}: commit {commit}, no entry {index}")
            known = self.committed.setdefault(index, term)
            if known != term:
                self.world.violate("two commits", f"{name} commits term {term} at {index}, known: {known}")
        self.committed_to = max(self.committed_to, commit)

    # --- the log --------------------------------------------------------------------------------------

    def appended(self, name: str, index: int, term: int, before: int | None, data: bytes) -> None:
        """Log matching: one (index, term) means one content and one predecessor, so one whole prefix."""
        crc = zlib.crc32(data)
        known = self.entries.get((index, term))
        if known is None:
            self.entries[(index, term)] = (crc, -1 if before is None else before)
            return
        if known[0] != crc:
            self.world.violate("log matching", f"{name}: two contents for index {index} term {term}")
        if before is not None and known[1] not in (-1, before):
            self.world.violate(
                "log matching", f"{name}: {index}/{term} after term {before}, elsewhere {known[1]}"
            )

    def truncated(self, name: str, index: int, commit: int) -> None:
        if index <= commit:
            self.world.violate("committed entry cut", f"{name} cuts from {index}, commit is {commit}")

    # --- the machine ----------------------------------------------------------------------------------

    def machine_applied(self, name: str, index: int, term: int, data: bytes, digest: bytes) -> None:
        value = (term, zlib.crc32(data))
        known = self.applied.setdefault(index, value)
        if known != value:
            self.world.violate("state machine safety", f"{name} applies another entry at {index}")
        self.same_digest(name, index, digest)

    def same_digest(self, name: str, index: int, digest: bytes) -> None:
        known = self.digests.setdefault(index, digest)
        if known != digest:
            self.world.violate("digest", f"{name} has {digest.hex()} at {index}, others {known.hex()}")

    # --- what leaves the node -------------------------------------------------------------------------

    def shown(self, name: str, term: int) -> None:
        audit = self.audits[name]
        if term > audit.term:
            audit.term = term

    def voted(self, name: str, term: int, candidate: str) -> None:
        known = self.audits[name].votes.setdefault(term, candidate)
        if known != candidate:
            self.world.violate("double vote", f"{name} votes for {known} and {candidate} in term {term}")

    def forgive(self, name: str) -> None:
        """The disk was damaged or wiped: the node may have forgotten, and must not vote until it is whole."""
        self.audits[name].term = 0
        self.audits[name].votes.clear()
