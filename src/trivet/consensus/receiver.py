"""The follower's side: entries of the leader are taken only where they fit, and nothing is cut without conflict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trivet.consensus.contained import LEADER
from trivet.consensus.peers import Peer
from trivet.consensus.port import Fatal
from trivet.wire.frames import Append, AppendReply, SnapshotChunk

if TYPE_CHECKING:
    from trivet.consensus.engine import Engine


class Receiver:
    """`verified`: through this index our log is known to equal that of the leader of the current term."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._verified_term = -1
        self._verified = 0

    @property
    def verified(self) -> int:
        return self._verified if self._verified_term == self._engine.term else 0

    def verify(self, index: int) -> None:
        self._verified = max(self.verified, index)
        self._verified_term = self._engine.term

    def from_leader(self, peer: Peer, m: Append | SnapshotChunk) -> bool:
        """The part common to all messages of a leader. False: it is of an older term."""
        engine = self._engine
        if m.term < engine.term:
            engine.elections.tell_term(peer)
            return False
        if m.term == engine.term and engine.state == LEADER:
            raise Fatal(f"{peer.name} leads in term {m.term}, as this node does")
        if m.term > engine.term:
            engine.transfer_pending = False
            engine.adopt_term(m.term)
        engine.become_follower()
        engine.follow(peer)
        engine.elections.heard_leader()
        peer.take_health(m.health, engine.now(), m.term)
        return True

    def on_append(self, peer: Peer, m: Append) -> None:
        if not self.from_leader(peer, m):
            return
        engine, storage = self._engine, self._engine.storage
        previous, previous_term, entries = m.prev_index, m.prev_term, m.entries
        if previous < storage.base_index:  # r13b: compacted away here, so committed, so the same
            covered = storage.base_index - previous
            if len(entries) < covered:
                self._accept(peer, m, previous + len(entries), appended=False)
                return
            previous_term, entries = entries[covered - 1][0], entries[covered:]
            previous = storage.base_index
        if previous > storage.last_index:
            self._refuse(peer, m, storage.last_index + 1)
            return
        if engine.journal.term_at(previous) != previous_term:
            self._refuse(peer, m, self._skip_back(previous))
            return
        appended, verified = self._take(previous, entries)
        self._accept(peer, m, verified, appended)

    def _skip_back(self, index: int) -> int:
        """Where to go on: before the whole run of the conflicting term, so that a round trip undoes a term and not
        an entry (r16)."""
        engine = self._engine
        if index <= engine.commit_index:
            raise Fatal(f"the leader has another entry at the committed index {index}")
        term_at = engine.journal.term_at
        wrong = term_at(index)
        while index - 1 > max(engine.storage.base_index, engine.commit_index) and term_at(index - 1) == wrong:
            index -= 1
        return index

    def _take(self, previous: int, entries: list[tuple[int, bytes]]) -> tuple[bool, int]:
        """Adds what is missing. Answers whether anything was added, and through which index the logs are equal."""
        engine, storage = self._engine, self._engine.storage
        for place, (term, _) in enumerate(entries):
            index = previous + 1 + place
            if index <= storage.last_index:
                if engine.journal.term_at(index) == term:
                    continue  # r03: what is there and equal is never touched
                if index <= engine.commit_index:
                    raise Fatal(f"the leader overwrites the committed index {index}")
                engine.truncate_from(index)
            if engine.disk_full:
                return False, index - 1  # R10: lives on without acknowledging
            for offset, (entry_term, data) in enumerate(entries[place:]):
                storage.append(index + offset, entry_term, data)
            return True, previous + len(entries)
        return False, previous + len(entries)

    def _accept(self, peer: Peer, m: Append, verified: int, appended: bool) -> None:
        engine, storage = self._engine, self._engine.storage
        self.verify(verified)
        if appended:  # acknowledged when durable
            barrier, match = storage.position, verified
        else:  # a heartbeat does not wait for the disk; it acknowledges what is durable by now
            barrier, match = engine.journal.vote_position, min(verified, storage.durable_index)
        # r05: only what this very message verified, never "up to the end of our log"
        engine.commit_index = max(engine.commit_index, min(m.commit, verified))
        engine.recovery.told(m)
        self._reply(peer, m, True, match, 0, barrier)

    def _refuse(self, peer: Peer, m: Append, next_index: int) -> None:
        self._reply(peer, m, False, 0, next_index, self._engine.journal.vote_position)

    def _reply(self, peer: Peer, m: Append, ok: bool, match: int, next_index: int, barrier: int) -> None:
        """r04: the answer names the term and the message it answers."""
        engine = self._engine
        reply = AppendReply(
            engine.cluster_id,
            engine.me.id,
            engine.term,
            m.seq,
            ok,
            match,
            next_index,
            engine.recovery.active,
            engine.session,
            engine.health(),
        )
        engine.outbox.post(peer.name, reply, barrier)
