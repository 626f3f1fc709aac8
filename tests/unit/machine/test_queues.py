"""Queues and dead letters: configuration, pause, purge, delete, redrive (R22, R23, R25)."""

from __future__ import annotations

import pytest

from tests.unit.machine.kit import START_MS, Kit, code, token
from trivet.machine import commands as c
from trivet.machine.commands import Draft, Extras, Genesis, Request
from trivet.machine.core import HANDLERS, Machine
from trivet.machine.state import STATE_NAMES
from trivet.machine.transitions import LIFE_CYCLE, BrokenInvariant, check_move


def make(**config: object) -> Kit:
    kit = Kit()
    kit.queue(**{"backoff": c.Backoff("list"), "max_attempts": 0, "result_retention_ms": 0, **config})
    return kit


def kill(kit: Kit, *drafts: Draft | str, queue: str = "q") -> list[int]:
    numbers = kit.put(*drafts, queue=queue)
    kit.nack(*kit.lease(len(numbers), queue), dead_letter=True)
    return numbers


def test_r13_genesis_counts_once() -> None:
    kit = Kit()
    assert kit(Genesis("c2", b"other", ())).count == 0
    assert kit.m.cluster_id == "c1"


def test_put_creates_then_replaces_and_an_equal_one_keeps_the_revision() -> None:
    kit = Kit()
    made = kit(c.PutQueue("q", c.QueueConfig()))
    assert made.created
    same = kit(c.PutQueue("q", c.QueueConfig()))
    assert not same.created and same.revision == made.revision
    other = kit(c.PutQueue("q", c.QueueConfig(lease_ms=5)))
    assert other.revision > made.revision


def test_if_revision() -> None:
    kit = Kit()
    assert code(kit(c.PutQueue("q", c.QueueConfig(), if_revision=1))) == "revision_changed"
    revision = kit(c.PutQueue("q", c.QueueConfig())).revision
    for command in (
        c.PutQueue("q", c.QueueConfig(), revision + 1),
        c.PatchQueue("q", {}, revision + 1),
        c.DeleteQueue("q", revision + 1),
    ):
        assert code(kit(command)) == "revision_changed"
    assert kit(c.PatchQueue("q", {"lease_ms": 9}, revision)).revision > revision


def test_patch_changes_only_what_is_given() -> None:
    kit = make(max_leased=4)
    kit(c.PatchQueue("q", {"lease_ms": 9, "backoff": {"base_ms": 7}, "max_leased": None}))
    config = kit.m.queues["q"].config
    assert (config.lease_ms, config.max_leased, config.max_attempts) == (9, None, 0)
    assert config.backoff == c.Backoff("list", 7)
    kit(c.PatchQueue("q", {"backoff": {"delays_ms": [1, 2]}}))
    assert kit.m.queues["q"].config.backoff == c.Backoff("list", 7, delays_ms=(1, 2))


@pytest.mark.parametrize(
    "changes",
    [{"nope": 1}, {"lease_ms": "x"}, {"backoff": 3}, {"backoff": {"nope": 1}}, {"backoff": {"base_ms": "x"}}],
)
def test_a_patch_that_does_not_fit_is_refused(changes: dict[str, object]) -> None:
    kit = make()
    assert code(kit(c.PatchQueue("q", changes))) == "invalid_argument"


def test_unknown_queues_are_404() -> None:
    kit = Kit()
    for command in (
        c.PatchQueue("x", {}),
        c.DeleteQueue("x"),
        c.PauseQueue("x"),
        c.PurgeQueue("x"),
        c.Redrive("x"),
        c.PurgeDead("x"),
    ):
        assert code(kit(command)) == "queue_not_found"


def test_pausing_leases_and_resuming_wakes() -> None:
    kit = make()
    (a,) = kit.put("a")
    kit(c.PauseQueue("q", lease=True))
    assert kit.take() == [] and kit.m.queues["q"].leasable == 0
    kit(c.PauseQueue("q", lease=False))
    assert list(kit.hints.ready) == ["q"] and kit.take() == [a]


