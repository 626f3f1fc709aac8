"""Runs (R29): the audit of every transition, appended events, limits, replay, and how long they are remembered."""

from __future__ import annotations

import pytest

from tests.unit.machine.kit import START_MS, Kit, code, derived, dump, rebuild
from tests.unit.machine.runkit import HOUR, make
from trivet import limits
from trivet.machine import commands as c
from trivet.machine import invariants, runs
from trivet.machine.commands import Draft, Extras
from trivet.machine.ids import message_id
from trivet.machine.run_commands import (
    AppendRunEvents,
    NewRunEvent,
)

# --- the audit ----------------------------------------------------------------------------------------


def test_every_transition_is_an_event_with_what_applies() -> None:
    kit = make(lease_ms=500)
    number = kit.put_step("s")
    about = {"message_id": message_id(number), "step_id": "s", "queue": "q"}
    (grant,) = kit.lease()
    kit.nack(grant, error="boom")
    kit.pass_ms(100)
    (grant,) = kit.lease()
    kit.release(grant)
    kit.lease()
    kit.pass_ms(500)
    (grant,) = kit.lease()
    kit.ack(grant, result=b"7")
    first = {"attempt": 1, "consumer": "w"}
    assert kit.told() == [
        ("ready", about),
        ("leased", {**about, **first}),
        ("delayed", {**about, "deliver_at_ms": START_MS + 100, **first, "error": "boom", "reason": "nacked"}),
        ("ready", about),
        ("leased", {**about, "attempt": 2, "consumer": "w"}),
        ("ready", {**about, "attempt": 2, "consumer": "w", "reason": "released"}),
        ("leased", {**about, "attempt": 2, "consumer": "w"}),
        ("ready", {**about, "attempt": 2, "consumer": "w", "reason": "expired"}),
        ("leased", {**about, "attempt": 3, "consumer": "w"}),
        ("done", {**about, "attempt": 3, "consumer": "w"}),
    ]
    assert [event.id for event in kit.run().events] == list(range(1, 11))
    assert list(kit.hints.runs) == ["r"]


def test_a_message_that_is_not_kept_is_told_of_all_the_same() -> None:
    kit = make(result_retention_ms=0)
    kit.put_step()
    kit.ack(*kit.lease())
    assert kit.types() == ["ready", "leased", "done"]
    assert kit.told()[-1][1]["consumer"] == "w"
    assert kit.run().left == (1, 0, 0) and kit.run().messages.live == 0


def test_deaths_and_cancellations_say_why() -> None:
    kit = make(max_attempts=1, lease_ms=500)
    kit.put_step("a")
    kit.nack(*kit.lease(), error="no")
    kit.put_step("b", ttl_ms=50)
    kit.pass_ms(50)
    kit.put_step("c")
    kit.nack(*kit.lease(), dead_letter=True)
    kit(c.Cancel(kit.put_step("d")))
    ends = [
        (type, told.get("reason"), told.get("error"))
        for type, told in kit.told()
        if type in ("dead", "cancelled")
    ]
    assert ends == [
        ("dead", "max_attempts", "no"),
        ("dead", "expired", None),
        ("dead", "rejected", None),
        ("cancelled", None, None),
    ]


def test_blocked_messages_and_failed_dependencies() -> None:
    kit = make()
    first = kit.put_step("a")
    kit.put_step("b", depends_on=(first,))
    kit.put_step("c", run="other", depends_on=(first,), delay_ms=1000)
    assert kit.types() == ["ready", "blocked"]
    kit.nack(*kit.lease(), dead_letter=True)
    assert kit.types() == ["ready", "blocked", "leased", "dead", "dead"]
    assert kit.told()[-1][1]["reason"] == "dependency_failed"
    assert kit.types("other") == ["blocked", "dead"]
    late = kit.put_step("d", depends_on=(first,))
    assert kit.types()[-2:] == ["blocked", "dead"] and kit.state(late) == "dead"


