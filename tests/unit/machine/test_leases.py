"""Leases, tokens and their ends: R13, R14, R18, R19, R20, R22."""

from __future__ import annotations

import pytest

from tests.unit.machine.kit import START_MS, Kit, code, token
from trivet.limits import ATTEMPTS_KEPT, ERROR_BYTES_MAX, SETTLE_WINDOW_MS
from trivet.machine import commands as c
from trivet.machine.commands import Draft, Extras, Token
from trivet.machine.replies import Leased
from trivet.machine.settle import cut


def make(**config: object) -> Kit:
    kit = Kit()
    kit.queue(**{"backoff": c.Backoff("fixed", 100, jitter_milli=0), **config})
    return kit


def test_a_lease_gives_token_attempt_and_end() -> None:
    kit = make(lease_ms=500)
    (number,) = kit.put("a")
    (grant,) = kit.lease()
    assert (grant.message, grant.attempt, grant.lease_expires_at_ms) == (number, 1, START_MS + 500)
    assert kit.lease() == []
    assert kit.counts() == {"leased": 1}


def test_the_lease_length_is_the_requests_else_the_messages_else_the_queues() -> None:
    kit = make(lease_ms=500)
    kit.put(Draft(extras=Extras(lease_ms=700)), Draft(extras=Extras(lease_ms=700)), "c")
    one = kit.lease(lease_ms=900)[0]
    two, three = kit.lease(2)
    assert [g.lease_expires_at_ms - START_MS for g in (one, two, three)] == [900, 700, 500]


def test_a_lease_of_an_unknown_queue_is_refused() -> None:
    kit = make()
    reply = kit(c.Lease(("q", "nope"), "w"))
    assert (code(reply), reply.field) == ("queue_not_found", "/queues/1")


def test_a_lease_over_queues_goes_in_the_order_given() -> None:
    kit = make()
    kit.queue("r")
    first = kit.put("a", "b", queue="r")
    kit.put("c", "d")
    reply = kit(c.Lease(("r", "q"), "w", 3))
    assert [g.message for g in reply.grants[:2]] == first and len(reply.grants) == 3


def test_r25_a_lease_answer_stops_at_max_bytes_but_gives_one_message() -> None:
    kit = make()
    numbers = kit.put("x" * 10, "y" * 10, "z" * 10)
    assert [g.message for g in kit.lease(9, max_bytes=5)] == numbers[:1]
    assert [g.message for g in kit.lease(9, max_bytes=23)] == numbers[1:2]
    assert [g.message for g in kit.lease(9, max_bytes=12)] == numbers[2:]


def test_r25_max_bytes_holds_over_several_queues() -> None:
    kit = make()
    kit.queue("r")
    kit.put("x" * 10)
    kit.put("y" * 10, queue="r")
    assert len(kit(c.Lease(("q", "r"), "w", 9, max_bytes=15)).grants) == 1


def test_max_leased_caps_and_counts_in_leasable() -> None:
    kit = make(max_leased=2)
    kit.put("a", "b", "c")
    queue = kit.m.queues["q"]
    assert queue.leasable == 2
    grants = kit.lease(5)
    assert len(grants) == 2 and queue.leasable == 0
    kit.ack(grants[0])
    assert list(kit.hints.ready) == ["q"] and queue.leasable == 1
    assert len(kit.lease(5)) == 1


def test_r13_a_lease_past_its_end_counts_until_the_expiry_entry() -> None:
    kit = make(lease_ms=500)
    (number,) = kit.put("a")
    (grant,) = kit.lease()
    kit.now += 10_000
    assert kit.ack(grant)[0].status == "acked"
    assert kit.state(number) is None


def test_r13_after_the_expiry_entry_the_token_is_stale_even_if_nobody_took_the_message() -> None:
    kit = make(lease_ms=500)
    (number,) = kit.put("a")
    (grant,) = kit.lease()
    kit.pass_ms(500)
    assert kit.state(number) == "ready"
    for command in (
        c.Ack((c.AckItem(token(grant)),)),
        c.Nack((c.NackItem(token(grant)),)),
        c.Release((token(grant),)),
        c.Extend((c.ExtendItem(token(grant)),)),
    ):
        assert kit(command).results[0].status == "stale_lease"
    kit.pass_ms(10 * SETTLE_WINDOW_MS)
    assert kit.ack(grant)[0].status == "stale_lease"
    assert kit(c.Ack((c.AckItem(Token(grant.fence, b"x" * 16)),))).results[0].status == "not_found"


def test_r1_expire_without_leases_leaves_leases_and_does_the_rest() -> None:
    kit = make(lease_ms=500)
    (late,) = kit.put(Draft(delay_ms=600))
    kit.put("a")
    (grant,) = kit.lease()
    kit.pass_ms(1000, leases=False)
    assert kit.state(late) == "ready" and kit.state(grant.message) == "leased"
    kit.pass_ms(0)
    assert kit.state(grant.message) == "ready"


