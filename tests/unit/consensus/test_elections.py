"""Who leads, and how fast (r09, r15b, R34)."""

from __future__ import annotations

import statistics

from tests.long import pick
from tests.unit.consensus.lab import Lab, LabNode
from trivet.wire.frames import Append, PreVote, PreVoteReply, RequestVote, StaleTerm, TimeoutNow, Vote


def standing(lab: Lab, name: str) -> LabNode:
    """`name` becomes a candidate whose requests reach nobody."""
    node = lab[name]
    lab.isolate(name)
    node.engine.transfer_pending = True
    node.engine.election_deadline = 0
    node.replica.tick()
    node.sync()
    assert node.replica.role == "candidate"
    return node


def test_a_doubled_or_foreign_vote_elects_nobody() -> None:
    """r15b: the stock code counts grants, not voters."""
    lab = Lab("abcde")
    leader = lab.leader()
    node = standing(lab, next(n for n in "abcde" if n != leader.name))
    voter = next(n for n in "abcde" if n not in (leader.name, node.name))
    term = node.replica.term
    for _ in range(4):
        node.replica.receive(voter, Vote("lab", voter, term))
    node.replica.receive("z", Vote("lab", "z", term))
    node.replica.receive(leader.name, Vote("lab", leader.name, term - 1))
    assert node.replica.role == "candidate"
    node.replica.receive(leader.name, Vote("lab", leader.name, term))
    assert node.replica.role == "leader"


def test_the_votes_of_an_older_campaign_are_gone() -> None:
    lab = Lab("abcde")
    leader = lab.leader()
    node = standing(lab, next(n for n in "abcde" if n != leader.name))
    node.replica.receive(leader.name, Vote("lab", leader.name, node.replica.term))
    node.engine.transfer_pending = True
    node.engine.election_deadline = 0
    node.replica.tick()
    node.replica.receive(leader.name, Vote("lab", leader.name, node.replica.term))
    assert node.replica.role == "candidate"


def test_a_lost_vote_is_repeated() -> None:
    """r15b: the stock voter stays silent when asked again in the same term."""
    lab = Lab()
    leader = lab.leader()
    lab.run(0.2)
    a, b = lab.followers()
    term, last = leader.replica.term + 1, b.storage.last_index
    lab.block |= {(leader.name, a.name)}
    question = RequestVote("lab", b.name, term, last, b.storage.term_at(last) or 0)
    for expected in (1, 2):
        a.replica.receive(b.name, question)
        a.sync()
        votes = [m for s, to, m in lab.seen if isinstance(m, Vote) and s == a.name and m.term == term]
        assert len(votes) == expected
    a.replica.receive(leader.name, RequestVote("lab", leader.name, term, 99, 99))
    a.sync()
    assert len([m for s, _, m in lab.seen if isinstance(m, Vote) and s == a.name and m.term == term]) == 2


def test_no_vote_leaves_before_it_is_durable() -> None:
    """r01b: two votes in one term, after a power cut between."""
    lab = Lab()
    leader = lab.leader()
    lab.run(0.2)
    a, b = lab.followers()
    a.disk_stalled = True
    term = leader.replica.term + 1
    a.replica.receive(b.name, RequestVote("lab", b.name, term, 99, 99))
    assert not [m for s, _, m in lab.seen if isinstance(m, Vote) and m.term == term]
    a.disk_stalled = False
    a.sync()
    assert [m for s, _, m in lab.seen if isinstance(m, Vote) and m.term == term]
    lab.kill(a.name)
    lab.start(a.name)
    lab.seen.clear()
    a.replica.receive(leader.name, RequestVote("lab", leader.name, term, 99, 99))
    a.sync()
    assert not [m for s, _, m in lab.seen if isinstance(m, Vote) and s == a.name and m.term == term]


def test_one_that_cannot_hear_does_not_depose_the_leader() -> None:
    """r09b: it can send but not receive; the stock library changed leaders 16 times in 30 s."""
    lab = Lab()
    leader = lab.leader()
    deaf = lab.followers()[0]
    term = leader.replica.term
    lab.block |= {(other, deaf.name) for other in "abc" if other != deaf.name}
    lab.run(10)
    assert lab.leaders() == [leader.name] and leader.replica.term == term
    assert [m for s, _, m in lab.seen if s == deaf.name and isinstance(m, PreVote)]


def test_one_that_was_away_comes_back_quietly() -> None:
    lab = Lab()
    leader = lab.leader()
    away = lab.followers()[0]
    term = leader.replica.term
    lab.isolate(away.name)
    lab.run(5)
    assert away.replica.term == term, "a node without a quorum raises its term"
    lab.heal()
    lab.run(2)
    assert lab.leaders() == [leader.name] and leader.replica.term == term


def test_a_leader_without_a_quorum_steps_down() -> None:
    """r09a: 28.6 s of two self-declared leaders with the stock default."""
    lab = Lab()
    leader = lab.leader()
    lab.run(0.2)
    lab.isolate(leader.name)
    assert lab.until(lambda: not leader.replica.is_leader, 2) <= 0.95


def test_a_deposed_leader_learns_of_the_new_term_at_once() -> None:
    lab = Lab()
    leader = lab.leader()
    lab.run(0.2)
    lab.isolate(leader.name)
    lab.until(lambda: len(lab.leaders()) == 1 and lab.leaders() != [leader.name], 5)
    lab.heal()
    lab.until(lambda: leader.replica.leader == lab.leaders()[0], 0.5)


