"""From kill -9 of a busy leader to the next write, in virtual time (R34): medians and the worst of many seeds."""

from __future__ import annotations

import statistics

import pytest

from tests.long import pick
from tests.unit.consensus.event_lab import EventLab, failover_s
from tests.unit.consensus.lab import Lab
from trivet.wire.frames import PreVote, PreVoteReply, RequestVote

FAST = (0.001, 0.003)
SLOW = (0.005, 0.03)
VERY_SLOW = (0.03, 0.1)


@pytest.mark.parametrize(
    ("names", "disk_s", "notice_s", "median_s", "worst_s"),
    [
        ("abc", FAST, (0.001, 0.02), 0.1, 0.2),
        ("abc", SLOW, (0.0, 0.1), 0.25, 0.4),
        ("abcde", SLOW, (0.0, 0.1), 0.25, 0.4),
        # a vote costs more than the pauses between tries here: without turns the vote was split for ever
        ("abc", VERY_SLOW, (0.0, 0.1), 0.6, 0.9),
        ("abcde", VERY_SLOW, (0.0, 0.1), 0.6, 0.9),
    ],
)
def test_failover_has_no_long_tail(
    names: str,
    disk_s: tuple[float, float],
    notice_s: tuple[float, float],
    median_s: float,
    worst_s: float,
) -> None:
    took = [
        failover_s(EventLab(names, seed, disk_s=disk_s, notice_s=notice_s)) for seed in range(pick(8, 60))
    ]
    assert statistics.median(took) < median_s, sorted(took)
    assert max(took) < worst_s, sorted(took)


def test_a_slow_net_splits_no_vote() -> None:
    took = [failover_s(EventLab(seed=s, disk_s=SLOW, net_s=(0.001, 0.02))) for s in range(pick(8, 60))]
    assert max(took) < 0.5, sorted(took)


# --- turns ------------------------------------------------------------------------------------------------


def leaderless(names: str = "abcde") -> Lab:
    """The highest leads, is killed, and nobody has moved yet."""
    lab = Lab(names)
    leader = lab.leader()
    lab.run(0.3)
    lab.kill(leader.name, power=False)
    lab.names = [n for n in names if n != leader.name]
    return lab


def ask(lab: Lab, voter: str, candidate: str, number: int, more: int = 0) -> bool:
    """Whether `voter` would elect `candidate`, whose log is `more` entries longer than its own."""
    node = lab[voter]
    last = node.storage.last_index
    term = node.storage.term_at(last) or 0
    lab.seen.clear()
    question = PreVote("lab", candidate, node.replica.term, number, last + more, term)
    node.replica.receive(candidate, question)
    node.sync()
    answers = [m for s, _, m in lab.seen if s == voter and isinstance(m, PreVoteReply) and m.round == number]
    return answers[-1].granted


def test_one_is_backed_at_a_time_and_the_first_in_order_goes_before_the_others() -> None:
    lab = leaderless()
    voter, low, middle, high = lab.names[3], *lab.names[:3]
    assert ask(lab, voter, middle, 1)
    assert not ask(lab, voter, high, 2)
    assert ask(lab, voter, middle, 3), "its own turn"
    assert ask(lab, voter, low, 4)
    assert not ask(lab, voter, middle, 5), "it has lost its turn"
    assert ask(lab, voter, high, 6, more=1), "a longer log goes before the order of ids"


def test_a_vote_ends_the_choice_for_the_turn() -> None:
    lab = leaderless()
    voter, low, middle = lab.names[3], *lab.names[:2]
    node = lab[voter]
    last = node.storage.last_index
    term = node.storage.term_at(last) or 0
    node.replica.receive(middle, RequestVote("lab", middle, node.replica.term + 1, last, term))
    node.sync()
    assert not ask(lab, voter, low, 1)
    lab.now += 1.0
    assert ask(lab, voter, low, 2)


def test_a_turn_that_brought_no_leader_goes_to_the_end() -> None:
    """One that can ask but not hear would hold the others for ever."""
    lab = leaderless()
    voter, low, middle = lab.names[3], *lab.names[:2]
    assert ask(lab, voter, low, 1)
    lab.now += 0.05
    assert ask(lab, voter, low, 2) and not ask(lab, voter, middle, 1)
    lab.now += 0.06  # asking again has not made the turn longer
    assert ask(lab, voter, middle, 2)
    assert not ask(lab, voter, low, 3), "it had its turn"


def test_one_that_has_the_turn_and_dies_holds_nobody() -> None:
    lab = leaderless()
    voter, low, middle = lab.names[3], *lab.names[:2]
    assert ask(lab, voter, low, 1)
    lab.kill(low, power=False)
    assert ask(lab, voter, middle, 1)


def test_a_question_refused_for_the_leaders_sake_is_answered_when_it_goes() -> None:
    """Two survivors are not told at the same instant; the first to ask need not ask again."""
    lab = Lab()
    leader = lab.leader()
    lab.run(0.3)
    first, second = lab.followers()
    lab.seen.clear()
    lab.disconnect(leader.name, first.name)
    question = PreVote("lab", first.name, first.replica.term, 7, first.storage.last_index, first.replica.term)
    second.replica.receive(first.name, question)

    def answers() -> list[bool]:
        return [m.granted for s, _, m in lab.seen if s == second.name and isinstance(m, PreVoteReply)]

    assert answers() == [False]
    lab.disconnect(leader.name, second.name)
    assert answers() == [False, True]


def test_a_member_that_comes_back_is_asked_at_once() -> None:
    """It was away when the others were asked: one that was restarted a moment before the leader died."""
    lab = Lab()
    leader = lab.leader()
    lab.run(0.3)
    a, b = lab.followers()
    lab.disconnect(a.name, b.name)
    lab.kill(leader.name, power=False)
    lab.until(lambda: a.engine.elections._asking and b.engine.elections._asking, 1)
    lab.seen.clear()
    lab.connect(a.name, b.name)
    assert {s for s, _, m in lab.seen if isinstance(m, PreVote)} == {a.name, b.name}
    lab.until(lambda: lab.leaders(), 0.03)


def test_a_candidate_asks_a_member_that_comes_back_for_its_vote() -> None:
    lab = Lab()
    leader = lab.leader()
    lab.run(0.3)
    a, b = lab.followers()
    lab.kill(leader.name, power=False)
    lab.until(lambda: "candidate" in (a.replica.role, b.replica.role), 1)
    one, other = (a, b) if a.replica.role == "candidate" else (b, a)
    lab.disconnect(one.name, other.name)
    lab.seen.clear()
    lab.connect(one.name, other.name)
    one.sync()
    asked = [m.term for s, to, m in lab.seen if to == other.name and isinstance(m, RequestVote)]
    assert asked == [one.replica.term]


def test_a_candidate_whose_own_vote_is_not_durable_yet_does_not_start_over() -> None:
    lab = Lab()
    leader = lab.leader()
    lab.run(0.3)
    a, b = lab.followers()
    a.disk_stalled = b.disk_stalled = True
    term = leader.replica.term
    lab.kill(leader.name, power=False)
    lab.run(3.0)
    assert max(a.replica.term, b.replica.term) == term + 1
    a.disk_stalled = b.disk_stalled = False
    lab.until(lambda: lab.leaders(), 1.0)