def test_a_ttl_and_a_lease_that_end_together_are_two_deadlines() -> None:
    """Found by the random logs: the stale ttl entry passed for the lease's."""
    kit = make(lease_ms=500)
    kit.put(Draft(ttl_ms=500))
    (grant,) = kit.lease()
    kit.pass_ms(500, leases=False)
    assert kit.state(grant.message) == "leased"


def test_r13_the_fence_rises_through_release_redrive_and_a_recreated_queue() -> None:
    kit = make()
    kit.put("a")
    fences = []
    (grant,) = kit.lease()
    fences.append(grant.fence)
    kit.release(grant)
    (grant,) = kit.lease()
    fences.append(grant.fence)
    kit.nack(grant, dead_letter=True)
    kit(c.Redrive("q"))
    fences.append(kit.lease()[0].fence)
    kit(c.DeleteQueue("q"))
    kit.put("b")
    fences.append(kit.lease()[0].fence)
    assert fences == sorted(set(fences))


def test_an_unknown_or_malformed_token_is_not_found_for_its_item() -> None:
    kit = make()
    unknown = Token(99, b"x" * 16)
    for one in (None, unknown):
        assert kit(c.Ack((c.AckItem(one),))).results[0].status == "not_found"
        assert kit(c.Nack((c.NackItem(one),))).results[0].status == "not_found"
        assert kit(c.Release((one,))).results[0].status == "not_found"
        assert kit(c.Extend((c.ExtendItem(one),))).results[0].status == "not_found"


def test_r14_the_same_token_and_verb_repeats_another_verb_is_stale() -> None:
    kit = make()
    kit.put("a", "b", "c")
    acked, nacked, released = kit.lease(3)
    kit.ack(acked)
    kit.nack(nacked, delay_ms=50)
    kit.release(released)
    assert [(r.status, r.repeated) for r in kit.ack(acked)] == [("acked", True)]
    (again,) = kit.nack(nacked)
    assert (again.status, again.state, again.deliver_at_ms, again.repeated) == (
        "nacked",
        "delayed",
        START_MS + 50,
        True,
    )
    assert [(r.status, r.repeated) for r in kit.release(released)] == [("released", True)]
    assert (
        kit.nack(acked)[0].status == kit.ack(nacked)[0].status == kit.ack(released)[0].status == "stale_lease"
    )
    assert kit(c.Ack((c.AckItem(Token(acked.fence, b"x" * 16)),))).results[0].status == "not_found"


def test_r14_after_the_window_a_settled_token_is_not_found() -> None:
    kit = make()
    kit.put("a")
    (grant,) = kit.lease()
    kit.ack(grant)
    kit.pass_ms(SETTLE_WINDOW_MS - 1)
    assert kit.ack(grant)[0].repeated
    kit.pass_ms(1)
    assert kit.ack(grant)[0].status == "not_found"


def test_r14_settled_tokens_are_thrown_away_when_idle() -> None:
    kit = make()
    kit.put("a")
    kit.ack(*kit.lease())
    assert len(kit.m.settled) == 1
    kit.pass_ms(SETTLE_WINDOW_MS + 1000)
    assert len(kit.m.settled) == 0 and kit.m.next_deadline_ms() is None


def test_r14_the_cap_forgets_the_oldest_and_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.core.SETTLED_TOKENS_MAX", 2)
    kit = make()
    kit.put("a", "b", "c")
    grants = kit.lease(3)
    kit.ack(*grants)
    assert kit.m.settled_forgotten == 1
    assert [r.status for r in kit.ack(*grants)] == ["not_found", "acked", "acked"]


def test_r14_at_the_cap_expired_ones_go_uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.core.SETTLED_TOKENS_MAX", 2)
    kit = make(lease_ms=10 * SETTLE_WINDOW_MS)
    kit.put(*"abcdef")
    grants = kit.lease(6)
    monkeypatch.setattr("trivet.machine.core.Machine.trim_settled", lambda self, most: 0)
    kit.ack(*grants[:2])
    kit.now += SETTLE_WINDOW_MS
    kit.ack(*grants[2:4])
    assert kit.m.settled_forgotten == 0 and len(kit.m.settled) == 2


def test_the_same_token_twice_in_one_request_repeats() -> None:
    kit = make()
    kit.put("a")
    (grant,) = kit.lease()
    assert [r.repeated for r in kit.ack(grant, grant)] == [False, True]