def test_a_purge_and_a_deleted_queue_are_told_when_their_sweep_comes_by() -> None:
    kit = make()
    kit.put_step("a")
    kit(c.PurgeQueue("q"))
    assert kit.types() == ["ready"]
    kit.pass_ms(0)
    kit.put_step("b")
    kit.lease()
    kit.put_step("c")
    kit(c.DeleteQueue("q"))
    kit.pass_ms(0)
    told = [(told["step_id"], told["reason"]) for type, told in kit.told() if type == "cancelled"]
    assert told == [("a", "purged"), ("b", "queue_deleted"), ("c", "queue_deleted")]
    assert kit.run().left == (0, 0, 3)
    assert kit.run().finished_at_ms == kit.now


def test_a_redriven_message_is_told_of_and_the_run_goes_on() -> None:
    kit = make()
    kit.put_step()
    kit.nack(*kit.lease(), dead_letter=True)
    assert kit.run().finished_at_ms == kit.now
    kit.queue("other")
    kit(c.Redrive("q", to="other"))
    type, told = kit.told()[-1]
    assert (type, told["queue"], told["reason"]) == ("ready", "other", "redriven")
    assert kit.run().finished_at_ms == 0


def test_messages_without_a_run_leave_no_trace() -> None:
    kit = make()
    kit.put(Draft(extras=Extras(tenant_id="t")))
    kit.ack(*kit.lease())
    assert not kit.m.runs and not kit.hints.runs


def test_loading_a_snapshot_appends_nothing() -> None:
    kit = make()
    kit.put_step("a")
    kit.put_step("b", run="s")
    kit.append("token", NewRunEvent("x", b"{}", "id"))
    kit.ack(*kit.lease(2))
    again = rebuild(dump(kit.m))
    assert dump(again) == dump(kit.m) and derived(again) == derived(kit.m)
    assert invariants.check(again) == []


# --- appending ----------------------------------------------------------------------------------------


def test_events_get_dense_ids_among_the_transitions() -> None:
    kit = make()
    kit.put_step()
    assert kit.append("token", "token") == [(2, False), (3, False)]
    kit.lease()
    assert kit.append("progress") == [(5, False)]
    assert kit.run().changed_at_ms == kit.now


def test_a_run_nobody_knows_takes_no_events() -> None:
    assert code(make()(AppendRunEvents("r", (NewRunEvent("t"),)))) == "run_not_found"


def test_r29_a_repeated_event_id_is_dropped_and_answers_the_first() -> None:
    kit = make()
    kit.put_step()
    one = NewRunEvent("t", b"1", "e1")
    assert kit.append(one, one, NewRunEvent("t", b"2", "e2")) == [(2, False), (2, True), (3, False)]
    kit.now += 10
    assert kit.append(NewRunEvent("other", b"9", "e1")) == [(2, True)]
    assert kit.run().next_id == 4 and kit.run().changed_at_ms == START_MS


def test_r29_at_most_20_000_events_the_oldest_go() -> None:
    kit = make()
    kit.put_step()
    batch = tuple(NewRunEvent("t", b"1", f"e{n}") for n in range(1000))
    run = kit.run()
    for part in range(20):
        events = tuple(NewRunEvent("t", b"1", f"{part}-{n}") for n in range(1000))
        Kit.answers(kit, c.Request(AppendRunEvents("r", events[: 999 if part == 19 else 1000])))
    assert (len(run.events), run.first_id) == (limits.RUN_EVENTS_MAX, 1)
    kit.append("one more")
    assert (len(run.events), run.first_id) == (limits.RUN_EVENTS_MAX, 2)
    kit.append(*batch)
    assert (len(run.events), run.first_id) == (limits.RUN_EVENTS_MAX, 1002)
    # An id counts as known for as long as its event is kept.
    assert kit.append(NewRunEvent("t", b"1", "0-0")) == [(21_002, False)]
    assert kit.append(NewRunEvent("t", b"1", "1-5")) == [(1007, True)]


