"""Enqueue, keys, request ids, limits, ack with enqueue: R12, R15, R16, R24, api.md "Messages"."""

from __future__ import annotations

import pytest

from tests.unit.machine.kit import START_MS, Kit, code, token
from trivet.limits import REQUEST_WINDOW_MS
from trivet.machine import commands as c
from trivet.machine.commands import AckItem, Draft, EnqueueTo, Extras
from trivet.machine.replies import Enqueued, EnqueuedOne, Refusal

HOUR = 3_600_000


def make(**config: object) -> Kit:
    kit = Kit()
    kit.queue(**{"result_retention_ms": 0, "backoff": c.Backoff("list"), **config})
    return kit


def key(name: str, body: bytes = b"1", **more: object) -> Draft:
    return Draft(body, key=name, **more)  # type: ignore[arg-type]


def test_enqueue_creates_the_queue_with_the_defaults_unless_told_not_to() -> None:
    kit = Kit()
    refused = kit(c.Enqueue("new", (Draft(),), auto_create=False))
    assert (code(refused), refused.field) == ("queue_not_found", "/messages/0/queue")
    assert kit.put("a", queue="new") and kit.m.queues["new"].config == c.QueueConfig()


def test_at_most_so_many_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.intake.QUEUES_MAX", 2)
    monkeypatch.setattr("trivet.machine.admin.QUEUES_MAX", 2)
    kit = make()
    kit.put("a", queue="r")
    assert code(kit(c.Enqueue("s", (Draft(),)))) == "too_many_queues"
    assert code(kit(c.PutQueue("s", c.QueueConfig()))) == "too_many_queues"


def test_paused_enqueue_refuses_and_resume_takes_again() -> None:
    kit = make()
    kit(c.PauseQueue("q", enqueue=True))
    assert code(kit(c.Enqueue("q", (Draft(),)))) == "queue_paused"
    kit(c.PauseQueue("q", enqueue=False))
    assert kit.put("a")


def test_a_batch_is_all_or_nothing() -> None:
    kit = make(max_messages=2)
    assert code(kit(c.Enqueue("q", (Draft(), Draft(), Draft())))) == "queue_full"
    assert kit.counts() == {}
    kit.put("a", "b")
    refused = kit(c.Enqueue("q", (Draft(),)))
    assert (refused.code, refused.limit) == ("queue_full", 2) and refused.retry_after_ms
    kit.ack(*kit.lease())
    assert kit.put("c")


def test_max_bytes_counts_bodies_and_headers_of_unfinished_messages() -> None:
    kit = make(max_bytes=10)
    kit.put(Draft(b"12345", headers={"a": "é"}))
    assert kit.m.queues["q"].bytes == 8
    assert code(kit(c.Enqueue("q", (Draft(b"123"),)))) == "queue_full"
    kit.put(Draft(b"12"))
    grants = kit.lease(2)
    assert kit.m.queues["q"].bytes == 10
    kit.nack(grants[0], dead_letter=True)
    kit.ack(grants[1])
    assert kit.m.queues["q"].bytes == 0


def test_on_full_the_oldest_ready_ones_become_dead_letters() -> None:
    kit = make(max_messages=3, on_full="dead_letter_oldest")
    a, b, d = kit.put(Draft(delay_ms=50), Draft(priority=5), "c")
    (e,) = kit.put("d")
    assert kit.m.messages[b].dead_reason == "queue_full" and kit.state(a) == "delayed"
    assert kit.put("e", "f") and kit.state(d) == kit.state(e) == "dead"
    assert code(kit(c.Enqueue("q", tuple(Draft() for _ in range(4))))) == "queue_full"


def test_on_full_by_bytes_and_what_cannot_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = make(max_bytes=10, on_full="dead_letter_oldest")
    a, b = kit.put(Draft(b"1234"), Draft(b"1234"))
    kit.put(Draft(b"12345"))
    assert kit.state(a) == "dead" and kit.state(b) == "ready"
    kit.lease(1)
    assert code(kit(c.Enqueue("q", (Draft(b"1234567"),)))) == "queue_full"
    monkeypatch.setattr("trivet.machine.intake.DISPLACE_MAX", 0)
    assert code(kit(c.Enqueue("q", (Draft(b"12345"),)))) == "queue_full"