def test_r18_a_repeated_lease_returns_only_live_leases_and_grants_nothing_new() -> None:
    kit = make(lease_ms=500)
    kit.put("a", "b", "c")
    first = kit.ask(c.Lease(("q",), "w", 2), "r1")
    assert isinstance(first.reply, Leased)
    one, two = first.reply.grants
    kit.ack(one)
    kit.now += 100
    kit(c.Extend((c.ExtendItem(token(two), 800),)))
    again = kit.ask(c.Lease(("q",), "w", 2), "r1")
    assert again.repeated and (again.index, again.seq) == (first.index, first.seq)
    assert isinstance(again.reply, Leased)
    assert [(g.message, g.lease_expires_at_ms) for g in again.reply.grants] == [(two.message, kit.now + 800)]
    assert (again.reply.lost, again.reply.now_ms) == (1, kit.now)
    assert kit.counts() == {"ready": 1, "leased": 1, "done": 0} or kit.counts() == {"ready": 1, "leased": 1}


def test_r18_an_empty_answer_is_not_remembered() -> None:
    kit = make()
    assert not kit.ask(c.Lease(("q",), "w"), "r1").reply.grants  # type: ignore[union-attr]
    kit.put("a")
    answer = kit.ask(c.Lease(("q",), "w"), "r1")
    assert not answer.repeated and len(answer.reply.grants) == 1  # type: ignore[union-attr]


def test_extend_sets_the_rest_from_now_and_may_shorten() -> None:
    kit = make(lease_ms=1000)
    kit.put("a", Draft(extras=Extras(lease_ms=300)))
    a, b = kit.lease(2, lease_ms=1000)
    kit.now += 400
    results = kit(c.Extend((c.ExtendItem(token(a), 100), c.ExtendItem(token(b))))).results
    assert [(r.status, r.lease_expires_at_ms) for r in results] == [
        ("extended", kit.now + 100),
        ("extended", kit.now + 300),
    ]
    kit.pass_ms(100)
    assert kit.state(a.message) == "ready" and kit.state(b.message) == "leased"


def test_progress_counts_as_a_heartbeat() -> None:
    kit = make(lease_ms=1000)
    kit.put("a", "b")
    (grant, other) = kit.lease(2)
    kit.now += 900
    reply = kit(c.Progress(grant.message, token(grant), 30, "half"))
    assert (reply.state, reply.lease_expires_at_ms) == ("leased", kit.now + 1000)
    note = kit.m.messages[grant.message].progress
    assert note is not None and (note.percent, note.note, note.at_ms) == (30, "half", kit.now)
    assert code(kit(c.Progress(grant.message, token(other)))) == "stale_lease"
    assert code(kit(c.Progress(grant.message, None))) == "stale_lease"
    assert code(kit(c.Progress(12345, token(grant)))) == "message_not_found"


def test_r20_attempts_count_at_the_lease_and_the_limit_when_one_fails() -> None:
    kit = make(max_attempts=2)
    (number,) = kit.put("a")
    (grant,) = kit.lease()
    assert kit.nack(grant, delay_ms=0)[0].state == "ready"
    (grant,) = kit.lease()
    assert grant.attempt == 2
    kit(c.PatchQueue("q", {"max_attempts": 1}))
    assert kit.state(number) == "leased"
    (answer,) = kit.nack(grant, error="boom")
    assert (answer.status, answer.state) == ("dead", "dead")
    message = kit.m.messages[number]
    assert message.dead_reason == "max_attempts"
    assert [(a.attempt, a.outcome, a.error) for a in message.history] == [
        (1, "nacked", None),
        (2, "nacked", "boom"),
    ]


def test_r20_zero_means_no_limit_and_a_message_may_have_its_own() -> None:
    kit = make(max_attempts=0, backoff=c.Backoff("list"))
    free, own = kit.put("a", Draft(extras=Extras(max_attempts=1)))
    for _ in range(25):
        kit.nack(*kit.lease(5))
    assert kit.state(free) == "ready" and kit.state(own) == "dead"
    history = kit.m.messages[free].history
    assert len(history) == ATTEMPTS_KEPT and history[-1].attempt == 25


def test_r20_release_takes_the_attempt_back_not_the_fence_and_keeps_the_place() -> None:
    kit = make()
    a, b = kit.put("a", "b")
    (grant,) = kit.lease()
    assert kit.release(grant)[0].status == "released"
    (again,) = kit.lease()
    assert (again.message, again.attempt) == (a, 1) and again.fence > grant.fence
    assert kit.take() == [b]


def test_r20_an_expired_lease_counts_as_failed() -> None:
    kit = make(max_attempts=2, lease_ms=100)
    (number,) = kit.put("a")
    kit.lease()
    kit.pass_ms(100)
    assert kit.state(number) == "ready"
    kit.pass_ms(100)
    kit.lease()
    kit.pass_ms(100)
    assert kit.m.messages[number].dead_reason == "max_attempts"