def test_r22_purge_leaves_leased_and_dead_ones() -> None:
    kit = make()
    (dead,) = kill(kit, "x")
    kit.put("a")
    (grant,) = kit.lease()
    waiting = kit.put("b", Draft(delay_ms=50), Draft(extras=Extras(depends_on=(grant.message,))))
    assert kit(c.PurgeQueue("q")).count == 3
    assert kit.counts() == {"leased": 1, "dead": 1}
    assert [kit.state(n) for n in waiting] == [None] * 3
    assert kit(c.PurgeQueue("q")).count == 0
    kit.nack(grant)
    (new,) = kit.put("c")
    kit.pass_ms(100)
    assert kit.take() == [grant.message, new] and kit.state(dead) == "dead"
    assert all(n not in kit.m.messages for n in waiting)
    assert kit.m.queues["q"].totals.purged == 3


def test_r25_a_purge_counts_at_once_and_is_swept_in_pieces() -> None:
    kit = make()
    kit.put(*[Draft() for _ in range(50)])
    kit(c.PurgeQueue("q"))
    assert kit.counts() == {} and kit.m.queues["q"].bytes == 0 and len(kit.m.messages) == 50
    reply = kit(c.Expire(10))
    assert reply.more and reply.count <= 10 and len(kit.m.messages) >= 40
    kit.pass_ms(0)
    assert not kit.m.messages and kit.m.next_deadline_ms() is None


def test_r25_a_deadline_that_comes_before_the_sweep_removes_too() -> None:
    kit = make(lease_ms=5)
    kit.put(*[Draft(delay_ms=5, ttl_ms=9) for _ in range(20)])
    kill(kit, "x")
    kit(c.PurgeQueue("q"))
    kit(c.PurgeDead("q"))
    kit.queue("r", lease_ms=5)
    kit.put("y", queue="r")
    kit.lease(queue="r")
    kit(c.DeleteQueue("r"))
    kit.now += 10
    kit(c.Expire(60))
    kit.pass_ms(0)
    assert not kit.m.messages and not kit.m.leases and kit.m.next_deadline_ms() is not None


def test_r22_deleting_a_queue_ends_its_leases_and_drops_its_keys() -> None:
    kit = make(retention_ms=10_000)
    (number,) = kit.put(Draft(key="k"))
    kit.put("done", "dead", "leased")
    held, done, dead, leased = kit.lease(4)
    kit.ack(done)
    kit.nack(dead, dead_letter=True)
    kit.put(Draft(key="j"), Draft(group="g"))
    begun = kit(c.EffectBegin("e", "w", token(leased), True))
    assert kit(c.DeleteQueue("q")).count == 5
    assert kit.hints.deleted == ["q"]
    assert kit.ack(held)[0].status == "not_found"
    assert kit(c.Extend((c.ExtendItem(token(leased)),))).results[0].status == "not_found"
    assert code(kit(c.EffectCommit(c.Token(begun.fence, begun.mac)))) == "stale_effect"
    assert kit.state(number) is None
    (new,) = kit.put(Draft(key="k"))
    assert new != number
    kit.pass_ms(0)
    assert (
        list(kit.m.messages) == [new]
        and not kit.m.dying
        and list(kit.m.by_uid.values()) == [kit.m.queues["q"]]
    )
    assert kit.m.effects_by_id["e"].uncertain


def test_r25_a_sweep_of_a_queue_that_was_deleted_meanwhile_ends() -> None:
    kit = make()
    kit.put(*[Draft(key=str(n)) for n in range(9)])
    kit(c.PurgeQueue("q"))
    kit(c.DeleteQueue("q"))
    while kit(c.Expire(2)).more:
        pass
    assert not kit.m.messages and not kit.m.sweeps.live


def test_r22_an_answer_given_before_the_deletion_is_repeated_after_it() -> None:
    kit = make()
    kit.put("a")
    (grant,) = kit.lease()
    kit.ack(grant)
    kit(c.DeleteQueue("q"))
    assert kit.ack(grant)[0].repeated


# --- dead letters -------------------------------------------------------------------------------------


def test_r23_dead_ones_leave_after_their_retention() -> None:
    kit = make(dead_retention_ms=1000)
    (a,) = kill(kit, "a")
    kit.pass_ms(999)
    assert kit.state(a) == "dead"
    kit.pass_ms(1)
    assert kit.state(a) is None and kit.m.queues["q"].totals.dead_dropped == 1