# --- keys (R16) ---------------------------------------------------------------------------------------


def test_r16_the_same_key_gives_the_first_message() -> None:
    kit = make()
    (first,) = kit.put(key("k"))
    reply = kit(c.Enqueue("q", (key("k"),)))
    assert reply.messages == (EnqueuedOne(first, "ready", duplicate=True),)
    kit.lease()
    assert kit(c.Enqueue("q", (key("k"),))).messages[0].state == "leased"


def test_r16_the_state_and_result_of_a_finished_one() -> None:
    kit = make(result_retention_ms=1000)
    kit.put(key("k"))
    kit.ack(*kit.lease(), result=b'"ok"')
    (one,) = kit(c.Enqueue("q", (key("k"),))).messages
    assert (one.state, one.duplicate, one.result) == ("done", True, b'"ok"')
    kit.pass_ms(1000)
    (one,) = kit(c.Enqueue("q", (key("k"),))).messages
    assert (one.state, one.duplicate, one.result) == ("done", True, None)


def test_r16_another_body_or_content_type_or_codec_conflicts() -> None:
    kit = make()
    kit.put(key("k"))
    for other in (key("k", b"2"), key("k", content_type="a/b"), key("k", codec=c.CODEC_BYTES)):
        refused = kit(c.Enqueue("q", (Draft(), other)))
        assert (refused.code, refused.field) == ("idempotency_conflict", "/messages/1/idempotency_key")
    assert kit.put(key("k", headers={"h": "v"})) == kit.put(key("k"))


def test_r16_in_a_batch_the_first_of_equal_keys_wins() -> None:
    kit = make(max_messages=1)
    reply = kit(c.Enqueue("q", (key("k"), key("k"))))
    assert [one.duplicate for one in reply.messages] == [False, True]
    assert reply.messages[0].message == reply.messages[1].message
    refused = kit(c.Enqueue("q", (key("j"), key("j", b"2"))))
    assert (refused.code, refused.field) == ("idempotency_conflict", "/messages/1/idempotency_key")


def test_r16_duplicates_do_not_count_against_limits_nor_pauses() -> None:
    kit = make(max_messages=1)
    (first,) = kit.put(key("k"))
    kit(c.PauseQueue("q", enqueue=True))
    assert kit.put(key("k"), key("k")) == [first, first]
    assert kit.m.queues["q"].totals.duplicates == 2


def test_r16_a_key_lives_its_window_and_never_less_than_its_message_is_unfinished() -> None:
    kit = make(idempotency_window_ms=1000)
    (first,) = kit.put(key("k"))
    kit.pass_ms(5000)
    assert kit.put(key("k")) == [first]
    kit.ack(*kit.lease())
    assert kit.put(key("k")) != [first]
    (short,) = kit.put(key("j", key_window_ms=10))
    kit.ack(*kit.lease(2))
    assert kit.put(key("j")) == [short]
    kit.pass_ms(10)
    assert kit.put(key("j")) != [short]


def test_r16_an_expired_key_is_free_before_any_expire_has_run() -> None:
    kit = make(idempotency_window_ms=1000)
    (first,) = kit.put(key("k"))
    kit.ack(*kit.lease())
    assert len(kit.m.queues["q"].keys) == 1
    kit.now += 1000
    assert kit.put(key("k")) != [first]
    assert len(kit.m.queues["q"].keys) == 1


def test_r16_the_cap_of_keys_refuses_and_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.intake.KEYS_PER_QUEUE_MAX", 2)
    monkeypatch.setattr("trivet.machine.keys.KEYS_PER_QUEUE_MAX", 2)
    kit = make()
    first = kit.put(key("a"), key("b"))
    refused = kit(c.Enqueue("q", (key("a"), key("c"))))
    assert (refused.code, refused.limit, refused.field) == ("queue_full", 2, "/messages/1/idempotency_key")
    assert kit.put(key("a"), key("b")) == first