def test_expired_fences_of_forgotten_attempts_are_forgotten() -> None:
    kit = make(max_attempts=0, lease_ms=100, backoff=c.Backoff("list"))
    kit.put("a")
    first = kit.lease()[0]
    for _ in range(ATTEMPTS_KEPT):
        kit.pass_ms(100)
        last = kit.lease()[0]
    assert len(kit.m.expired) == ATTEMPTS_KEPT
    kit.nack(last)
    kit.now += SETTLE_WINDOW_MS
    assert kit.ack(first)[0].status == "not_found"


def test_nack_dead_letters_with_reason_rejected() -> None:
    kit = make()
    kit.put("a")
    (grant,) = kit.lease()
    assert kit.nack(grant, dead_letter=True, error="no")[0].status == "dead"
    assert kit.m.messages[grant.message].dead_reason == "rejected"


def test_r31_an_error_is_cut_never_refused() -> None:
    assert cut("x" * ERROR_BYTES_MAX) == "x" * ERROR_BYTES_MAX
    assert cut("x" * (ERROR_BYTES_MAX + 1)) == "x" * ERROR_BYTES_MAX
    assert cut("é" * ERROR_BYTES_MAX) == "é" * (ERROR_BYTES_MAX // 2)
    assert cut("x" + "é" * ERROR_BYTES_MAX) == "x" + "é" * ((ERROR_BYTES_MAX - 1) // 2)


def test_r19_ttl_is_not_looked_at_while_leased_and_an_ack_wins() -> None:
    kit = make(ttl_ms=100)
    kit.put("a")
    (grant,) = kit.lease()
    kit.pass_ms(1000)
    assert kit.state(grant.message) == "leased"
    assert kit.ack(grant)[0].status == "acked"


def test_r19_nack_expiry_or_release_after_the_ttl_is_death() -> None:
    kit = make(ttl_ms=100, lease_ms=200, max_attempts=1)
    a, b, d = kit.put("a", "b", "c")
    ga, gb, _ = kit.lease(3)
    kit.now += 150
    assert kit.nack(ga)[0].status == "dead"
    (released,) = kit.release(gb)
    assert (released.status, released.state) == ("released", "dead")
    kit.pass_ms(50)
    assert [kit.m.messages[n].dead_reason for n in (a, b, d)] == ["expired"] * 3


def test_r19_past_its_ttl_a_message_is_dead_and_never_delivered() -> None:
    kit = make()
    a, b = kit.put(Draft(ttl_ms=100), Draft(ttl_ms=100, delay_ms=500))
    kit.now += 100
    assert kit.take() == []  # without any Expire
    assert kit.state(a) == "dead"
    kit.pass_ms(0)
    assert kit.m.messages[b].dead_reason == "expired"


def test_overdue_messages_met_by_a_lease_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.delivery.EXPIRE_BATCH_MAX", 2)
    kit = make()
    kit.put(*[Draft(ttl_ms=10) for _ in range(5)])
    kit.now += 10
    assert kit.take() == [] and kit.counts() == {"dead": 2, "ready": 3}


def test_r22_cancelling_a_leased_message_marks_it() -> None:
    kit = make()
    kit.put("a", "b", "c", "d")
    acked, nacked, released, expired = kit.lease(4)
    for grant in (acked, nacked, released, expired):
        reply = kit(c.Cancel(grant.message))
        assert (reply.state, reply.cancelled) == ("leased", True)
    assert kit(c.Extend((c.ExtendItem(token(acked)),))).results[0].cancelled
    assert kit.ack(acked)[0].status == "acked"
    (answer,) = kit.nack(nacked, dead_letter=True)
    assert (answer.status, answer.state, answer.cancelled) == ("nacked", "cancelled", True)
    (answer,) = kit.release(released)
    assert (answer.status, answer.state, answer.cancelled) == ("released", "cancelled", True)
    kit.pass_ms(60_000)
    totals = kit.m.queues["q"].totals
    assert (totals.done, totals.cancelled, totals.died) == (1, 3, 0)


def test_r22_cancel_of_waiting_unknown_and_finished_messages() -> None:
    kit = make(retention_ms=1000)
    a, b, d = kit.put("a", Draft(delay_ms=50), Draft(extras=Extras(depends_on=())))
    assert kit(c.Cancel(a)).state == "cancelled"
    assert kit(c.Cancel(b)).state == "cancelled"
    assert code(kit(c.Cancel(a))) == "message_finished"
    assert code(kit(c.Cancel(999))) == "message_not_found"
    assert kit.take() == [d]


def test_progress_of_a_cancelled_one_says_so() -> None:
    kit = make()
    kit.put("a")
    (grant,) = kit.lease()
    kit(c.Cancel(grant.message))
    assert kit(c.Progress(grant.message, token(grant))).cancelled
    assert kit(c.PatchMessage(grant.message, priority=3)).cancelled
