"""Leadership transfer (Ongaro 3.10): on request, for a drain, and away from a disk that has stopped answering (R34)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trivet.consensus.elections import DEPOSED
from trivet.consensus.peers import Peer
from trivet.wire.frames import TimeoutNow

if TYPE_CHECKING:
    from trivet.consensus.engine import Engine


@dataclass(slots=True)
class _Transfer:
    target: Peer
    deadline: float
    patience: float
    """Until then it waits for own proposals to be applied, so that they end known."""
    told_at: float


class Handover:
    """While one is under way nothing is proposed; if it has not happened by its deadline the leader goes on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._transfer: _Transfer | None = None
        self._marks: deque[tuple[int, float]] = deque()  # (position, when it was seen), oldest first

    @property
    def under_way(self) -> bool:
        return self._transfer is not None

    @property
    def target(self) -> str | None:
        return None if self._transfer is None else self._transfer.target.name

    def candidates(self) -> list[Peer]:
        """Members that could take over, the best first: heard of lately, whole, with room, farthest in the log."""
        engine = self._engine
        since = engine.now() - engine.settings.election_min_ms / 1000
        able = [
            p for p in engine.peers if p.connected and p.heard_at >= since and engine.replication.counts(p)
        ]
        return sorted(able, key=lambda p: (not self._has_space(p), -p.match, p.name))

    def _has_space(self, peer: Peer) -> bool:
        floor = self._engine.settings.disk_floor_bytes
        return peer.health is not None and peer.health.free_bytes >= floor

    def start(self, to: str | None, reason: str, patient: bool = True, with_space: bool = False) -> bool:
        """False if this node does not lead or no such member can take over now. `with_space`: only a member that is
        above the disk's floor (R10)."""
        engine = self._engine
        if not engine.is_leader or engine.stopped:
            return False
        able = [p for p in self.candidates() if to is None or p.name == to]
        if with_space:
            able = [p for p in able if self._has_space(p)]
        if not able:
            return False
        if self._transfer is not None and self._transfer.target is able[0]:
            return True
        now, length = engine.now(), engine.settings.transfer_ms / 1000
        patience = now + length / 2 if patient else now
        self._transfer = _Transfer(able[0], now + length, patience, float("-inf"))
        engine.event("transfer_started", target=able[0].name, reason=reason)
        self.check()
        return True

    def check(self) -> None:
        """Each tick and each answer of a member."""
        self._watch_disk()
        transfer = self._transfer
        if transfer is None:
            return
        engine, now = self._engine, self._engine.now()
        if now >= transfer.deadline:
            self._transfer = None
            engine.elections.reason = DEPOSED
            engine.event("transfer_failed", target=transfer.target.name)
            return
        if transfer.target.match < engine.storage.last_index:
            return
        if len(engine.proposals) and now < transfer.patience:
            return
        if now - transfer.told_at >= engine.settings.heartbeat_ms / 1000:
            transfer.told_at = now
            engine.elections.reason = f"handed over to {transfer.target.name}"
            message = TimeoutNow(engine.cluster_id, engine.me.id, engine.term)
            engine.outbox.post(transfer.target.name, message, engine.journal.vote_position)

    def _watch_disk(self) -> None:
        engine, storage = self._engine, self._engine.storage
        now, marks = engine.now(), self._marks
        if storage.position > storage.durable_position and (not marks or marks[-1][0] < storage.position):
            marks.append((storage.position, now))
        while marks and marks[0][0] <= storage.durable_position:
            marks.popleft()
        if (
            marks
            and engine.is_leader
            and self._transfer is None
            and now - marks[0][1] >= engine.settings.stall_ms / 1000
            and self.start(None, "the disk has not answered", patient=False)
        ):
            engine.event("disk_stalled", seconds=now - marks[0][1])

    @property
    def stalled_s(self) -> float:
        """Seconds since the oldest write that is not durable yet; 0 when all are."""
        return self._engine.now() - self._marks[0][1] if self._marks else 0.0

    def lost_leadership(self) -> None:
        self._transfer = None