def test_r23_above_max_dead_the_oldest_leave() -> None:
    kit = make(max_dead=2)
    a, b, d = kill(kit, "a", "b", "c")
    assert [kit.state(n) for n in (a, b, d)] == [None, "dead", "dead"] and kit.m.dead_forgotten == 1


def test_r23_a_lowered_max_dead_takes_effect_in_pieces() -> None:
    kit = make()
    numbers = kill(kit, *["x"] * 9)
    kit(c.PatchQueue("q", {"max_dead": 2}))
    kit(c.Expire(4))
    kit.pass_ms(0)
    assert [n for n in numbers if kit.state(n)] == numbers[7:]


def test_r23_redrive_keeps_id_and_history_and_restarts_attempts_and_ttl() -> None:
    kit = make(ttl_ms=1000)
    (a,) = kill(kit, "a")
    kit.now += 900
    reply = kit(c.Redrive("q"))
    assert (reply.ids, reply.next) == ((a,), None) and list(kit.hints.ready) == ["q"]
    message = kit.m.messages[a]
    assert (message.attempt, message.dead_reason, len(message.history)) == (0, None, 1)
    assert message.expires_at_ms == kit.now + 1000 and message.origin == ("redrive", "q")
    assert kit.lease()[0].attempt == 1


def test_r23_redrive_by_ids_and_reason() -> None:
    kit = make()
    a, b, d = kill(kit, "a", "b", "c")
    (e,) = kit.put(Draft(ttl_ms=5))
    kit.pass_ms(5)
    assert kit(c.Redrive("q", ids=(d, 999, a, a))).ids == (a, d)
    assert kit(c.Redrive("q", reason="expired")).ids == (e,)
    assert kit(c.Redrive("q", ids=(a, b), reason="expired")).ids == ()


def test_r23_redrive_to_another_queue() -> None:
    kit = make()
    kit.queue("r")
    numbers = kill(kit, "a", "b")
    (newer,) = kit.put("n", queue="r")
    assert code(kit(c.Redrive("q", to="nope"))) == "queue_not_found"
    assert kit(c.Redrive("q", to="r")).ids == tuple(numbers)
    assert kit.take(queue="r") == [newer, *numbers] and kit.counts() == {}
    assert [m.number for m in kit.m.queues["r"].index.after(0)] == [*numbers, newer]


def test_r25_redrive_goes_by_cursor_and_leaves_later_deaths_alone() -> None:
    kit = make()
    numbers = kill(kit, *["x"] * 5)
    first = kit(c.Redrive("q", limit=2))
    assert (first.ids, first.next) == (tuple(numbers[:2]), numbers[1])
    again = kit.lease(1)[0]
    kit.nack(again, dead_letter=True)
    (late,) = kill(kit, Draft(priority=5))
    second = kit(c.Redrive("q", limit=10, after=first.next, upto=first.upto))
    assert (second.ids, second.next) == (tuple(numbers[2:]), None)
    assert kit.state(late) == "dead" and kit.state(again.message) == "dead"


def test_r25_redrive_looks_at_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.deadletter.SCAN_MAX", 3)
    kit = make()
    kill(kit, *["x"] * 7)
    cursor, upto, rounds = 0, None, 0
    while cursor is not None:
        reply = kit(c.Redrive("q", reason="expired", after=cursor, upto=upto))
        assert reply.ids == ()
        cursor, upto, rounds = reply.next, reply.upto, rounds + 1
    assert rounds == 2


def test_redrive_into_a_full_queue() -> None:
    kit = make()
    kit.queue("r", max_messages=1)
    kit.queue("s", max_bytes=4)
    numbers = kill(kit, "a", "b", "c")
    reply = kit(c.Redrive("q", to="r"))
    assert (reply.ids, reply.next) == ((numbers[0],), numbers[0])
    assert code(kit(c.Redrive("q", to="r"))) == "queue_full"
    assert kit(c.Redrive("q", to="s")).ids == (numbers[1],)
    assert code(kit(c.Redrive("q", to="s"))) == "queue_full"