def test_r16_purge_keeps_keys_and_cancelled_ones_say_so() -> None:
    kit = make()
    (a, b) = kit.put(key("a"), key("b"))
    kit(c.Cancel(b))
    kit(c.PurgeQueue("q"))
    for _ in range(2):
        assert [(o.message, o.state) for o in kit(c.Enqueue("q", (key("a"), key("b")))).messages] == [
            (a, "cancelled"),
            (b, "cancelled"),
        ]
        kit.pass_ms(0)


def test_r16_results_of_duplicates_stop_at_the_answers_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.intake.ANSWER_BYTES_MAX", 5)
    kit = make(result_retention_ms=1000)
    kit.put(key("a"), key("b"))
    kit.ack(*kit.lease(2), result=b"123")
    assert [one.result for one in kit(c.Enqueue("q", (key("a"), key("b")))).messages] == [b"123", None]


def test_r16_a_redriven_message_keeps_its_key() -> None:
    kit = make(idempotency_window_ms=1000)
    kit.queue("r")
    (first,) = kit.put(key("k"))
    kit.nack(*kit.lease(), dead_letter=True)
    kit(c.Redrive("q"))
    kit.pass_ms(2000)
    assert kit.put(key("k")) == [first]
    kit.nack(*kit.lease(), dead_letter=True)
    assert not kit.m.queues["q"].keys
    kit(c.Redrive("q", to="r"))
    assert kit.put(key("k"), queue="r") == [first]
    kit.ack(*kit.lease(queue="r"))
    assert not kit.m.queues["r"].keys


def test_r16_redriven_inside_the_window_both_queues_know_the_key() -> None:
    kit = make(idempotency_window_ms=1000)
    kit.queue("r")
    (first,) = kit.put(key("k"))
    kit.nack(*kit.lease(), dead_letter=True)
    kit(c.Redrive("q", to="r"))
    assert kit.put(key("k")) == kit.put(key("k"), queue="r") == [first]
    kit.nack(*kit.lease(queue="r"), dead_letter=True)
    kit(c.Redrive("r", to="q"))
    kit.pass_ms(5000)
    assert kit.put(key("k")) == [first]
    assert kit.put(key("k"), queue="r") != [first]


def test_r16_a_redriven_message_does_not_take_a_key_from_another() -> None:
    kit = make(idempotency_window_ms=0)
    (first,) = kit.put(key("k"))
    kit.nack(*kit.lease(), dead_letter=True)
    (second,) = kit.put(key("k"))
    kit(c.Redrive("q"))
    assert kit.put(key("k")) == [second]
    assert kit.state(first) == "ready"
    kit.ack(*kit.lease(2))


# --- request ids (R12) --------------------------------------------------------------------------------


def test_r12_the_same_request_id_gives_the_stored_reply() -> None:
    kit = make()
    command = c.Enqueue("q", (Draft(),))
    first = kit.ask(command, "r1")
    again = kit.ask(command, "r1")
    assert again.repeated and again.reply == first.reply and (again.index, again.seq) == (first.index, 0)
    assert kit.counts() == {"ready": 1}
    assert code(kit.ask(command, "r1", b"other").reply) == "idempotency_conflict"


def test_r12_the_window_ends_and_the_id_may_be_used_again() -> None:
    kit = make()
    command = c.Enqueue("q", (Draft(),))
    kit.ask(command, "r1")
    kit.now += REQUEST_WINDOW_MS - 1
    assert kit.ask(command, "r1").repeated
    kit.now += 1
    assert not kit.ask(command, "r1", b"other").repeated
    assert kit.ask(command, "r1", b"other").repeated
    kit.pass_ms(REQUEST_WINDOW_MS + 1000)
    assert len(kit.m.replies) == 0 and kit.m.reply_bytes == 0


def test_r12_look_ups_come_before_every_refusal() -> None:
    kit = make(max_messages=1)
    command = c.Enqueue("q", (Draft(),))
    first = kit.ask(command, "r1")
    assert kit.ask(command, "r1").reply == first.reply
    kit(c.PauseQueue("q", enqueue=True))
    assert kit.ask(command, "r1").repeated
    kit(c.DeleteQueue("q"))
    assert kit.ask(command, "r1").repeated


