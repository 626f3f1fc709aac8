"""When this node may start an election, and what it answers to those who ask.

SyncObj starts an election when its deadline has passed; the gate here stands before it (hazard r09): a node first
asks whether it would be elected (PreVote, Ongaro 9.6), so that one that cannot win does not depose a healthy leader.
A lost connection to the leader is taken as its death: freshness ends at once and the members ask in turn, each in a
slot of its own (R34).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from trivet.consensus.contained import CANDIDATE, FOLLOWER, LEADER
from trivet.consensus.peers import NEVER, Peer
from trivet.wire.frames import PreVote, PreVoteReply, RequestVote, StaleTerm, TimeoutNow, Vote

if TYPE_CHECKING:
    from trivet.consensus.engine import Engine

HURRY_ROUND_S = (0.05, 0.1)
HURRY_ELECTION_S = (0.15, 0.3)


class Elections:
    """The gate before SyncObj's elections, and the votes."""

    def __init__(self, engine: Engine, rng: random.Random) -> None:
        self._engine = engine
        self._rng = rng
        self._contact_at = NEVER
        self._round = rng.getrandbits(32)  # answers to an earlier life of this process are not for us
        self._asked_term = -1
        self._asking = False
        self._won = False
        self._yes: set[str] = set()
        self._voters: set[str] = set()
        self._hurry_until = NEVER
        self.reason = "start"
        """Why the next election begins; part of the list of recent elections."""

    # --- time -----------------------------------------------------------------------------------------

    def timeout_s(self) -> float:
        """How long until the next try."""
        low, high = self._engine.settings.election_min_ms / 1000, self._engine.settings.election_max_ms / 1000
        if self._engine.now() < self._hurry_until:
            low, high = HURRY_ELECTION_S
        return low + (high - low) * self._rng.random()

    def postpone(self) -> None:
        self._engine.election_deadline = self._engine.now() + self.timeout_s()

    def heard_leader(self) -> None:
        """A valid message of the leader of this term."""
        self._contact_at = self._engine.now()
        self._hurry_until = NEVER
        self._forget_round()
        self.reason = "election timeout"
        if (
            not self._engine.transfer_pending
        ):  # a hand-over is not put off by the old leader's last heartbeats
            self.postpone()

    def lost_leader(self, leader: str) -> None:
        """The connection to the leader closed: no freshness any more, and an election in this node's slot."""
        engine, settings = self._engine, self._engine.settings
        engine.leader_node = None
        self._contact_at = NEVER
        self.reason = f"connection to {leader} lost"
        now = engine.now()
        self._hurry_until = now + settings.failover_hurry_ms / 1000
        others = [name for name in engine.peers.members if name != leader]
        slot = settings.failover_spread_ms / 1000 / len(others)
        place = others.index(engine.me.id) + 0.4 * self._rng.random()
        delay = settings.failover_min_ms / 1000 + slot * place
        engine.election_deadline = min(engine.election_deadline, now + delay)

    # --- the gate -------------------------------------------------------------------------------------

    def gate(self) -> None:
        """Before each tick of SyncObj: leaves a passed deadline only if the election may start now."""
        engine = self._engine
        if engine.state == LEADER:
            return
        if not engine.may_vote:
            engine.transfer_pending = False
            self.postpone()
            return
        now = engine.now()
        if engine.transfer_pending or engine.election_deadline >= now:
            return  # told to by the leader: no PreVote, its voters still hear that leader
        if not self._won or self._asked_term != engine.term:
            self._ask()
        if self._won:
            self._forget_round()
            engine.election_deadline = now - 1.0

    def _ask(self) -> None:
        engine = self._engine
        self._round += 1
        self._asking, self._won = True, False
        self._asked_term = engine.term
        self._yes = set()
        now = engine.now()
        if now < self._hurry_until:
            low, high = HURRY_ROUND_S
            engine.election_deadline = now + low + (high - low) * self._rng.random()
        else:
            self.postpone()
        last = engine.storage.last_index
        question = PreVote(
            engine.cluster_id, engine.me.id, engine.term, self._round, last, engine.journal.term_at(last)
        )
        for peer in engine.peers:
            if peer.connected:
                engine.outbox.post(peer.name, question, engine.journal.vote_position)
        self._count()

    def _count(self) -> None:
        if self._asking and len(self._yes) + 1 >= self._engine.peers.quorum:
            self._won = True
            self._engine.election_deadline = self._engine.now() - 1.0

    def campaign_began(self) -> None:
        """SyncObj has become a candidate: the votes of earlier terms are gone."""
        self._voters = set()
        self._forget_round()

    def _forget_round(self) -> None:
        self._asking = self._won = False

    # --- messages -------------------------------------------------------------------------------------

    def on_pre_vote(self, peer: Peer, m: PreVote) -> None:
        engine = self._engine
        if m.term < engine.term:
            self.tell_term(peer)
            return
        if not engine.may_vote:
            return
        fresh = (
            engine.state == LEADER or engine.now() - self._contact_at < engine.settings.election_min_ms / 1000
        )
        last = engine.storage.last_index
        newer = (m.last_term, m.last_index) >= (engine.journal.term_at(last), last)
        reply = PreVoteReply(engine.cluster_id, engine.me.id, engine.term, m.round, newer and not fresh)
        engine.outbox.post(peer.name, reply, engine.journal.vote_position)

    def on_pre_vote_reply(self, peer: Peer, m: PreVoteReply) -> None:
        if self._asking and m.round == self._round and m.granted and not peer.recovering:
            self._yes.add(peer.name)
            self._count()

    def on_request_vote(self, peer: Peer, m: RequestVote) -> None:
        engine = self._engine
        if m.term < engine.term:
            self.tell_term(peer)
            return
        if not engine.may_vote:
            return  # R6: what this node may have promised before is not known
        if m.term == engine.term and engine.voted_for == peer.name and engine.state == FOLLOWER:
            # r15b: a lost grant is never repeated by the stock code, and the term is lost with it
            vote = Vote(engine.cluster_id, engine.me.id, m.term)
            engine.outbox.post(peer.name, vote, engine.journal.vote_position)
            return
        engine.stock_request_vote(peer.node, m.term, m.last_index, m.last_term)
        if engine.voted_for == peer.name:
            self._forget_round()  # what was said before this vote is not an answer any more

    def on_vote(self, peer: Peer, m: Vote) -> None:
        """r15b: the stock counter takes a doubled vote twice. One of each member, of this term, while standing."""
        engine = self._engine
        if m.term != engine.term or engine.state != CANDIDATE or peer.recovering or peer.name in self._voters:
            return
        self._voters.add(peer.name)
        engine.stock_vote(peer.node, m.term)

    def on_stale_term(self, peer: Peer, m: StaleTerm) -> None:
        engine = self._engine
        if m.term > engine.term:
            engine.leader_node = None
            engine.adopt_term(m.term)
            engine.become_follower()

    def on_timeout_now(self, peer: Peer, m: TimeoutNow) -> None:
        engine = self._engine
        if m.term == engine.term and engine.state == FOLLOWER and engine.may_vote:
            self.reason = f"handed over by {peer.name}"
            engine.stock_timeout_now(peer.node, m.term)

    def tell_term(self, peer: Peer) -> None:
        """r09a: the stock code ignores stale messages, so a deposed leader does not learn of it."""
        engine = self._engine
        notice = StaleTerm(engine.cluster_id, engine.me.id, engine.term)
        engine.outbox.post(peer.name, notice, engine.journal.vote_position)