def test_r29_at_most_8_mib_of_events_the_oldest_go() -> None:
    kit = make()
    kit.put_step()
    run = kit.run()
    piece = 256 * 1024 - 1
    while run.bytes + piece + 1 <= limits.RUN_EVENT_BYTES_MAX:
        kit.append(NewRunEvent("t", b"1" * piece))
    room = limits.RUN_EVENT_BYTES_MAX - run.bytes
    kit.append(NewRunEvent("t", b"1" * (room - 1)))
    assert (run.bytes, run.first_id) == (limits.RUN_EVENT_BYTES_MAX, 1)
    kit.append("t")
    assert run.first_id == 2


def test_over_the_bytes_of_all_runs_idle_ones_go_and_appends_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "RUNS_BYTES_MAX", 2000)
    kit = make(result_retention_ms=0)
    for run in ("idle", "idle2", "busy"):
        kit.put_step(run=run)
        kit.append(NewRunEvent("t", b"1" * 500, "known"), run=run)
    kit.ack(*kit.lease(2))
    assert kit.m.run_bytes > 2000
    reply = kit(AppendRunEvents("busy", (NewRunEvent("t"),)))
    assert (code(reply), reply.limit, reply.retry_after_ms) == ("overloaded", 2000, 1000)
    assert kit.append(NewRunEvent("t", b"1", "known"), run="busy") == [(2, True)]  # R12: first the look-up
    assert kit.m.next_deadline_ms() == kit.now
    kit.pass_ms(0)
    assert list(kit.m.runs) == ["idle2", "busy"] and kit.m.runs_forgotten == 1
    kit.append(NewRunEvent("t", b"1" * 900), run="busy")
    kit.pass_ms(0)
    assert list(kit.m.runs) == ["busy"]
    kit.append(NewRunEvent("t", b"1" * 900), run="busy")
    assert code(kit(AppendRunEvents("busy", (NewRunEvent("t"),)))) == "overloaded"
    kit.lease()
    assert kit.types("busy")[-1] == "leased"  # what happens to messages is always written down


def test_too_many_idle_runs_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "RUNS_IDLE_MAX", 2)
    kit = make(result_retention_ms=0)
    for n in range(3):
        kit.put_step(run=f"r{n}")
        kit.now += 1
    kit.ack(*kit.lease(2))
    kit.pass_ms(1)
    assert len(kit.m.runs) == 3
    kit.ack(*kit.lease(1))
    kit.pass_ms(0)
    assert list(kit.m.runs) == ["r1", "r2"] and kit.m.runs_forgotten == 1


# --- forgetting ---------------------------------------------------------------------------------------


def test_a_run_is_forgotten_an_hour_after_its_last_change() -> None:
    kit = make(result_retention_ms=0)
    kit.put_step()
    kit.pass_ms(5 * HOUR)
    assert "r" in kit.m.runs  # it has a message
    kit.ack(*kit.lease())
    assert kit.m.next_deadline_ms() is not None
    kit.pass_ms(HOUR - 1)
    kit.append("late")
    kit.pass_ms(HOUR - 1)
    assert kit.types()[-1] == "late"
    kit.pass_ms(1)
    assert not kit.m.runs and list(kit.hints.runs) == ["r"]
    assert code(kit(AppendRunEvents("r", (NewRunEvent("t"),)))) == "run_not_found"
    kit.put_step()
    assert kit.run().next_id == 2  # the same name, a new run


def test_a_new_message_keeps_an_idle_run() -> None:
    kit = make(result_retention_ms=0)
    kit.put_step()
    kit.ack(*kit.lease())
    kit.pass_ms(HOUR - 1)
    kit.put_step()
    kit.pass_ms(HOUR)
    assert kit.types() == ["ready", "leased", "done", "ready"]


def test_r25_a_long_run_is_forgotten_in_pieces_and_may_live_on() -> None:
    kit = make(result_retention_ms=0)
    kit.put_step()
    kit.ack(*kit.lease())
    kit.append(*["t"] * 997)
    kit.now += HOUR
    reply = kit(c.Expire(100))
    assert reply.more
    assert 0 < len(kit.run().events) < 700
    first = kit.run().first_id
    kit.append("still here")
    kit.pass_ms(HOUR - 1)
    assert kit.run().first_id == first
    kit.pass_ms(1)
    assert not kit.m.runs and kit.m.run_bytes == 0
