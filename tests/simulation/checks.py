"""The laws of Raft, looked at on every step from outside the nodes.

What a node has shown to others (its term, its votes) and what was committed is kept here, not on the simulated
disks: a disk that forgets is found out (R37, reliability B1 S18).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.world import World
from trivet.wire.frames import AppendReply, Message, RequestVote, Vote

OFFICE_SECONDS = 1.0
"""How long a leader may lead without hearing from a majority: the longest election timeout (0.8 s) on a slow clock, and
the tick that notices it. CheckQuorum, R34."""


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
    led_since: float = 0.0
    heard: dict[str, float] = field(default_factory=dict)  # member -> when its last message came
    # of the log that it has said to hold durably: index -> term, up to `acked_to`
    acked: dict[int, int] = field(default_factory=dict)
    acked_to: int = 0


class Checker:
    """Election safety, log matching, leader completeness, state machine safety, monotony, durable votes."""

    def __init__(self, world: World, names: list[str]) -> None:
        self.world = world
        self.audits = {name: Audit() for name in names}
        self.quorum = len(names) // 2 + 1
        self.leaders: dict[int, str] = {}
        self.granted: dict[tuple[int, str], set[str]] = {}  # (term, candidate) -> who voted for it
        self.holders: dict[tuple[int, int], set[str]] = {}  # (index, term) -> who has appended it
        self.entries: dict[tuple[int, int], tuple[int, int]] = {}  # (index, term) -> (crc, term before)
        self.applied: dict[int, tuple[int, int]] = {}  # index -> (term, crc)
        self.committed: dict[int, int] = {}  # index -> term, as known from anybody's commit index
        self.committed_under: dict[int, int] = {}  # index -> term of whoever was the first to know of it
        self.committed_to = 0
        self.digests: dict[int, bytes] = {}

    # --- one step of one node -------------------------------------------------------------------------

    def life_begins(self, name: str, replica: Any, storage: Any) -> None:
        audit = self.audits[name]
        audit.life_term = audit.life_commit = audit.life_applied = 0
        audit.led = -1
        audit.heard.clear()
        if storage.recovering is None:
            self._still_held(name, audit, storage)
            if storage.term < audit.term:
                self.world.violate(
                    "term forgotten", f"{name} is back in term {storage.term}, showed {audit.term}"
                )
            voted = audit.votes.get(storage.term)
            if voted is not None and storage.voted_for != voted:
                self.world.violate(
                    "vote forgotten", f"{name} in term {storage.term}: {storage.voted_for}, had shown {voted}"
                )

    def _still_held(self, name: str, audit: Audit, storage: Any) -> None:
        """What it acknowledged and the cluster committed is there: damage is found (R3), never cut like a torn tail."""
        for index in range(storage.base_index + 1, audit.acked_to + 1):
            term = audit.acked.get(index)
            if term is not None and self.committed.get(index) == term and storage.term_at(index) != term:
                self.world.violate(
                    "acknowledged entry forgotten",
                    f"{name} had {index} of term {term}, its log now ends at {storage.last_index}",
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
            self._committed(name, audit.life_commit, commit, storage, term)
        audit.life_term, audit.life_commit, audit.life_applied = term, commit, applied
        if replica.is_leader and audit.led != term:
            audit.led = term
            audit.led_since = self.world.now
            self._elected(name, term, storage)

    def _elected(self, name: str, term: int, storage: Any) -> None:
        first = self.leaders.setdefault(term, name)
        self.world.trace(f"leader {name} term {term}")
        self.world.count("elections won")
        voters = self.granted.get((term, name), set()) | {name}
        if len(voters) < self.quorum:
            self.world.violate("elected by a minority", f"{name} in term {term} by {sorted(voters)}")
        if first != name:
            self.world.violate("election safety", f"term {term} is led by {first} and by {name}")
        for index in range(storage.base_index + 1, self.committed_to + 1):
            known = self.committed.get(index)
            # An entry of an old term may be committed under a newer one; a late vote may make a leader of a term
            # between the two, who need not have it (Raft 5.4: of all *higher* terms than that of the commit).
            under = self.committed_under.get(index, term)
            if known is not None and under < term and storage.term_at(index) != known:
                self.world.violate(
                    "leader completeness",
                    f"{name} leads term {term} with term {storage.term_at(index)} at {index}, "
                    f"committed there was term {known}, under {under}",
                )

    def _committed(self, name: str, before: int, commit: int, storage: Any, under: int) -> None:
        for index in range(max(before, storage.base_index) + 1, commit + 1):
            term = storage.term_at(index)
            if term is None:
                self.world.violate("commit beyond log", f"{name}: commit {commit}, no entry {index}")
            known = self.committed.get(index)
            if known is None:
                known = self.committed[index] = term
                self.committed_under[index] = under
                holders = self.holders.get((index, term), set())
                if len(holders) < self.quorum:
                    self.world.violate(
                        "committed by a minority",
                        f"{name} commits {index} of term {term}, {sorted(holders)} have it",
                    )
            if known != term:
                self.world.violate("two commits", f"{name} commits term {term} at {index}, known: {known}")
        self.committed_to = max(self.committed_to, commit)

    # --- the log --------------------------------------------------------------------------------------

    def appended(self, name: str, index: int, term: int, before: int | None, data: bytes) -> None:
        """Log matching: one (index, term) means one content and one predecessor, so one whole prefix."""
        self.holders.setdefault((index, term), set()).add(name)
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
        audit = self.audits[name]
        audit.acked_to = min(audit.acked_to, index - 1)
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

    def sent(self, name: str, peer: str, message: Message, storage: Any) -> None:
        """A message of this node is on its way: what it says must hold for ever."""
        audit = self.audits[name]
        audit.term = max(audit.term, message.term)
        if isinstance(message, Vote):
            self._voted(name, message.term, peer)
            if storage is not None and storage.recovering is not None:
                self.world.violate("recovering node votes", f"{name} for {peer} in term {message.term}")
        elif isinstance(message, RequestVote):
            self._voted(name, message.term, name)
        elif isinstance(message, AppendReply) and message.ok and storage is not None:
            for index in range(audit.acked_to + 1, message.match + 1):
                term = storage.term_at(index)
                if term is not None:
                    audit.acked[index] = term
            audit.acked_to = max(audit.acked_to, message.match)

    def _voted(self, name: str, term: int, candidate: str) -> None:
        self.granted.setdefault((term, candidate), set()).add(name)
        known = self.audits[name].votes.setdefault(term, candidate)
        if known != candidate:
            self.world.violate("double vote", f"{name} votes for {known} and {candidate} in term {term}")

    def forgive(self, name: str) -> None:
        """The disk was damaged or wiped: the node may have forgotten, and must not vote until it is whole."""
        self.audits[name].term = 0
        self.audits[name].votes.clear()

    def forgive_log(self, name: str) -> None:
        """It knows itself that its log may have lost something (R6)."""
        self.audits[name].acked_to = 0
        self.audits[name].acked.clear()

    # --- office ---------------------------------------------------------------------------------------

    def heard(self, name: str, peer: str) -> None:
        self.audits[name].heard[peer] = self.world.now

    def office(self, name: str, awake_since: float) -> None:
        """A leader that has not heard from a majority for so long has given up its office."""
        audit = self.audits[name]
        heard = sorted((audit.heard.get(peer, 0.0) for peer in self.audits if peer != name), reverse=True)
        if len(heard) < 2:
            return  # alone: it is its own majority
        since = max(heard[self.quorum - 2], audit.led_since, awake_since)
        if self.world.now > since + OFFICE_SECONDS:
            self.world.violate(
                "office without a quorum",
                f"{name} leads term {audit.led}, last heard a majority at {since:.3f}",
            )
