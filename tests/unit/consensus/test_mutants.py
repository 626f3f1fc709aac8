"""Each override and each rule is needed: without it one of the directed tests fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pysyncobj import SyncObj

from tests.unit.consensus import test_elections as elections
from tests.unit.consensus import test_outcomes as outcomes
from tests.unit.consensus import test_recovering as recovering
from tests.unit.consensus import test_replication as replication
from tests.unit.consensus import test_snapshots as snapshots
from tests.unit.consensus.lab import Lab
from trivet.consensus.contained import Contained
from trivet.consensus.elections import Elections
from trivet.consensus.outbox import Outbox
from trivet.consensus.receiver import Receiver
from trivet.consensus.replication import Replication
from trivet.consensus.snapshot_install import SnapshotInstaller

Scenario = Callable[[], None]


def a_stray_command_goes_nowhere() -> None:
    lab = Lab()
    lab.leader()
    follower = lab.followers()[0]
    follower.engine._SyncObj__commandsQueue.put_nowait((b"\x00stray", None))
    lab.run(0.2)


def a_forced_compaction_does_nothing() -> None:
    lab = Lab("a")
    lab.put(lab.leader(), 3)
    lab["a"].engine.forceLogCompaction()
    lab.run(0.2)
    assert lab["a"].storage.base_index == 0


def rounds_follow_quickly_after_a_lost_leader() -> None:
    lab = Lab()
    leader = lab.leader()
    lab.run(0.2)
    follower = lab.followers()[0]
    lab.disconnect(leader.name, follower.name)
    with follower.replica._turn:
        assert max(follower.engine._SyncObj__generateRaftTimeout() for _ in range(50)) <= 0.3


@pytest.mark.parametrize(
    ("override", "scenario"),
    [
        ("_SyncObj__getEntries", replication.test_alone_nothing_is_answered_before_the_disk),
        ("_SyncObj__getEntries", replication.test_the_leader_counts_itself_only_when_durable),
        ("_SyncObj__applyLogEntries", replication.test_three_members_elect_replicate_and_apply),
        ("_SyncObj__sendAppendEntries", replication.test_three_members_elect_replicate_and_apply),
        ("_SyncObj__setState", outcomes.test_losing_leadership_ends_all_at_once),
        ("_SyncObj__generateRaftTimeout", rounds_follow_quickly_after_a_lost_leader),
        ("_checkCommandsToApply", a_stray_command_goes_nowhere),
        ("_SyncObj__tryLogCompaction", a_forced_compaction_does_nothing),
    ],
)
def test_an_override_taken_away_is_noticed(
    override: str, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario()
    monkeypatch.setattr(Contained, override, SyncObj.__dict__[override])
    with pytest.raises(Exception):  # noqa: B017 which one does not matter: the scenario fails
        scenario()


def _votes_counted_blindly(self: Elections, peer: Any, m: Any) -> None:
    self._engine.stock_vote(peer.node, m.term)


def _no_gate(self: Elections) -> None:
    """The stock election at each timeout."""


def _no_repeat(self: Elections, peer: Any, m: Any) -> None:
    self._engine.stock_request_vote(peer.node, m.term, m.last_index, m.last_term)


def _no_barrier(self: Outbox, peer: str, message: Any, barrier: int) -> None:
    self._free.append((peer, message))


def _any_answer(self: Replication, peer: Any, m: Any) -> Any:
    return self._of.get(peer.name)


def _commit_to_log_end(self: Receiver, peer: Any, m: Any, verified: int, appended: bool) -> None:
    engine = self._engine
    self.verify(verified)
    engine.commit_index = max(engine.commit_index, min(m.commit, engine.storage.last_index))
    self._reply(peer, m, True, verified, 0, engine.storage.position)


_real_take = Receiver._take


def _cut_first(self: Receiver, previous: int, entries: Any) -> Any:
    if previous < self._engine.storage.last_index:
        self._engine.storage.truncate_from(previous + 1)
    return _real_take(self, previous, entries)


def _always_news(self: SnapshotInstaller, peer: Any, m: Any) -> None:
    self._engine.storage.reset_to(m.index, m.index_term)


def _forget_nothing(self: Replication, peer: Any, progress: Any) -> None:
    """R6 without its first half."""


@pytest.mark.parametrize(
    ("owner", "name", "mutant", "scenario"),
    [
        (
            Elections,
            "on_vote",
            _votes_counted_blindly,
            elections.test_a_doubled_or_foreign_vote_elects_nobody,
        ),
        (Elections, "gate", _no_gate, elections.test_one_that_cannot_hear_does_not_depose_the_leader),
        (Elections, "on_request_vote", _no_repeat, elections.test_a_lost_vote_is_repeated),
        (Outbox, "post", _no_barrier, elections.test_no_vote_leaves_before_it_is_durable),
        (Outbox, "post", _no_barrier, replication.test_no_acknowledgement_leaves_before_the_disk),
        (Replication, "_accept", _any_answer, replication.test_an_answer_of_an_older_term_counts_nothing),
        (Receiver, "_accept", _commit_to_log_end, replication.test_commit_only_what_the_message_verified),
        (Receiver, "_take", _cut_first, replication.test_a_short_message_cuts_nothing),
        (
            SnapshotInstaller,
            "_not_news",
            _always_news,
            snapshots.test_a_snapshot_that_is_not_news_cuts_nothing,
        ),
        (
            Replication,
            "_start_over",
            _forget_nothing,
            recovering.test_the_leader_forgets_what_it_knew_at_the_hello,
        ),
        (Replication, "_start_over", _forget_nothing, recovering.test_it_does_not_count_while_it_recovers),
    ],
)
def test_a_rule_taken_away_is_noticed(
    owner: type, name: str, mutant: Any, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, mutant)
    with pytest.raises(Exception):  # noqa: B017 as above
        scenario()
