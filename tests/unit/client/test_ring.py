"""Which node is asked first, which next, and who is believed."""

from __future__ import annotations

import random

import pytest

from trivet.client.retry import Pace, RetryPolicy, Verdict, judge, problem
from trivet.client.ring import Ring, origin_of


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("127.0.0.1:7480", "http://127.0.0.1:7480"),
        ("http://a/", "http://a:80"),
        ("https://a.b:1/x", "https://a.b:1"),
        ("http://[::1]:7480", "http://[::1]:7480"),
    ],
)
def test_origins(address: str, origin: str) -> None:
    assert origin_of(address) == origin


@pytest.mark.parametrize("address", ["", "ftp://a:1", "http://", "http://user:pw@a:1", "http://a:99999"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError):
        origin_of(address)


def test_the_leader_first_then_the_healthy_then_the_rest_then_nobody() -> None:
    ring = Ring(["a:1", "b:1", "c:1"])
    a, b, c = ring.members
    ring.learn(b, 1)
    assert ring.pick(set(), 0) == b
    ring.failed(b, 0, 5)
    assert ring.leader is None and ring.pick(set(), 0) == a
    ring.failed(a, 0, 5)
    assert ring.pick(set(), 0) == c
    assert ring.pick({c}, 0) == a, "a node that failed is better than none"
    assert ring.pick({a, b, c}, 0) is None
    assert ring.pick(set(), 6) == a, "a failure is forgotten"


def test_a_named_leader_that_is_no_member_is_asked_but_stays_a_stranger() -> None:
    ring = Ring(["a:1"])
    ring.learn("http://x:9", 3)
    assert ring.pick(set(), 0) == "http://x:9" and ring.members == ["http://a:1"]
    for n in range(100):
        ring.learn(f"http://x{n}:9", 4 + n)
    assert len(ring) <= 17, "a liar cannot make the ring grow"


def test_nonsense_in_the_header_changes_nothing() -> None:
    ring = Ring(["a:1", "b:1"])
    ring.learn("http://b:1", 5)
    ring.learn("::::", 6)
    ring.learn(None, 7)
    assert ring.leader == "http://b:1"


def test_pauses_have_full_jitter_under_a_growing_ceiling() -> None:
    policy, rng = RetryPolicy(backoff_s=0.02, backoff_max_s=1.0), random.Random(1)
    first = [policy.pause_s(0, rng) for _ in range(500)]
    late = [policy.pause_s(20, rng) for _ in range(500)]
    assert 0 <= min(first) < 0.005 and 0.015 < max(first) <= 0.02
    assert 0 <= min(late) < 0.05 and 0.9 < max(late) <= 1.0


def test_attempts_get_more_time_after_each_that_ran_out_and_waits_on_top() -> None:
    policy = RetryPolicy()
    assert [policy.attempt_timeout_s(n, Pace()) for n in (0, 1, 2, 3, 50)] == [1.5, 3.0, 6.0, 10.0, 10.0]


def paced(*answers_s: float) -> Pace:
    pace = Pace()
    for took_s in answers_s:
        pace.answered(took_s)
    return pace


def test_r34_silence_is_news_sooner_where_answers_are_quick() -> None:
    policy = RetryPolicy()
    assert policy.attempt_timeout_s(0, paced(*[0.01] * 10)) == policy.attempt_min_s
    # half a second, give or take two tenths: a loaded cluster is not asked twice
    assert policy.attempt_timeout_s(0, paced(*[0.3, 0.7] * 20)) > 1.2
    assert policy.attempt_timeout_s(0, paced(*[2.0] * 10)) == policy.attempt_s
    # one slow answer widens it at once, and is forgotten in a few
    pace = paced(*[0.01] * 10, 1.0)
    assert policy.attempt_timeout_s(0, pace) > 1.0
    for _ in range(10):
        pace.answered(0.01)
    assert policy.attempt_timeout_s(0, pace) == policy.attempt_min_s


def test_what_ran_out_counts_as_slow() -> None:
    policy, pace = RetryPolicy(), paced(*[0.7] * 20)
    before_s = policy.attempt_timeout_s(0, pace)
    pace.ran_out(before_s)
    pace.ran_out(before_s + 1)
    assert policy.attempt_timeout_s(0, pace) > before_s
    assert policy.attempt_timeout_s(1, pace) == 2 * policy.attempt_s


@pytest.mark.parametrize(
    ("status", "data", "ours", "verdict"),
    [
        (200, {}, True, Verdict.DONE),
        (307, None, True, Verdict.REDIRECT),
        (409, {"code": "stale_lease"}, True, Verdict.REFUSED),
        (503, {"code": "draining"}, True, Verdict.ELSEWHERE),
        (429, {"code": "overloaded"}, True, Verdict.LATER),
        (429, {"code": "queue_full"}, True, Verdict.REFUSED),
        (504, {"code": "outcome_unknown"}, True, Verdict.UNKNOWN),
        (500, {"code": "internal"}, True, Verdict.UNKNOWN),
        (502, "<html>bad gateway</html>", False, Verdict.UNKNOWN),
        (504, None, False, Verdict.UNKNOWN),
        (503, "no server is available", False, Verdict.ELSEWHERE),
        (404, "nothing here", False, Verdict.REFUSED),
        (400, {"code": "of_the_future", "retry": "elsewhere"}, True, Verdict.ELSEWHERE),
        (400, {"code": "of_the_future", "retry": "sideways"}, True, Verdict.REFUSED),
    ],
)
def test_verdicts(status: int, data: object, ours: bool, verdict: Verdict) -> None:
    assert judge(status, data, ours=ours)[0] is verdict


def test_a_problem_without_a_code_is_none() -> None:
    assert problem(500, {"title": "x"}) is None and problem(500, [1]) is None
