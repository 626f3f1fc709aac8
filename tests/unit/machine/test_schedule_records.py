"""Schedules in order, in snapshots, and under the laws."""

from __future__ import annotations

from typing import Any

from tests.unit.machine.kit import START_MS
from tests.unit.machine.test_schedules import MINUTE, fire, made, of, put
from trivet.machine import commands as c
from trivet.machine import invariants, schedule_laws
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