def test_a_stale_message_is_answered_with_the_term() -> None:
    lab = Lab()
    leader = lab.leader()
    follower, other = lab.followers()
    lab.run(0.2)
    lab.seen.clear()
    term = leader.replica.term
    for message in (
        RequestVote("lab", other.name, term - 1, 99, 99),
        PreVote("lab", other.name, term - 1, 1, 99, 99),
        Append("lab", other.name, term - 1, 1, 0, 0, 0, 0, 0, follower.engine.health(), []),
    ):
        follower.replica.receive(other.name, message)
    told = [m for s, to, m in lab.seen if isinstance(m, StaleTerm)]
    assert [m.term for m in told] == [term] * 3
    leader.replica.receive(other.name, StaleTerm("lab", other.name, term))
    assert leader.replica.is_leader
    leader.replica.receive(other.name, StaleTerm("lab", other.name, term + 5))
    assert not leader.replica.is_leader and leader.replica.term == term + 5


def test_a_shorter_log_is_not_preferred() -> None:
    lab = Lab()
    leader = lab.leader()
    follower, other = lab.followers()
    lab.put(leader, 3)
    lab.run(0.2)
    lab.disconnect(leader.name, follower.name)
    lab.seen.clear()
    term = leader.replica.term
    for round_, last in ((1, 2), (2, follower.storage.last_index)):
        follower.replica.receive(other.name, PreVote("lab", other.name, term, round_, last, term))
    answers = {
        m.round: m.granted for s, _, m in lab.seen if isinstance(m, PreVoteReply) and s == follower.name
    }
    assert answers == {1: False, 2: True}


def test_an_old_promise_does_not_start_an_election() -> None:
    """A pre-vote that was won before the node voted for another is no promise any more."""
    lab = Lab()
    leader = lab.leader()
    lab.run(0.2)
    a, b = lab.followers()
    lab.isolate(a.name)
    a.engine.elections._ask()
    asked = a.engine.elections._round
    a.replica.receive(b.name, PreVoteReply("lab", b.name, leader.replica.term, asked, True))
    assert a.engine.elections._won
    a.replica.receive(b.name, RequestVote("lab", b.name, leader.replica.term + 1, 99, 99))
    a.engine.election_deadline = 0
    a.replica.tick()
    assert a.replica.role == "follower"


def test_timeout_now_counts_only_from_the_leader_of_the_term() -> None:
    lab = Lab()
    leader = lab.leader()
    a, b = lab.followers()
    lab.run(0.2)
    a.replica.receive(b.name, TimeoutNow("lab", b.name, leader.replica.term))
    a.replica.receive(leader.name, TimeoutNow("lab", leader.name, leader.replica.term - 1))
    a.replica.tick()
    assert a.replica.role == "follower"
    a.replica.receive(leader.name, TimeoutNow("lab", leader.name, leader.replica.term))
    a.replica.tick()
    assert a.replica.role == "candidate"


def failover_s(seed: int, names: str, silently: bool) -> float:
    lab = Lab(names, seed=seed)
    leader = lab.leader()
    lab.run(0.3)
    if silently:
        lab.isolate(leader.name)
    else:
        lab.kill(leader.name, power=False)
    others = [lab[n] for n in names if n != leader.name]
    return lab.until(lambda: any(n.replica.can_propose for n in others), 5)


def test_failover_after_a_kill_is_quick() -> None:
    """R34: median below 0.25 s, worst below 0.6 s (virtual time, 5 ms steps, disks that answer within one)."""
    for names in ("abc", "abcde"):
        took = [failover_s(seed, names, silently=False) for seed in range(pick(10, 60))]
        assert statistics.median(took) < 0.1, took
        assert max(took) < 0.25, took


def test_failover_after_a_silent_loss_is_within_the_promise() -> None:
    """R34: no reset is sent; the heartbeats find it."""
    took = [failover_s(seed, "abc", silently=True) for seed in range(pick(8, 60))]
    assert max(took) < 1.5, took


def test_a_closed_connection_of_a_live_leader_deposes_nobody() -> None:
    lab = Lab()
    leader = lab.leader()
    follower = lab.followers()[0]
    lab.run(0.3)
    term = leader.replica.term
    lab.disconnect(leader.name, follower.name)
    assert follower.replica.leader is None
    lab.run(1.0)
    lab.connect_all()
    lab.run(0.5)
    assert lab.leaders() == [leader.name] and leader.replica.term == term
    assert follower.replica.leader == leader.name


def test_the_list_of_elections_says_why() -> None:
    lab = Lab()
    first = lab.leader()
    lab.run(0.2)
    lab.kill(first.name, power=False)
    second = lab.leader()
    last = second.replica.status().elections[-1]
    assert (last.leader, last.reason) == (second.name, f"connection to {first.name} lost")
    assert len(second.replica.status().elections) == 2


def test_who_hands_over_says_so_in_its_own_list() -> None:
    lab = Lab()
    first = lab.leader()
    target = lab.followers()[0]
    lab.run(0.2)
    assert first.replica.transfer(target.name)
    lab.until(lambda: first.replica.leader == target.name, 2)
    last = first.replica.status().elections[-1]
    assert (last.leader, last.reason) == (target.name, f"handed over to {target.name}")
    assert target.replica.status().elections[-1].reason == f"handed over by {first.name}"
