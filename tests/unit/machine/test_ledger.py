"""The effects ledger at its edges (R27). The stories are in tests/machine/scripts/05_effects.txt."""

from __future__ import annotations

from tests.unit.machine.kit import Kit, code, token
from trivet.limits import EFFECT_TOKENS_KEPT, EFFECT_TTL_MS_DEFAULT, LEASE_EFFECTS_MAX
from trivet.machine import invariants, views
from trivet.machine.commands import (
    Ack,
    AckItem,
    DeleteQueue,
    Draft,
    EffectAbort,
    EffectBegin,
    EffectCommit,
    EffectDone,
    EnqueueTo,
    Expire,
    Token,
)
from trivet.machine.replies import EffectState, Refusal, SettledAll


def held_by(reply: EffectState) -> Token:
    assert reply.fence is not None and reply.mac is not None, reply
    return Token(reply.fence, reply.mac)


def test_without_a_length_a_grant_has_the_default() -> None:
    kit = Kit()
    assert kit(EffectBegin("e", "o")).expires_at_ms == kit.now + EFFECT_TTL_MS_DEFAULT


def test_held_says_how_long_to_wait_and_never_zero() -> None:
    kit = Kit()
    kit(EffectBegin("e", "o", ttl_ms=500))
    kit.now += 200
    assert kit(EffectBegin("e", "p")).retry_after_ms == 300
    kit.now += 900  # over, but nobody has applied the expiry: only that ends a grant
    refusal = kit(EffectBegin("e", "p"))
    assert (code(refusal), refusal.retry_after_ms) == ("effect_held", 1)


def test_a_commit_after_the_ttl_and_before_the_expiry_counts() -> None:
    kit = Kit()
    grant = held_by(kit(EffectBegin("e", "o", ttl_ms=1)))
    kit.now += 1000
    kit(Expire(leases=False))  # R1: nothing is expired in the grace of a new leader
    assert kit(EffectCommit(grant, b"1")).state == "done"


def test_a_lease_holds_so_many_effects_and_no_more() -> None:
    kit = Kit()
    kit.put("a", "b")
    first, second = kit.lease(2)
    for number in range(LEASE_EFFECTS_MAX):
        assert kit(EffectBegin(f"e{number}", "o", token(first), True)).state == "granted"
    refusal = kit(EffectBegin("one more", "o", token(first), True))
    assert (code(refusal), refusal.limit) == ("invalid_argument", LEASE_EFFECTS_MAX)
    assert views.effect(kit.m, "one more") is None
    assert kit(EffectBegin("one more", "o", token(second), True)).state == "granted"
    kit.ack(first)
    assert not invariants.check(kit.m)
    assert all(record.uncertain for record in kit.m.effects_by_id.values() if record.effect_id != "one more")


def test_superseded_tokens_are_told_from_unknown_ones_up_to_a_limit() -> None:
    kit = Kit()
    grants = []
    for _ in range(EFFECT_TOKENS_KEPT + 2):
        grants.append(held_by(kit(EffectBegin("e", "o"))))
        kit(EffectAbort(grants[-1]))
    assert code(kit(EffectCommit(grants[0]))) == "effect_not_found"
    assert [code(kit(EffectCommit(grant))) for grant in grants[1:]] == ["stale_effect"] * (
        EFFECT_TOKENS_KEPT + 1
    )
    assert kit(EffectAbort(grants[-1])).repeated
    forged = Token(grants[-1].fence, bytes(16))
    assert code(kit(EffectAbort(forged))) == code(kit(EffectCommit(None))) == "effect_not_found"
    assert not invariants.check(kit.m)


def test_a_deleted_queue_frees_its_effects_before_the_sweep() -> None:
    kit = Kit()
    kit.put("a")
    (grant,) = kit.lease()
    first = held_by(kit(EffectBegin("e", "o", token(grant), True)))
    kit(DeleteQueue("q"))
    shown = views.effect(kit.m, "e")
    assert shown == {"effect_id": "e", "state": "open", "uncertain": True, "owner": "o"}
    again = kit(EffectBegin("e", "p"))
    assert again.state == "granted" and again.uncertain
    assert code(kit(EffectCommit(first))) == "stale_effect"
    kit.pass_ms(0)  # the sweep does not end the new grant
    assert kit(EffectCommit(held_by(again))).state == "done"
    assert not invariants.check(kit.m)


def ack_with(kit: Kit, *items: AckItem) -> SettledAll | Refusal:
    reply = kit(Ack(items, (EnqueueTo("q", Draft()),)))
    assert isinstance(reply, SettledAll | Refusal)
    return reply


def test_two_acks_of_one_request_cannot_commit_the_same_effect() -> None:
    kit = Kit()
    kit.put("a", "b")
    first, second = kit.lease(2)
    done = (EffectDone("e"),)
    assert (
        code(ack_with(kit, AckItem(token(first), None, done), AckItem(token(second), None, done)))
        == "stale_effect"
    )  # type: ignore[arg-type]
    assert kit.counts() == {"leased": 2}
    reply = kit(Ack((AckItem(token(first), None, done), AckItem(token(second), None, done))))
    assert [one.status for one in reply.results] == ["acked", "stale_effect"]


def test_an_ack_may_name_an_effect_that_its_own_token_committed_before() -> None:
    kit = Kit()
    kit.put("a")
    (grant,) = kit.lease()
    effect = held_by(kit(EffectBegin("e", "o", token(grant), True)))
    kit(EffectCommit(effect, b"1"))
    named = (EffectDone("e", b"2", effect), EffectDone("e", b"3"))
    assert [one.status for one in kit.ack(grant, effects=named)] == ["acked"]
    shown = views.effect(kit.m, "e")
    assert shown is not None and shown["result"] == views.Result(b"1")


def test_a_lost_grant_of_an_unswept_queue_is_no_hindrance_for_an_ack_either() -> None:
    kit = Kit()
    kit.put("a")
    (grant,) = kit.lease()
    kit(EffectBegin("e", "o", token(grant), True))
    kit(DeleteQueue("q"))
    kit.put("b")
    (other,) = kit.lease()
    assert [one.status for one in kit.ack(other, effects=(EffectDone("e"),))] == ["stale_effect"]


def test_a_repeated_begin_of_what_is_done_says_so_again() -> None:
    kit = Kit()
    kit(EffectCommit(held_by(kit(EffectBegin("e", "w"))), b"1"))
    first = kit.ask(EffectBegin("e", "w"), "again")
    second = kit.ask(EffectBegin("e", "w"), "again")
    assert (first.reply.state, first.reply.result) == ("done", b"1") and not first.repeated  # type: ignore[union-attr]
    assert second.repeated and second.reply == first.reply
