"""Schedules: one message a slot, whoever says so and how often (R2)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.machine.kit import START_MS, Kit
from trivet.limits import FIRE_BATCH_MAX, SCHEDULE_BYTES_MAX, SCHEDULE_RETRY_MS_MAX, SCHEDULES_MAX
from trivet.machine import commands as c
from trivet.machine import invariants
from trivet.machine.replies import ScheduleRun, ScheduleSaved, SlotEnd
from trivet.machine.schedules import Blocked, Fired, Schedule, Skipped

MINUTE = 60_000
HOUR = 60 * MINUTE


def spec(**told: Any) -> c.ScheduleSpec:
    told.setdefault("draft", c.Draft(b'"x"'))
    if "every_ms" not in told:
        told.setdefault("cron", "* * * * *")
    return c.ScheduleSpec(told.pop("queue", "q"), **told)


def put(kit: Kit, name: str = "s", if_revision: int | None = None, **told: Any) -> Any:
    return kit(c.PutSchedule(name, spec(**told), if_revision))


def of(kit: Kit, name: str = "s") -> Schedule:
    return kit.m.schedules.by_name[name]


def step(kit: Kit, slot: int, **more: Any) -> c.Fire:
    name = more.pop("name", "s")
    more.setdefault("next_slot_ms", slot + MINUTE)
    schedule = of(kit, name)
    more.setdefault("after_ms", schedule.decided_ms)
    return c.Fire(name, more.pop("revision", schedule.revision), slot, **more)


def fire(kit: Kit, slot: int, **more: Any) -> SlotEnd:
    """One step at this instant, or at the slot if that is later."""
    kit.now = max(kit.now, slot)
    (end,) = kit(c.FireSchedules((step(kit, slot, **more),))).results
    assert not invariants.check(kit.m)
    return end


def made() -> Kit:
    kit = Kit()
    put(kit)
    return kit


# --- putting ------------------------------------------------------------------------------------------


def test_a_new_schedule_waits_for_the_leader_to_compute_its_first_slot() -> None:
    kit = Kit()
    saved = put(kit, every_ms=1000)
    assert saved == ScheduleSaved("s", True, of(kit).revision)
    record = of(kit)
    assert record.anchor_ms == record.decided_ms == record.next_slot_ms == START_MS
    assert kit.m.schedules.next_look_ms() == START_MS and kit.m.schedules.look_at(START_MS) == ["s"]
    assert "q" not in kit.m.queues, "the queue comes with the first message"
    end = fire(kit, START_MS, enqueue=False, next_slot_ms=START_MS + 1000)
    assert end == SlotEnd("passed") and record.next_slot_ms == START_MS + 1000
    assert record.skipped == 0 and kit.m.schedules.look_at(START_MS) == []


def test_the_same_again_changes_nothing() -> None:
    kit = made()
    fire(kit, START_MS + MINUTE)
    before = of(kit).to_data()
    kit.now += 10
    assert put(kit) == ScheduleSaved("s", False, of(kit).revision)
    assert of(kit).to_data() == before


def test_another_message_keeps_the_timetable_and_its_slots() -> None:
    kit = made()
    fire(kit, START_MS + MINUTE)
    revision = of(kit).revision
    kit.now += 2 * MINUTE  # a slot is due and nobody has fired it yet
    saved = put(kit, draft=c.Draft(b'"yy"'), overlap="skip", misfire="skip")
    assert saved.revision == of(kit).revision > revision
    assert of(kit).decided_ms == START_MS + MINUTE and of(kit).next_slot_ms == START_MS + 2 * MINUTE
    assert kit.m.schedules.bytes == 4 and of(kit).skipped == 0


@pytest.mark.parametrize("told", [{"cron": "5 * * * *"}, {"timezone": "Asia/Tokyo"}, {"every_ms": 500}])
def test_another_timetable_begins_now_and_says_what_it_passed_over(told: dict[str, Any]) -> None:
    kit = made()
    fire(kit, START_MS + MINUTE)
    kit.now = START_MS + 2 * MINUTE + 3
    put(kit, **told)
    record = of(kit)
    assert record.decided_ms == record.next_slot_ms == record.anchor_ms == kit.now
    assert (record.skipped, record.last_skip) == (1, Skipped(START_MS + 2 * MINUTE, "replaced"))


def test_another_timetable_before_anything_is_due_passes_nothing_over() -> None:
    kit = made()
    fire(kit, START_MS, enqueue=False)
    put(kit, cron="5 * * * *")
    assert (of(kit).skipped, of(kit).last_skip) == (0, None)


def test_if_revision_is_looked_at() -> None:
    kit = Kit()
    assert put(kit, if_revision=1).code == "revision_changed"
    put(kit)
    revision = of(kit).revision
    assert put(kit, if_revision=revision + 1, cron="1 * * * *").code == "revision_changed"
    assert put(kit, if_revision=revision, cron="1 * * * *").revision > revision
    assert kit(c.DeleteSchedule("s", revision)).code == "revision_changed"
    assert kit(c.DeleteSchedule("s", of(kit).revision)).count == 1


def test_a_queue_that_nobody_may_make_must_exist() -> None:
    kit = Kit()
    refused = kit(c.PutSchedule("s", spec(), None, auto_create=False))
    assert (refused.code, refused.field) == ("queue_not_found", "/queue")
    kit.queue()
    assert kit(c.PutSchedule("s", spec(), None, auto_create=False)).created


def test_schedules_max() -> None:
    """Limit SCHEDULES_MAX: the last one fits, the next is refused and changes nothing."""
    kit = Kit()
    for number in range(SCHEDULES_MAX - 1):
        put(kit, f"s{number}")
    assert put(kit, "last").created
    refused = put(kit, "more")
    assert (refused.code, refused.limit) == ("too_many_schedules", SCHEDULES_MAX)
    assert not put(kit, "last", cron="1 * * * *").created
    assert len(kit.m.schedules.by_name) == SCHEDULES_MAX


def test_schedule_bytes_max() -> None:
    """Limit SCHEDULE_BYTES_MAX, of all messages together; a replaced message does not count."""
    kit = Kit()
    most = SCHEDULE_BYTES_MAX - 10
    put(kit, "big", draft=c.Draft(bytes(most), c.CODEC_BYTES))
    assert put(kit, draft=c.Draft(b"1" * 10)).created
    refused = put(kit, "more", draft=c.Draft(b"1"))
    assert (refused.code, refused.field, refused.limit) == (
        "too_many_schedules",
        "/message",
        SCHEDULE_BYTES_MAX,
    )
    assert put(kit, draft=c.Draft(b"1" * 11)).code == "too_many_schedules"
    assert not put(kit, draft=c.Draft(b"1" * 9)).created
    assert kit(c.DeleteSchedule("big")).count == 1
    assert kit.m.schedules.bytes == 9 and not invariants.check(kit.m)


# --- slots --------------------------------------------------------------------------------------------


def test_a_slot_gets_one_message_under_its_key() -> None:
    kit = made()
    slot = START_MS + MINUTE
    end = fire(kit, slot)
    assert end.status == "fired" and end.message is not None
    assert kit.m.messages[end.message].draft.key == f"s@{slot}"
    record = of(kit)
    assert (record.fired, record.decided_ms, record.next_slot_ms) == (1, slot, slot + MINUTE)
    assert record.last_fire == Fired(slot, end.message)
    assert list(kit.hints.ready) == ["q"] and kit.take() == [end.message]


def test_r2_only_a_later_slot_fires() -> None:
    kit = made()
    slot = START_MS + MINUTE
    assert fire(kit, slot).status == "fired"
    before = of(kit).to_data()
    for old in (slot, slot - 1, START_MS):
        assert fire(kit, old, next_slot_ms=slot + HOUR) == SlotEnd("stale")
    assert fire(kit, slot - 1, enqueue=False) == SlotEnd("stale")
    assert of(kit).to_data() == before and kit.counts() == {"ready": 1}


def test_r2_a_slot_never_fires_before_its_time() -> None:
    kit = made()
    (end,) = kit(c.FireSchedules((step(kit, kit.now + 1),))).results
    assert end == SlotEnd("stale") and of(kit).fired == 0
    assert fire(kit, kit.now + 1).status == "fired"


def test_a_next_slot_that_is_not_later_is_refused() -> None:
    kit = made()
    assert fire(kit, START_MS + 5, next_slot_ms=START_MS + 5) == SlotEnd("stale")


def test_a_leader_that_read_an_older_schedule_is_stale() -> None:
    kit = made()
    old = of(kit).revision
    put(kit, draft=c.Draft(b"2"))
    assert fire(kit, START_MS + MINUTE, revision=old) == SlotEnd("stale")
    kit(c.DeleteSchedule("s"))
    kit.now += MINUTE
    (end,) = kit(c.FireSchedules((c.Fire("s", old, kit.now, kit.now + 1),))).results
    assert end == SlotEnd("stale") and "q" not in kit.m.queues


def test_a_step_computed_before_another_was_applied_is_stale() -> None:
    """A leader whose command hung computes the next one from the same state: its count of missed slots holds those
    that the first one decided (simulator 1795353035332)."""
    kit = made()
    kit.now += 9 * MINUTE
    one, two = START_MS + 4 * MINUTE, START_MS + 8 * MINUTE
    first, second = step(kit, one, passed=3), step(kit, two, passed=7)
    assert kit(c.FireSchedules((first,))).results[0].status == "fired"
    assert kit(c.FireSchedules((second,))).results == (SlotEnd("stale"),)
    assert (of(kit).fired, of(kit).skipped, of(kit).decided_ms) == (1, 3, one)


def test_r2_a_put_does_not_make_a_fired_slot_fire_again() -> None:
    kit = made()
    slot = START_MS + MINUTE
    fire(kit, slot)
    put(kit, cron="*/1 * * * *")  # the same slots, said otherwise
    assert fire(kit, slot) == SlotEnd("stale")
    put(kit, draft=c.Draft(b"2"), cron="*/1 * * * *")
    assert fire(kit, slot) == SlotEnd("stale")


def test_a_slot_fired_before_its_schedule_was_deleted_and_made_again_is_not_doubled() -> None:
    kit = made()
    slot = START_MS + MINUTE
    first = fire(kit, slot)
    kit(c.DeleteSchedule("s"))
    kit.now = slot - 1  # what the new one's leader believes; the clock of the log goes on from the slot
    put(kit)
    assert fire(kit, slot) == SlotEnd("stale"), "decided from its beginning"
    # Even where the record does not know: the slot's key does.
    of(kit).decided_ms = of(kit).created_at_ms = of(kit).anchor_ms = slot - 1
    assert fire(kit, slot) == SlotEnd("fired", first.message)
    assert kit.counts() == {"ready": 1}


def test_another_message_under_the_slots_key_skips_the_slot() -> None:
    kit = made()
    slot = START_MS + MINUTE
    kit.put(c.Draft(b"9", key=f"s@{slot}"))
    assert fire(kit, slot) == SlotEnd("skipped", code="key_taken")
    assert of(kit).last_skip == Skipped(slot, "key_taken") and of(kit).decided_ms == slot
    assert kit.counts() == {"ready": 1}


def test_missed_slots_are_counted_with_the_one_that_fires() -> None:
    kit = made()
    fire(kit, START_MS + MINUTE)
    slot = START_MS + HOUR
    assert fire(kit, slot, passed=58).status == "fired"
    record = of(kit)
    assert (record.fired, record.skipped) == (2, 58)
    assert record.last_skip == Skipped(START_MS + 2 * MINUTE, "missed")
    assert fire(kit, slot + HOUR, enqueue=False, passed=60) == SlotEnd("passed")
    assert (record.fired, record.skipped) == (2, 118)
    assert record.last_skip == Skipped(slot + MINUTE, "missed")


def test_missed_slots_of_a_schedule_nobody_had_looked_at() -> None:
    kit = made()
    slot = START_MS + HOUR
    assert fire(kit, slot, enqueue=False, passed=60) == SlotEnd("passed")
    assert of(kit).last_skip == Skipped(slot, "missed")


def test_a_batch_of_steps_stands_each_by_itself() -> None:
    kit = made()
    put(kit, "t", queue="r")
    kit.queue("r")
    kit(c.PauseQueue("r", enqueue=True))
    kit.now += 3 * MINUTE
    one, two = START_MS + MINUTE, START_MS + 2 * MINUTE
    fires = (step(kit, one), step(kit, one, name="t"), step(kit, two, after_ms=one), step(kit, one))
    ends = kit(c.FireSchedules(fires)).results
    assert [end.status for end in ends] == ["fired", "blocked", "fired", "stale"]
    assert len(fires) <= FIRE_BATCH_MAX


# --- overlap --------------------------------------------------------------------------------------------


def test_overlap_skip_waits_for_the_last_message_to_end() -> None:
    kit = Kit()
    put(kit, overlap="skip")
    slot = START_MS + MINUTE
    fire(kit, slot)
    assert fire(kit, slot + MINUTE) == SlotEnd("skipped", code="overlap")
    (grant,) = kit.lease()
    assert fire(kit, slot + 2 * MINUTE, passed=1) == SlotEnd("skipped", code="overlap")
    record = of(kit)
    assert (record.fired, record.skipped) == (1, 3)
    assert record.last_skip == Skipped(slot + 2 * MINUTE, "overlap")
    kit.ack(grant)
    assert fire(kit, slot + 3 * MINUTE).status == "fired"
    (number,) = kit.take()
    kit(c.Cancel(number))
    assert fire(kit, slot + 4 * MINUTE).status == "skipped", "cancelled, and still leased"


def test_overlap_allow_does_not_look() -> None:
    kit = made()
    assert [fire(kit, START_MS + n * MINUTE).status for n in (1, 2)] == ["fired", "fired"]


def test_overlap_looks_at_a_message_made_by_hand_too() -> None:
    kit = Kit()
    put(kit, overlap="skip")
    kit(c.RunSchedule("s"))
    assert fire(kit, START_MS + MINUTE).status == "skipped"


# --- refusals of the queue --------------------------------------------------------------------------------


def test_a_slot_that_the_queue_refuses_is_owed_and_tried_again_later() -> None:
    kit = made()
    kit.queue("q", max_messages=1)
    kit.put("a")
    slot = START_MS + MINUTE
    assert fire(kit, slot) == SlotEnd("blocked", code="queue_full")
    record = of(kit)
    assert record.blocked == Blocked("queue_full", kit.now, kit.now + 1000, 1)
    assert (record.fired, record.skipped, record.decided_ms) == (0, 0, START_MS)
    assert kit.m.schedules.look_at(kit.now + 999) == []
    assert kit.m.schedules.next_look_ms() == kit.now + 1000
    since = kit.now
    for tries in range(2, 9):
        kit.now += 1000
        assert fire(kit, slot).status == "blocked"
        wait = min(1000 << (tries - 1), SCHEDULE_RETRY_MS_MAX)
        assert record.blocked == Blocked("queue_full", since, kit.now + wait, tries)
    kit.take()
    kit.queue("q")
    assert fire(kit, slot).status == "fired"
    assert record.blocked is None and (record.fired, record.skipped) == (1, 0)


@pytest.mark.parametrize("why", ["queue_paused", "queue_not_found", "too_many_queues"])
def test_every_refusal_blocks(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kit = made()
    if why == "queue_paused":
        kit.queue()
        kit(c.PauseQueue("q", enqueue=True))
    elif why == "too_many_queues":
        monkeypatch.setattr("trivet.machine.intake.QUEUES_MAX", 0)
    kit.now += MINUTE
    command = c.FireSchedules((step(kit, START_MS + MINUTE),), auto_create=why != "queue_not_found")
    assert kit(command).results == (SlotEnd("blocked", code=why),)
    assert not invariants.check(kit.m) and "s@" not in str(list(kit.m.queues))


def test_later_slots_wait_for_a_refused_one() -> None:
    kit = made()
    kit.queue()
    kit(c.PauseQueue("q", enqueue=True))
    kit.now += 3 * MINUTE
    one, two = START_MS + MINUTE, START_MS + 2 * MINUTE
    ends = kit(c.FireSchedules((step(kit, one), step(kit, two)))).results
    assert ends == (SlotEnd("blocked", code="queue_paused"), SlotEnd("stale"))
    record = of(kit)
    assert record.blocked is not None and (record.blocked.tries, record.decided_ms) == (1, START_MS)


def test_a_leader_that_cannot_compute_the_slots_says_so() -> None:
    kit = made()
    assert fire(kit, 0, next_slot_ms=0, problem="invalid_argument") == SlotEnd(
        "blocked", code="invalid_argument"
    )
    assert of(kit).blocked is not None and of(kit).decided_ms == START_MS


def test_a_put_tries_again_at_once() -> None:
    kit = made()
    fire(kit, START_MS, problem="queue_full")
    put(kit, queue="r")
    assert of(kit).blocked is None and kit.m.schedules.look_at(kit.now) == ["s"]


# --- pause, run, delete -----------------------------------------------------------------------------------


def test_a_paused_schedule_fires_nothing_and_resumes_with_the_next_slot() -> None:
    kit = made()
    slot = START_MS + MINUTE
    fire(kit, slot)
    kit(c.PauseSchedule("s", True))
    assert kit.m.schedules.next_look_ms() is None and of(kit).paused
    assert fire(kit, slot + MINUTE) == SlotEnd("stale")
    kit.now += HOUR
    before = of(kit).to_data()
    kit(c.PauseSchedule("s", True))
    assert of(kit).to_data() == before
    kit(c.PauseSchedule("s", False))
    record = of(kit)
    assert record.decided_ms == record.next_slot_ms == kit.now and record.skipped == 0
    assert fire(kit, slot + 2 * MINUTE) == SlotEnd("stale"), "a slot of the pause"
    assert not invariants.check(kit.m)


def test_a_pause_says_that_it_passes_over_what_was_due() -> None:
    kit = made()
    slot = START_MS + MINUTE
    fire(kit, slot)
    fire(kit, slot + MINUTE, problem="queue_full")
    kit(c.PauseSchedule("s", True))
    record = of(kit)
    assert (record.skipped, record.last_skip, record.blocked) == (1, Skipped(slot + MINUTE, "paused"), None)
    assert not invariants.check(kit.m)


def test_a_pause_counts_all_slots_that_an_interval_owes() -> None:
    kit = Kit()
    put(kit, every_ms=1000)
    fire(kit, START_MS, enqueue=False, next_slot_ms=START_MS + 1000)
    kit.now = START_MS + 3999
    kit(c.PauseSchedule("s", True))
    assert (of(kit).skipped, of(kit).last_skip) == (3, Skipped(START_MS + 1000, "paused"))


def test_run_makes_a_message_now_and_takes_no_slot() -> None:
    kit = made()
    kit(c.PauseSchedule("s", True))
    before = of(kit).decided_ms
    kit.now += 5
    first, second = kit(c.RunSchedule("s")), kit(c.RunSchedule("s"))
    assert isinstance(first, ScheduleRun) and first.state == "ready" and second.message > first.message
    record = of(kit)
    assert record.last_fire == Fired(kit.now, second.message, by_hand=True)
    assert (record.fired, record.decided_ms) == (0, before)
    assert kit.counts() == {"ready": 2} and not invariants.check(kit.m)


def test_run_is_refused_as_an_enqueue_is() -> None:
    kit = made()
    kit.queue(max_messages=0)
    refused = kit(c.RunSchedule("s"))
    assert (refused.code, refused.field) == ("queue_full", None)
    assert of(kit).last_fire is None
    refused = kit(c.RunSchedule("s", auto_create=False))
    assert refused.code == "queue_full"
    kit(c.DeleteQueue("q"))
    refused = kit(c.RunSchedule("s", auto_create=False))
    assert (refused.code, refused.field) == ("queue_not_found", None)


def test_what_concerns_no_schedule() -> None:
    kit = Kit()
    for command in (c.DeleteSchedule("s"), c.PauseSchedule("s", True), c.RunSchedule("s")):
        assert kit(command).code == "schedule_not_found"


def test_delete_keeps_the_messages() -> None:
    kit = made()
    fire(kit, START_MS + MINUTE)
    assert kit(c.DeleteSchedule("s")).count == 1
    assert not kit.m.schedules.by_name and kit.m.schedules.next_look_ms() is None
    assert kit.counts() == {"ready": 1} and not invariants.check(kit.m)
    put(kit)
    kit(c.PauseSchedule("s", True))
    kit(c.DeleteSchedule("s"))
    assert not invariants.check(kit.m)


def test_a_repeat_by_request_id_runs_once() -> None:
    kit = made()
    first = kit.ask(c.RunSchedule("s"), "r")
    again = kit.ask(c.RunSchedule("s"), "r")
    assert again.repeated and again.reply == first.reply and kit.counts() == {"ready": 1}
