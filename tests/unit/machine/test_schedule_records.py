"""Schedules in order, in snapshots, and under the laws."""

from __future__ import annotations

from typing import Any

from tests.unit.machine.kit import START_MS, Kit
from tests.unit.machine.test_schedules import MINUTE, fire, made, of, put
from trivet.machine import commands as c
from trivet.machine import ids, invariants, schedule_laws, schedule_views, views
from trivet.machine.schedules import Blocked, Fired, Schedules
from trivet.machine.snapshotting import NOTHING_YET, SCHEDULES, Builder, Walk, dismantle, state_digest


def test_the_leader_is_told_the_longest_due_first() -> None:
    kit = made()
    for name, at in (("b", 3), ("a", 1), ("c", 2)):
        put(kit, name)
        fire(kit, START_MS, name=name, enqueue=False, next_slot_ms=START_MS + at)
    assert kit.m.schedules.look_at(START_MS + 3) == ["s", "a", "c", "b"]
    assert kit.m.schedules.look_at(START_MS + 1) == ["s", "a"]


def test_a_walk_takes_a_schedule_as_it_was() -> None:
    kit = made()
    put(kit, "gone")
    put(kit, "later")
    fire(kit, START_MS + MINUTE)
    wanted = {name: of(kit, name).to_data() for name in ("s", "gone", "later")}
    digest = state_digest(kit.m)
    walk = Walk(kit.m)
    fire(kit, START_MS + 2 * MINUTE)
    kit(c.DeleteSchedule("gone"))
    put(kit, "new")
    put(kit, "new", draft=c.Draft(b"3"))
    builder = Builder()
    while (item := walk.next()) is not None:
        if item is not NOTHING_YET:
            builder.add(*item)
    walk.close()
    again = builder.finish()
    assert {name: found.to_data() for name, found in again.schedules.by_name.items()} == wanted
    assert state_digest(again) == digest and not invariants.check(again)
    assert SCHEDULES == 13


def test_dismantling_takes_schedules_apart() -> None:
    kit = made()
    for _ in dismantle(kit.m):
        pass
    assert not kit.m.schedules.by_name and kit.m.schedules.next_look_ms() is None


def test_the_laws_see_what_is_wrong() -> None:
    kit = made()
    put(kit, "p")
    kit(c.PauseSchedule("p", True))
    fire(kit, START_MS + MINUTE)
    record, paused, table = of(kit), of(kit, "p"), kit.m.schedules

    def broken(owner: Any, name: str, value: Any) -> list[str]:
        held = getattr(owner, name)
        setattr(owner, name, value)
        found = schedule_laws.broken(kit.m)
        setattr(owner, name, held)
        return found

    assert not schedule_laws.broken(kit.m)
    assert broken(table, "bytes", 1) and broken(table, "due", Schedules().due)
    assert broken(paused, "due_key", 5) and broken(record, "due_key", 5)
    assert broken(paused, "blocked", Blocked("queue_full", 1, 2, 1))
    for name, value in (
        ("name", "x"),
        ("number", 0),
        ("revision", 10**6),
        ("decided_ms", kit.now + 1),
        ("next_slot_ms", 1),
        ("anchor_ms", kit.now + 1),
        ("skipped", 1),
        ("last_fire", None),
        ("last_fire", Fired(kit.now + 5, 10**6)),
        ("spec", c.ScheduleSpec("q", c.Draft(b'"x"'))),
    ):
        assert broken(record, name, value), name
    assert not schedule_laws.broken(kit.m)
    table.due.live += 1
    assert schedule_laws.broken(kit.m)


# --- views --------------------------------------------------------------------------------------------


def test_a_schedule_is_shown_with_its_message() -> None:
    kit = Kit()
    backoff = c.Backoff("fixed", 5)
    extras = c.Extras(run_id="r", step_id="s", max_attempts=2, backoff=backoff, lease_ms=9, retention_ms=0)
    draft = c.Draft(
        b"1", content_type="t", headers={"h": "v"}, priority=3, delay_ms=5, ttl_ms=7, group="g", extras=extras
    )
    put(kit, draft=draft)
    shown = schedule_views.schedule(kit.m, "s")
    assert shown is not None
    message = shown["message"]
    assert message.pop("body") == views.Body(b"1", c.CODEC_JSON, "t")
    assert message.pop("backoff") == views.backoff(backoff)
    assert message == {
        "content_type": "t", "headers": {"h": "v"}, "ttl_ms": 7, "group": "g", "priority": 3, "delay_ms": 5,
        "run_id": "r", "step_id": "s", "max_attempts": 2, "lease_ms": 9, "retention_ms": 0,
    }  # fmt: skip
    assert schedule_views.schedule(kit.m, "t") is None
    put(kit, draft=c.Draft(b"2"))
    shown = schedule_views.schedule(kit.m, "s")
    assert shown is not None and list(shown["message"]) == ["body"]


def test_what_is_shown_of_its_slots() -> None:
    kit = made()
    assert schedule_views.shown(of(kit))["next_slot_at_ms"] is None, "the leader has not computed it"
    end = fire(kit, START_MS + MINUTE, passed=2)
    kit.queue(max_messages=0)
    fire(kit, START_MS + 2 * MINUTE)
    shown = schedule_views.shown(of(kit))
    assert shown["next_slot_at_ms"] == START_MS + 2 * MINUTE
    assert shown["last_fire"] == {
        "slot_ms": START_MS + MINUTE, "message_id": ids.message_id(end.message or 0), "by_hand": False,
    }  # fmt: skip
    assert shown["last_skip"] == {"slot_ms": START_MS + MINUTE, "reason": "missed"}
    assert shown["blocked"] == {
        "code": "queue_full", "since_at_ms": kit.now, "retry_at_ms": kit.now + 1000, "tries": 1,
    }  # fmt: skip
    kit(c.PauseSchedule("s", True))
    assert schedule_views.shown(of(kit))["next_slot_at_ms"] is None


def test_schedules_are_listed_by_name() -> None:
    kit = Kit()
    for name in ("c", "a", "b"):
        put(kit, name)
    page, following = schedule_views.schedules(kit.m, 2, None)
    assert [one["name"] for one in page] == ["a", "b"] and following == "b" and "message" not in page[0]
    page, following = schedule_views.schedules(kit.m, 2, "b")
    assert [one["name"] for one in page] == ["c"] and following is None
