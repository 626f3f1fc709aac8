"""One candidate after the other (R34): while a leader is missing each member backs one of those that ask, for a turn.

Raft lets members that start together split the vote; with disks as slow as the pauses between their tries they do so
again and again (seen: 20 s without a leader, five members, 30-100 ms for an fsync). So a yes to a pre-vote is also a
promise to keep still until that candidate has had the time for its campaign. Among those that ask at the same time
the one with the longer log is backed, then the one whose id comes first; one whose turn brought no leader goes behind
all others. None of this is needed for safety, only votes count for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trivet.consensus.engine import Engine

TURN_S = 0.1
TURN_SYNCS = 4
"""A turn lasts for so many of this node's own syncs more: a vote, its request, the answer, and what ran before."""

Rank = tuple[int, int, int, int]


@dataclass(slots=True)
class _Backed:
    name: str
    rank: Rank
    until: float
    voted: bool


class Turns:
    """Whom this node backs; it may be itself."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._backed: _Backed | None = None
        self._lapsed: dict[str, int] = {}  # turns that brought no leader
        self._job_since: float | None = None
        self._sync_s = 0.0

    # --- how long ---------------------------------------------------------------------------------------

    def sync_began(self) -> None:
        self._job_since = self._engine.now()

    def sync_ended(self) -> None:
        if self._job_since is not None:
            took = self._engine.now() - self._job_since
            self._sync_s = max(took, self._sync_s * 0.8)
        self._job_since = None

    def length_s(self) -> float:
        """Of one turn: longer where the disk is slow, never longer than an election timeout."""
        running = 0.0 if self._job_since is None else self._engine.now() - self._job_since
        length = TURN_S + TURN_SYNCS * max(self._sync_s, running)
        return min(length, self._engine.settings.election_max_ms / 1000)

    # --- who --------------------------------------------------------------------------------------------

    def rank(self, name: str, last_term: int, last_index: int) -> Rank:
        """The greater goes first."""
        return -self._lapsed.get(name, 0), last_term, last_index, -self._engine.peers.members.index(name)

    @property
    def others_until(self) -> float | None:
        """Until when this node keeps still for another one; None if it need not."""
        backed = self._backed
        if backed is None or backed.name == self._engine.me.id or self._over(backed):
            return None
        return backed.until

    def _over(self, backed: _Backed) -> bool:
        if self._engine.now() < backed.until:
            return False
        self._lapsed[backed.name] = self._lapsed.get(backed.name, 0) + 1
        self._backed = None
        return True

    def may_back(self, name: str, last_term: int, last_index: int) -> bool:
        """Nobody else has the turn, or only by a pre-vote and `name` goes before it."""
        backed = self._backed
        if backed is None or backed.name == name or self._over(backed):
            return True
        return not backed.voted and self.rank(name, last_term, last_index) > backed.rank

    def back(self, name: str, last_term: int, last_index: int, voted: bool) -> None:
        """The turn begins, and once more with the vote; asking again does not make it longer."""
        backed = self._backed
        if backed is not None and backed.name == name and backed.voted >= voted and not self._over(backed):
            return
        until = self._engine.now() + self.length_s()
        self._backed = _Backed(name, self.rank(name, last_term, last_index), until, voted)

    def not_yet(self) -> None:
        """This node's own campaign: its request has not left, so its turn has not begun."""
        backed = self._backed
        if backed is not None and backed.name == self._engine.me.id:
            backed.until = self._engine.now() + self.length_s()

    def gone(self, name: str) -> None:
        if self._backed is not None and self._backed.name == name:
            self._backed = None

    def clear(self) -> None:
        """A leader is known, or was a moment ago."""
        self._backed = None
        self._lapsed.clear()