def test_r25_purging_the_dead() -> None:
    kit = make()
    numbers = kill(kit, *["x"] * 5)
    kit.put("alive")
    assert kit(c.PurgeDead("q")).count == 5
    assert kit.counts() == {"ready": 1} and kit.state(numbers[0]) is None
    assert kit(c.Redrive("q")).ids == () and kit(c.PurgeDead("q")).count == 0
    (newer,) = kill(kit, Draft(priority=9))
    kit.pass_ms(0)
    assert sorted(kit.m.messages)[-1] == newer and len(kit.m.messages) == 2
    assert kit.m.queues["q"].totals.dead_dropped == 5


# --- the table and the frame --------------------------------------------------------------------------


def test_the_life_cycle_is_one_table_and_leads_nowhere_else() -> None:
    kit = make(retention_ms=1000)
    (number,) = kit.put("a")
    message = kit.m.messages[number]
    for origin, targets in LIFE_CYCLE.items():
        message.state = origin
        for to in range(len(STATE_NAMES)):
            if to in targets:
                check_move(message, to)
            else:
                with pytest.raises(BrokenInvariant, match=STATE_NAMES[to]):
                    check_move(message, to)


def test_done_never_comes_back() -> None:
    from trivet.machine.transitions import make_ready

    kit = make(retention_ms=1000)
    kit.put("a")
    (grant,) = kit.lease()
    kit.ack(grant)
    with pytest.raises(BrokenInvariant, match="done → ready"):
        make_ready(kit.m, kit.m.messages[grant.message])


def test_law3_the_clock_never_goes_back() -> None:
    kit = make()
    kit.now -= 10_000
    kit.put("a")
    assert kit.m.clock_ms == START_MS


def test_an_entry_out_of_turn_or_of_an_unknown_version_is_a_broken_invariant() -> None:
    m = Machine()
    with pytest.raises(BrokenInvariant):
        m.begin_entry(2, 0, 1)
    with pytest.raises(BrokenInvariant):
        m.begin_entry(1, 0, 99)


def test_r30_answers_carry_index_and_seq() -> None:
    kit = make()
    answers = kit.answers(Request(c.PurgeQueue("q")), Request(c.PurgeQueue("q")))
    assert [(a.index, a.seq) for a in answers] == [(kit.m.applied_index, 0), (kit.m.applied_index, 1)]


def test_r11_the_digest_follows_entries_and_replies() -> None:
    one, two = Kit(), Kit()
    assert one.m.digest() == two.m.digest() != bytes(16)
    one.put("a")
    two.put("a")
    assert one.m.digest() == two.m.digest()
    two.now += 1
    one.lease()
    two.lease()
    assert one.m.digest() != two.m.digest()


def test_the_machine_handles_every_command() -> None:
    assert set(HANDLERS) == set(c.Command.__args__)


def test_trash_is_emptied_a_little_each_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trivet.machine.core.TRASH_PER_ENTRY", 7)
    kit = make()
    kit.put(*[Draft() for _ in range(20)])
    kit(c.PurgeQueue("q"))
    before = sum(len(entries) for entries in kit.m.trash)
    kit(c.PauseQueue("q"))
    assert sum(len(entries) for entries in kit.m.trash) == before - 7
    for _ in range(10):
        kit(c.PauseQueue("q"))
    assert kit.m.trash == []


def test_keys_of_one_message_in_two_queues_end_in_a_fixed_order() -> None:
    kit = make(idempotency_window_ms=1000)
    kit.queue("r", idempotency_window_ms=1000, max_attempts=0)
    kill(kit, Draft(key="k"))
    kit(c.Redrive("q", to="r"))
    kit.nack(*kit.lease(queue="r"), dead_letter=True)
    one, two = kit.m.queues["q"].keys["k"], kit.m.queues["r"].keys["k"]
    assert one.wake_key == two.wake_key and one < two and not two < one
    kit.now += 1000
    kit(c.Expire(1))
    assert (len(kit.m.queues["q"].keys), len(kit.m.queues["r"].keys)) == (0, 1)
    kit.pass_ms(0)
    assert not kit.m.queues["r"].keys
