"""Message keys and request ids: R12, R16."""

from __future__ import annotations

import pytest

from tests.unit.machine.kit import Kit, code
from trivet.limits import REQUEST_WINDOW_MS
from trivet.machine import bulk
from trivet.machine import commands as c
from trivet.machine.commands import Draft
from trivet.machine.replies import Enqueued, EnqueuedOne, Refusal


def make(**config: object) -> Kit:
    kit = Kit()
    kit.queue(**{"result_retention_ms": 0, "backoff": c.Backoff("list"), **config})
    return kit


def key(name: str, body: bytes = b"1", **more: object) -> Draft:
    return Draft(body, key=name, **more)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("left_ms", [1, 0])
@pytest.mark.parametrize("fewest", [1, 1 << 30], ids=["bulk", "general"])
def test_r24_a_message_stays_readable_while_its_key_is_live(
    left_ms: int, fewest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "FEWEST", fewest)
    kit = make(idempotency_window_ms=1000, result_retention_ms=5000)
    (number,) = kit.put(key("k"))
    grants = kit.lease()
    kit.now += 1000 - left_ms
    kit.ack(*grants)
    assert (kit.m.find(number) is not None) == bool(left_ms) == bool(kit.m.queues["q"].keys)


def test_r16_the_cap_of_keys_refuses_and_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.intake.KEYS_PER_QUEUE_MAX", 2)
    monkeypatch.setattr("trivet.machine.keys.KEYS_PER_QUEUE_MAX", 2)
    monkeypatch.setattr("trivet.machine.bulk.KEYS_PER_QUEUE_MAX", 2)
    kit = make()
    refused = kit(c.Enqueue("q", (key("a"), key("b"), key("c"))))
    assert (refused.code, refused.limit, refused.field) == ("queue_full", 2, "/messages/2/idempotency_key")
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


def test_r16_the_key_of_a_purged_dead_message_says_dead_before_and_after_the_sweep() -> None:
    """Simulator 1795357461990: until a sweep came by it said "cancelled"."""
    kit = make()
    (number,) = kit.put(key("k", ttl_ms=5))
    kit.now += 5
    kit(c.Expire(10))
    kit(c.PurgeDead("q"))
    again = c.Enqueue("q", (key("k", ttl_ms=5),))
    assert kit(again) == Enqueued((EnqueuedOne(number, "dead", True),))
    kit.pass_ms(0)
    assert number not in kit.m.messages
    assert kit(again) == Enqueued((EnqueuedOne(number, "dead", True),))


def test_r16_an_enqueue_that_displaces_the_message_of_a_key_it_found_says_dead() -> None:
    """Simulator 1795370170338: it said "cancelled"; the key's window was over, so the key went with its message."""
    kit = make(max_messages=2, on_full="dead_letter_oldest", max_dead=0, idempotency_window_ms=10)
    (number,) = kit.put(key("k"))
    kit.now += 10
    reply = kit(c.Enqueue("q", (c.Draft(), c.Draft(), key("k"))))
    assert isinstance(reply, Enqueued)
    assert reply.messages[2] == EnqueuedOne(number, "dead", True)
    assert number not in kit.m.messages and not kit.m.queues["q"].keys


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