def test_r12_refusals_are_not_remembered() -> None:
    kit = make(max_messages=0)
    command = c.Enqueue("q", (Draft(),))
    assert isinstance(kit.ask(command, "r1").reply, Refusal)
    kit(c.PatchQueue("q", {"max_messages": 1}))
    assert isinstance(kit.ask(command, "r1").reply, Enqueued)


def test_r12_at_the_cap_new_ids_are_refused_and_old_ones_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.core.REQUEST_IDS_MAX", 2)
    kit = make()
    command = c.Enqueue("q", (Draft(),))
    kit.ask(command, "r1")
    kit.now += 10
    kit.ask(command, "r2")
    assert code(kit.ask(command, "r3").reply) == "overloaded"
    assert kit.ask(command, "r1").repeated
    kit.now += REQUEST_WINDOW_MS - 10
    assert not kit.ask(command, "r3").repeated
    assert kit.ask(command, "r2").repeated and len(kit.m.replies) == 2


# --- dependencies -------------------------------------------------------------------------------------


def after(*numbers: int, **more: object) -> Draft:
    return Draft(extras=Extras(depends_on=numbers, **more))  # type: ignore[arg-type]


def test_r24_a_dependency_that_is_unknown_is_404_with_its_field() -> None:
    kit = make()
    (a,) = kit.put("a")
    refused = kit(c.Enqueue("q", (Draft(), after(a, 777))))
    assert (refused.code, refused.field) == ("message_not_found", "/messages/1/depends_on/1")


def test_a_blocked_message_becomes_ready_when_all_are_done() -> None:
    kit = make()
    a, b = kit.put("a", "b")
    (d,) = kit.put(after(a, b, a))
    assert kit.counts() == {"ready": 2, "blocked": 1}
    one, two = kit.lease(5)
    kit.ack(one)
    assert kit.state(d) == "blocked"
    kit.ack(two)
    assert list(kit.hints.ready) == ["q"] and kit.take() == [d]


def test_a_blocked_message_with_a_delay_waits_for_both() -> None:
    kit = make()
    (a,) = kit.put("a")
    (d,) = kit.put(Draft(delay_ms=100, extras=Extras(depends_on=(a,))))
    kit.ack(*kit.lease())
    assert kit.state(d) == "delayed"
    kit.pass_ms(100)
    assert kit.state(d) == "ready"
    (b,) = kit.put("b")
    (e,) = kit.put(after(b))
    kit(c.PatchMessage(e, deliver_at_ms=kit.now + 50))
    kit.ack(*kit.lease(2))
    assert kit.state(e) == "delayed"


@pytest.mark.parametrize("end", ["dead", "cancelled", "purged", "deleted"])
def test_a_failed_dependency_fails_its_dependents_unless_they_run(end: str) -> None:
    kit = make()
    kit.queue("r")
    (a,) = kit.put("a")
    fails, runs = kit.put(after(a), after(a, on_dependency_failure="run"), queue="r")
    (chained,) = kit.put(after(fails), queue="r")
    if end == "dead":
        kit.nack(*kit.lease(), dead_letter=True)
    elif end == "cancelled":
        kit(c.Cancel(a))
    else:
        kit(c.PurgeQueue("q") if end == "purged" else c.DeleteQueue("q"))
        assert kit.state(a) is None
        kit.pass_ms(0)
    assert kit.state(fails) == kit.state(chained) == "dead" and kit.state(runs) == "ready"
    assert kit.m.messages[fails].dead_reason == "dependency_failed"


def test_depending_on_what_has_ended_already() -> None:
    kit = make(retention_ms=1000)
    a, b = kit.put("a", "b")
    kit.ack(*kit.lease())
    kit.nack(*kit.lease(), dead_letter=True)
    states = [
        one.state
        for one in kit(
            c.Enqueue("q", (after(a), after(b), after(b, on_dependency_failure="run"), after(a, b)))
        ).messages
    ]
    assert states == ["ready", "dead", "ready", "dead"]


