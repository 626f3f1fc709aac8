"""When this node may start an election, and what it answers to those who ask.

SyncObj starts an election when its deadline has passed; the gate here stands before it (hazard r09): a node first
asks whether it would be elected (PreVote, Ongaro 9.6), so that one that cannot win does not depose a healthy leader.
A lost connection to the leader is taken as its death: freshness ends at once and the members ask in turn, each in a
slot of its own (R34), and back one of those that ask at a time (`turns.py`).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from trivet.consensus.contained import CANDIDATE, FOLLOWER, LEADER
from trivet.consensus.peers import NEVER, Peer
from trivet.consensus.turns import Turns
from trivet.wire.frames import PreVote, PreVoteReply, RequestVote, StaleTerm, TimeoutNow, Vote

if TYPE_CHECKING:
    from trivet.consensus.engine import Engine

HURRY_ROUND_S = (0.05, 0.1)
DEPOSED = "this node lost its office"
HURRY_SPREAD_S = 0.1
"""After a turn without a leader the next tries are spread over this."""


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
        self._question: PreVote | None = None
        self._owed: dict[str, PreVote] = {}  # refused only because the leader seemed to be there
        self.turns = Turns(engine)
        self.reason = "start"
        """Why the next election begins; part of the list of recent elections."""

    # --- time -----------------------------------------------------------------------------------------

    def timeout_s(self) -> float:
        """How long until the next try."""
        low, high = self._engine.settings.election_min_ms / 1000, self._engine.settings.election_max_ms / 1000
        if self._engine.now() < self._hurry_until:
            low = self.turns.length_s()
            high = low + HURRY_SPREAD_S
        return low + (high - low) * self._rng.random()

    def postpone(self) -> None:
        self._engine.election_deadline = self._engine.now() + self.timeout_s()

    def heard_leader(self) -> None:
        """A valid message of the leader of this term."""
        self._contact_at = self._engine.now()
        self._hurry_until = NEVER
        self._forget_round()
        self._owed.clear()
        self.turns.clear()
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
        self.turns.clear()
        self.reason = f"connection to {leader} lost"
        now = engine.now()
        self._hurry_until = now + settings.failover_hurry_ms / 1000
        others = [name for name in engine.peers.members if name != leader]
        slot = settings.failover_spread_ms / 1000 / len(others)
        place = others.index(engine.me.id) + 0.4 * self._rng.random()
        delay = settings.failover_min_ms / 1000 + slot * place
        engine.election_deadline = min(engine.election_deadline, now + delay)
        owed, self._owed = self._owed, {}
        for peer in engine.peers:
            if peer.connected and peer.name in owed:  # it saw the leader go a little earlier
                self.on_pre_vote(peer, owed[peer.name])

    def member_came(self, peer: Peer) -> None:
        """What was asked of the others while it was away is asked of it now, not a round later."""
        engine = self._engine
        if self._asking and self._question is not None and self._asked_term == engine.term:
            engine.outbox.post(peer.name, self._question, engine.journal.vote_position)
        elif engine.state == CANDIDATE:
            last, last_term = self._end_of_log()
            request = RequestVote(engine.cluster_id, engine.me.id, engine.term, last, last_term)
            engine.outbox.post(peer.name, request, engine.journal.vote_position)

    def member_gone(self, name: str) -> None:
        self._owed.pop(name, None)
        self.turns.gone(name)

    @property
    def asking(self) -> bool:
        """A PreVote round is under way or won."""
        return self._asking

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
        if engine.state == CANDIDATE and engine.storage.durable_position < engine.journal.vote_position:
            self.turns.not_yet()  # its request has not left: the disk is slow, nobody refuses
            self.postpone()
            return
        if engine.transfer_pending or engine.election_deadline >= now:
            return  # told to by the leader: no PreVote, its voters still hear that leader
        others_until = self.turns.others_until
        if others_until is not None:
            engine.election_deadline = others_until + HURRY_SPREAD_S * self._rng.random()
            return
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
        last, last_term = self._end_of_log()
        self.turns.back(engine.me.id, last_term, last, voted=False)
        question = self._question = PreVote(
            engine.cluster_id, engine.me.id, engine.term, self._round, last, last_term
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
        last, last_term = self._end_of_log()
        self.turns.back(self._engine.me.id, last_term, last, voted=True)

    def _end_of_log(self) -> tuple[int, int]:
        last = self._engine.storage.last_index
        return last, self._engine.journal.term_at(last)

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
        last, last_term = self._end_of_log()
        newer = (m.last_term, m.last_index) >= (last_term, last)
        if newer and fresh:
            self._owed[peer.name] = m
        granted = newer and not fresh and self.turns.may_back(peer.name, m.last_term, m.last_index)
        if granted:
            self._back(peer, m, voted=False)
        reply = PreVoteReply(engine.cluster_id, engine.me.id, engine.term, m.round, granted)
        engine.outbox.post(peer.name, reply, engine.journal.vote_position)

    def _back(self, peer: Peer, m: PreVote | RequestVote, voted: bool) -> None:
        """Its turn: what this node asked or was promised itself counts no more, and it keeps still for a while."""
        self._forget_round()
        self.turns.back(peer.name, m.last_term, m.last_index, voted)

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
            self._back(peer, m, voted=True)

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
