"""Bugs of elections, replication, commitment, reads and snapshots between nodes."""

from __future__ import annotations

from chaos.gallery.bug import Bug, Edit
from chaos.gallery.instruments import crash_points, directed, simulator

ELECTIONS = "tests/unit/consensus/test_elections.py"
REPLICATION = "tests/unit/consensus/test_replication.py"
SNAPSHOTS = "tests/unit/consensus/test_snapshots.py"

BUGS = (
    Bug(
        "stale-reply-counted",
        "PySyncObj r04: an append reply of an older term moves the match index",
        "S1, S18",
        (
            Edit(
                "consensus/replication.py",
                "or not engine.is_leader or m.term != engine.term:",
                "or not engine.is_leader:",
            ),
            Edit(
                "consensus/replication.py",
                "if not progress.not_before < m.seq <= engine.outbox.sequence or m.session != peer.session:",
                "if False:",
            ),
        ),
        (directed(f"{REPLICATION}::test_an_answer_of_an_older_term_counts_nothing"),),
    ),
    Bug(
        "figure-8",
        "Raft 5.4.2, figure 8: an earlier term's entry committed by counting",
        "S1, S17",
        (Edit("consensus/contained.py", "index, self._journal.term_at(index))]", "index, self.term)]"),),
        (directed(f"{REPLICATION}::test_an_entry_of_an_earlier_term_is_not_committed_by_counting"),),
    ),
    Bug(
        "commit-over-unverified-log",
        "PySyncObj r05: commits up to the end of a log the leader has not verified",
        "S17",
        (Edit("consensus/receiver.py", "min(m.commit, verified)", "min(m.commit, storage.last_index)"),),
        (simulator("list", 40),),
    ),
    Bug(
        "leader-counts-itself-early",
        "R8; etcd raft's leader may commit before its own fsync only with a quorum of others",
        "S1",
        (Edit("consensus/engine.py", "return index <= self.storage.durable_index", "return True"),),
        (simulator("list", 40),),
    ),
    Bug(
        "answer-before-commit",
        "Kafka acks=1, RabbitMQ mirrored queues: counted as replicated when sent",
        "S1",
        (
            Edit(
                "consensus/replication.py",
                "    def pump_all(self) -> None:\n",
                "    def pump_all(self) -> None:\n"
                "        for peer in self._engine.peers:\n"
                "            if peer.name in self._of:\n"
                "                self._engine.counted_match[peer.node] = self._engine.storage.last_index\n",
            ),
        ),
        (simulator("list", 40), crash_points("enqueue")),
    ),
    Bug(
        "no-prevote",
        "Cloudflare 2020-11-02: one that cannot be heard deposes a healthy leader again and again",
        "L2, R34",
        (
            Edit(
                "consensus/elections.py",
                "        if not self._won or self._asked_term != engine.term:\n            self._ask()\n",
                "        self._won = True\n",
            ),
        ),
        (directed(f"{ELECTIONS}::test_one_that_cannot_hear_does_not_depose_the_leader"),),
    ),
    Bug(
        "no-check-quorum",
        "PySyncObj r09a: leaderFallbackTimeout of 30 s, a cut-off leader keeps its office",
        "S16, L2",
        (
            Edit(
                "consensus/contained.py",
                "leaderFallbackTimeout=settings.election_max_ms / 1000,",
                "leaderFallbackTimeout=3600.0,",
            ),
        ),
        (
            simulator("list", 40),
            directed(f"{ELECTIONS}::test_a_leader_without_a_quorum_steps_down"),
        ),
    ),
    Bug(
        "votes-while-recovering",
        "NATS #7556, #7567; Alagappan 2018: a damaged or wiped node votes at once",
        "S1, R6",
        (Edit("consensus/engine.py", "self.born and not self.recovery.active and", "self.born and"),),
        (simulator("list", 40),),
    ),
    Bug(
        "wiped-member-never-whole",
        "NATS #6888, Bufstream: a member that lost its disk is never let back, the next loss stops the cluster",
        "L3, R6",
        (
            Edit(
                "consensus/replication.py",
                "        progress.counts = False\n        progress.match = progress.echo = 0\n",
                "        return\n",
            ),
        ),
        (simulator("list", 40),),
    ),
    Bug(
        "double-vote",
        "Raft 5.2; a vote of this term is forgotten when another candidate asks",
        "S18",
        (
            Edit(
                "consensus/elections.py",
                "        engine.stock_request_vote(peer.node",
                "        engine.voted_for = None\n        engine.stock_request_vote(peer.node",
            ),
            Edit(
                "storage/storage.py", "or (term == hard.term and hard.voted_for not in (None, voted_for))", ""
            ),
        ),
        (simulator("list", 40),),
    ),
    Bug(
        "repeated-vote-counted-twice",
        "PySyncObj r15b: a duplicated vote elects with a minority",
        "S18",
        (Edit("consensus/elections.py", " or peer.name in self._voters:", ":"),),
        (
            simulator("list", 40),
            directed(f"{ELECTIONS}::test_a_doubled_or_foreign_vote_elects_nobody"),
        ),
    ),
    Bug(
        "unclean-election",
        "Kafka 0.8 (2013): one with a shorter log is elected",
        "S1",
        (
            Edit(
                "consensus/elections.py",
                "newer = (m.last_term, m.last_index) >= (last_term, last)",
                "newer = True",
            ),
            Edit(
                "consensus/elections.py",
                "engine.stock_request_vote(peer.node, m.term, m.last_index, m.last_term)",
                "engine.stock_request_vote(peer.node, m.term, 1 << 60, 1 << 60)",
            ),
        ),
        (simulator("list", 40),),
    ),
    Bug(
        "vote-sent-before-fsync",
        "PySyncObj r01b; flush before send",
        "S18",
        (
            Edit(
                "consensus/outbox.py",
                "        barrier = self._storage.position\n",
                "        barrier = FREE\n",
            ),
        ),
        (simulator("list", 40),),
    ),
    Bug(
        "append-reply-before-fsync",
        "etcd #14370; NATS #7564: a follower acknowledges what is in its memory only",
        "S1",
        (
            Edit(
                "consensus/receiver.py",
                "barrier, match = storage.position, verified",
                "barrier, match = 0, verified",
            ),
        ),
        (simulator("list", 40), crash_points("enqueue")),
    ),
    Bug(
        "read-without-quorum",
        "etcd #20418 (stale read of a paused leader); Raft 8",
        "S16",
        (Edit("consensus/replication.py", "return heard >= self._engine.peers.quorum", "return True"),),
        (simulator("list", 40),),
    ),
    Bug(
        "read-before-own-no-op",
        "Raft 8 / Ongaro 6.4: a new leader does not know yet what is committed",
        "S16",
        (Edit("consensus/reads.py", "self._waiting and engine.caught_up:", "self._waiting:"),),
        (simulator("list", 40),),
    ),
    Bug(
        "snapshot-below-commit",
        "PySyncObj r13b: an old snapshot cuts acknowledged entries",
        "S1",
        (
            Edit(
                "consensus/snapshot_install.py",
                "if m.index <= engine.commit_index or storage.term_at(m.index) == m.index_term:",
                "if False:",
            ),
        ),
        (directed(f"{SNAPSHOTS}::test_a_snapshot_that_is_not_news_cuts_nothing"),),
    ),
    Bug(
        "snapshot-drops-the-log-behind-it",
        "PySyncObj r13b; logcabin: entries behind an installed snapshot are acknowledged and thrown away",
        "S1",
        (
            Edit(
                "consensus/snapshot_install.py",
                "        if storage.term_at(meta.index) == meta.term:\n",
                "        if False:\n",
            ),
            Edit(
                "consensus/snapshot_install.py",
                "if m.index <= engine.commit_index or storage.term_at(m.index) == m.index_term:",
                "if m.index <= engine.commit_index:",
            ),
        ),
        (directed(f"{SNAPSHOTS}::test_what_follows_the_snapshot_and_matches_is_kept"),),
    ),
    Bug(
        "conflict-not-truncated",
        "PySyncObj before 0.3.17 (P8): a conflicting tail stays and is acknowledged",
        "S17",
        (
            Edit(
                "consensus/receiver.py",
                "                engine.truncate_from(index)\n",
                "                continue\n",
            ),
        ),
        (simulator("list", 40),),
    ),
    Bug(
        "truncates-without-conflict",
        "PySyncObj r03: a delayed message cuts acknowledged entries",
        "S1",
        (Edit("consensus/receiver.py", "if engine.journal.term_at(index) == term:", "if False:"),),
        (simulator("list", 40),),
    ),
    Bug(
        "another-leaders-entry-answered",
        "Redpanda #3039 class: an overwritten proposal answered as applied",
        "S1, S19",
        (
            Edit("consensus/proposals.py", "if pending.term == term:", "if True:"),
            Edit("consensus/engine.py", '            self.proposals.end_all("lost_leadership")\n', ""),
        ),
        (simulator("list", 40),),
    ),
    Bug(
        "lost-office-answered-as-failed",
        "Redpanda #5355: an unknown outcome told as a definite failure, so the client doubles",
        "S19, R35",
        (
            Edit(
                "consensus/proposals.py",
                "self._end(index, Unknown(reason))",
                "self._end(index, NotProposed(reason))",
            ),
        ),
        (simulator("list", 40),),
    ),
)