def test_many_dependents_are_told_in_bounded_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.dependencies.INLINE", 3)
    kit = make()
    (a,) = kit.put("a")
    waiting = kit.put(*[after(a) for _ in range(10)])
    kit(c.Cancel(waiting[5]))
    kit.ack(*kit.lease())
    assert kit.counts()["ready"] == 3 and kit.m.next_deadline_ms() == kit.now
    assert kit(c.Expire(4)).more
    kit.pass_ms(0)
    assert kit.counts()["ready"] == 9 and not kit.m.resolving.live and not kit.m.dependents


def test_dependents_that_came_after_the_end_are_not_told_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.dependencies.INLINE", 1)
    kit = make()
    (a,) = kit.put("a")
    old = kit.put(after(a), after(a), after(a))
    kit.nack(*kit.lease(), dead_letter=True)
    kit(c.Redrive("q", ids=(a,)))
    (new,) = kit.put(after(a))
    kit.pass_ms(0)
    assert [kit.state(n) for n in old] == ["dead"] * 3 and kit.state(new) == "blocked"
    kit.ack(*kit.lease())
    assert kit.state(new) == "ready"


def test_a_purged_blocked_message_is_not_told() -> None:
    kit = make()
    kit.queue("r")
    (a,) = kit.put("a", queue="r")
    (b,) = kit.put(after(a))
    kit(c.PurgeQueue("q"))
    kit.ack(*kit.lease(queue="r"))
    assert kit.state(b) is None
    kit.pass_ms(0)
    assert b not in kit.m.messages and not kit.m.dependents


def test_a_redriven_message_waits_again_for_what_is_unfinished() -> None:
    kit = make()
    a, b = kit.put("a", "b")
    (d,) = kit.put(after(a, b))
    kit(c.Cancel(a))
    assert kit.state(d) == "dead"
    kit(c.Redrive("q"))
    assert kit.state(d) == "blocked"
    kit.ack(*kit.lease())
    assert kit.state(d) == "ready"


def test_r24_a_message_with_dependents_is_kept() -> None:
    kit = make(result_retention_ms=500)
    a, b = kit.put("a", "b")
    kit.put(after(a))
    kit.ack(*kit.lease(2))
    assert kit.state(a) == "done" and kit.state(b) is None


# --- ack with enqueue (R15) ---------------------------------------------------------------------------


def test_r15_ack_with_enqueue_is_one() -> None:
    kit = make()
    kit.put("a")
    (grant,) = kit.lease()
    reply = kit(c.Ack((AckItem(token(grant)),), (EnqueueTo("q", Draft()), EnqueueTo("new", Draft()))))
    assert [r.status for r in reply.results] == ["acked"] and len(reply.messages) == 2
    assert kit.counts() == {"ready": 1} and kit.counts("new") == {"ready": 1}


def test_r15_one_token_not_live_refuses_the_whole_and_leases_stay() -> None:
    kit = make()
    kit.put("a", "b")
    one, two = kit.lease(2)
    kit.ack(two)
    refused = kit(c.Ack((AckItem(token(one)), AckItem(token(two))), (EnqueueTo("q", Draft()),)))
    assert (refused.code, refused.field) == ("stale_lease", "/acks/1/lease_token")
    assert kit.counts() == {"leased": 1}
    assert code(kit(c.Ack((), (EnqueueTo("q", Draft()),)))) == "invalid_argument"


def test_r15_one_refused_message_refuses_the_whole() -> None:
    kit = make()
    kit.queue("r", max_messages=0)
    kit.put("a")
    (grant,) = kit.lease()
    for to, expected in (
        ((EnqueueTo("q", Draft()), EnqueueTo("r", Draft())), "queue_full"),
        ((EnqueueTo("q", after(99)),), "message_not_found"),
    ):
        assert code(kit(c.Ack((AckItem(token(grant)),), to))) == expected
    refused = kit(c.Ack((AckItem(token(grant)),), (EnqueueTo("no", Draft()),), auto_create=False))
    assert (refused.code, refused.field) == ("queue_not_found", "/enqueue/0/queue")
    assert kit.counts() == {"leased": 1}


def test_r15_the_acked_ones_make_room_and_satisfy_dependencies() -> None:
    kit = make(max_messages=1, max_bytes=1)
    (a,) = kit.put(Draft(b"1"))
    (grant,) = kit.lease()
    draft = Draft(b"1", extras=Extras(depends_on=(a,)))
    reply = kit(c.Ack((AckItem(token(grant)), AckItem(token(grant))), (EnqueueTo("q", draft),)))
    assert [r.repeated for r in reply.results] == [False, True]
    assert reply.messages[0].state == "ready"


