"""Ack with enqueue and effects, retention: R15, R24, R27."""

from __future__ import annotations

import pytest

from tests.unit.machine.kit import START_MS, Kit, code, token
from trivet.machine import commands as c
from trivet.machine.commands import AckItem, Draft, EnqueueTo, Extras

HOUR = 3_600_000


def make(**config: object) -> Kit:
    kit = Kit()
    kit.queue(**{"result_retention_ms": 0, "backoff": c.Backoff("list"), **config})
    return kit


def key(name: str, body: bytes = b"1", **more: object) -> Draft:
    return Draft(body, key=name, **more)  # type: ignore[arg-type]


def after(*numbers: int, **more: object) -> Draft:
    return Draft(extras=Extras(depends_on=numbers, **more))  # type: ignore[arg-type]


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