def test_a_dependency_that_was_displaced_to_make_room_has_failed() -> None:
    kit = make(max_messages=1, on_full="dead_letter_oldest", max_dead=0)
    (a,) = kit.put("a")
    assert kit(c.Enqueue("q", (after(a),))).messages[0].state == "dead"


def test_r15_an_effect_that_is_refused_refuses_the_whole() -> None:
    kit = make()
    kit.put("a")
    (grant,) = kit.lease()
    kit(c.EffectBegin("e", "other"))
    item = AckItem(token(grant), effects=(c.EffectDone("e"),))
    refused = kit(c.Ack((item,), (EnqueueTo("q", Draft()),)))
    assert (refused.code, refused.field) == ("effect_held", "/acks/0/effects")
    assert kit(c.Ack((item,))).results[0].status == "effect_held"
    assert kit.counts() == {"leased": 1}


def test_r27_effects_commit_with_the_ack() -> None:
    kit = make()
    kit.put("a")
    (grant,) = kit.lease()
    begun = kit(c.EffectBegin("e", "w", token(grant), True))
    assert begun.state == "granted"
    kit.ack(grant, effects=(c.EffectDone("e", b"1"), c.EffectDone("f")))
    assert kit.m.effects_by_id["e"].result == b"1" and kit.m.effects_by_id["f"].state == "done"


def test_r27_a_grant_that_its_ack_leaves_out_ends_uncertain() -> None:
    kit = make()
    kit.put("a")
    (grant,) = kit.lease()
    kit(c.EffectBegin("e", "w", token(grant), True))
    kit.ack(grant)
    assert kit.m.effects_by_id["e"].uncertain and not kit.m.lease_effects


def test_r12_a_repeated_begin_repeats_a_live_grant_only() -> None:
    kit = make()
    begin = c.EffectBegin("e", "w", ttl_ms=100)
    first = kit.ask(begin, "r1")
    assert kit.ask(begin, "r1").reply == first.reply
    kit.pass_ms(100)
    again = kit.ask(begin, "r1")
    assert not again.repeated and again.reply != first.reply
    assert kit.ask(begin, "r1").reply == again.reply


# --- retention (R24) ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draft", "result", "kept"),
    [
        (Draft(), None, False),
        (Draft(), b"1", True),
        (Draft(extras=Extras(run_id="r")), None, True),
        (Draft(key="k"), None, True),
        (Draft(key="k", key_window_ms=0), None, False),
        (Draft(extras=Extras(retention_ms=700)), None, True),
    ],
)
def test_r24_what_is_kept_after_its_end(draft: Draft, result: bytes | None, kept: bool) -> None:
    kit = make(result_retention_ms=500)
    (number,) = kit.put(draft)
    kit.ack(*kit.lease(), result=result)
    assert (kit.state(number) == "done") == kept and list(kit.hints.finished) == [number]
    if kept:
        assert kit.m.messages[number].history[-1].outcome == "acked"
        kit.pass_ms(499)
        assert kit.state(number) == "done"
        kit.pass_ms(700)
        assert kit.state(number) is None and kit.m.retained_bytes == 0


def test_r24_over_the_limit_the_oldest_leave_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.expiry.RETAINED_BYTES_MAX", 1100)
    kit = make(retention_ms=HOUR)
    a, b, d = kit.put(Draft(b"1"), Draft(b"2"), Draft(b"3"))
    kit.ack(*kit.lease(3))
    assert kit.m.next_deadline_ms() == START_MS
    kit.pass_ms(0)
    assert [kit.state(n) for n in (a, b, d)] == [None, "done", "done"] and kit.m.retained_forgotten == 1


def test_new_keys_in_a_queue_without_limits_and_room_in_one_with() -> None:
    kit = make(max_messages=5, max_bytes=100)
    assert len(kit.put(key("a"), key("b"))) == 2
    kit.queue("r")
    assert len(kit.put(key("a"), queue="r")) == 1
