"""What the leader says of schedules: which slots are due, and what becomes of late ones."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.machine.kit import START_MS, Kit
from trivet.limits import FIRE_BATCH_MAX, SCHEDULES_MAX, SLOT_ON_TIME_MS
from trivet.machine import commands as c
from trivet.machine.schedules import Schedule
from trivet.node import timekeeper as module
from trivet.node.slots import NEVER_MS, Cron, Every
from trivet.node.timekeeper import Step, Timekeeper, steps

SECOND = 1000
EVERY = Every(START_MS, SECOND)
FIRST = START_MS + SECOND


def said(
    now_ms: int, *, misfire: str = "fire_once", next_slot_ms: int = FIRST, most: int = 1000
) -> list[Step]:
    return steps(EVERY, START_MS, next_slot_ms, misfire, now_ms, most)


# --- deciding -----------------------------------------------------------------------------------------


def test_a_new_schedule_gets_its_first_slot() -> None:
    assert said(START_MS, next_slot_ms=START_MS) == [Step(START_MS, FIRST, False)]
    assert said(FIRST - 1, next_slot_ms=START_MS) == [Step(START_MS, FIRST, False)]


def test_a_slot_is_due_at_its_very_instant() -> None:
    assert said(FIRST) == [Step(FIRST, FIRST + SECOND, True)]
    assert said(FIRST, next_slot_ms=START_MS) == [Step(FIRST, FIRST + SECOND, True)]


@pytest.mark.parametrize("misfire", ["fire_once", "skip"])
def test_a_slot_is_on_time_for_five_seconds(misfire: str) -> None:
    """Limit SLOT_ON_TIME_MS: up to it each slot gets its message, whatever the policy; above it, it counts."""
    on_time = said(FIRST + SLOT_ON_TIME_MS, misfire=misfire)
    assert on_time == [Step(FIRST + n * SECOND, FIRST + (n + 1) * SECOND, True) for n in range(6)]
    late = said(FIRST + SLOT_ON_TIME_MS + 1, misfire=misfire)
    if misfire == "fire_once":
        assert late == [Step(FIRST + 5 * SECOND, FIRST + 6 * SECOND, True, 5)]
    else:
        assert late[0] == Step(FIRST + SECOND, FIRST + 2 * SECOND, True, 1)
        assert late[1:] == on_time[2:]


def test_r2_after_an_outage_fire_once_is_one_message_for_the_latest_slot() -> None:
    now = START_MS + 3_600_000 + 7
    assert said(now) == [Step(START_MS + 3_600_000, START_MS + 3_601_000, True, 3599)]


def test_after_an_outage_skip_passes_over_what_is_late() -> None:
    table = Every(START_MS, 60_000)
    now = START_MS + 10 * 60_000 + 30_000
    told = steps(table, START_MS, START_MS + 60_000, "skip", now, 100)
    assert told == [Step(START_MS + 600_000, START_MS + 660_000, False, 10)]
    told = steps(table, START_MS, START_MS + 60_000, "skip", START_MS + 600_000 + 100, 100)
    assert told == [Step(START_MS + 600_000, START_MS + 660_000, True, 9)]


def test_a_cron_expression_after_a_long_outage() -> None:
    table = Cron("*/10 * * * *", "Europe/Berlin")
    first = table.after(START_MS) or 0
    now = first + 30 * 86_400_000 + 61_000
    (told,) = steps(table, START_MS, first, "fire_once", now, 100)
    assert told.slot_ms == now - 61_000 and told.passed == 24 and told.enqueue
    (told,) = steps(table, START_MS, first, "skip", now, 100)
    assert told.slot_ms == now - 61_000 and told.passed == 25 and not told.enqueue


def test_what_never_comes_again_is_looked_at_again_much_later(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Cron("* * * * *", "UTC")
    monkeypatch.setattr(Cron, "after", lambda self, at_ms: None)
    assert steps(table, START_MS, START_MS, "skip", START_MS, 9) == [
        Step(START_MS, START_MS + NEVER_MS, False)
    ]


# --- a machine's schedules ----------------------------------------------------------------------------


class Cluster:
    """A machine and its leader's timekeeper."""

    def __init__(self, **leader: Any) -> None:
        self.kit = Kit()
        self.keeper = Timekeeper(True, **leader)

    def put(self, name: str = "s", **told: Any) -> None:
        told.setdefault("every_ms", SECOND)
        self.kit(c.PutSchedule(name, c.ScheduleSpec("q", c.Draft(), **told)))

    def of(self, name: str = "s") -> Schedule:
        return self.kit.m.schedules.by_name[name]

    def say(self) -> c.FireSchedules | None:
        return self.keeper.next_command(self.kit.m.schedules, self.kit.now)

    def settle(self) -> int:
        """Until nothing is due; how many commands that took."""
        for count in range(1000):
            command = self.say()
            if command is None:
                return count
            self.kit(command)
        raise AssertionError("there is always something due")


def test_the_first_look_and_the_first_slot() -> None:
    cluster = Cluster()
    assert cluster.say() is None
    cluster.put()
    assert cluster.settle() == 1 and cluster.of().next_slot_ms == FIRST and cluster.of().fired == 0
    cluster.kit.now = FIRST - 1
    assert cluster.say() is None
    cluster.kit.now = FIRST
    assert cluster.settle() == 1 and cluster.of().fired == 1
    assert cluster.say() is None


def test_a_batch_has_at_most_so_many_steps() -> None:
    """Limit FIRE_BATCH_MAX: also of one schedule whose every slot is on time."""
    cluster = Cluster()
    for number in range(FIRE_BATCH_MAX + 1):
        cluster.put(f"s{number}")
    command = cluster.say()
    assert command is not None and len(command.fires) == FIRE_BATCH_MAX
    cluster.kit(command)
    command = cluster.say()
    assert command is not None and len(command.fires) == 1
    cluster.kit(command)
    for name in list(cluster.kit.m.schedules.by_name):
        cluster.kit(c.DeleteSchedule(name))
    for name in ("a", "b", "c"):
        cluster.put(name, every_ms=100)
    cluster.settle()
    cluster.kit.now += 5000
    command = cluster.say()
    assert command is not None and len(command.fires) == FIRE_BATCH_MAX
    assert [fire.name for fire in command.fires] == ["a"] * 50 + ["b"] * 50
    assert cluster.settle() >= 2
    assert {cluster.of(name).fired for name in ("a", "b", "c")} == {50}


def test_it_stops_when_it_has_taken_long_and_goes_on_where_it_was() -> None:
    cluster = Cluster(out_of_time=lambda: True)
    for name in ("a", "b"):
        cluster.put(name)
    first, second = cluster.say(), cluster.say()
    assert first is not None and [fire.name for fire in first.fires] == ["a"]
    assert second is not None and [fire.name for fire in second.fires] == ["b"]


def test_what_changed_since_it_was_listed_is_passed_by() -> None:
    cluster = Cluster(out_of_time=lambda: True)
    for name in ("a", "b", "c", "d"):
        cluster.put(name)
    assert cluster.say() is not None
    cluster.kit(c.DeleteSchedule("b"))
    cluster.kit(c.PauseSchedule("c", True))
    command = cluster.say()
    assert command is not None and [fire.name for fire in command.fires] == ["d"]


def test_a_blocked_schedule_waits_and_keeps_nobody_else_waiting() -> None:
    cluster = Cluster()
    cluster.kit.queue("q")
    cluster.kit(c.PauseQueue("q", enqueue=True))
    cluster.put("a")
    cluster.kit(c.PutSchedule("b", c.ScheduleSpec("r", c.Draft(), every_ms=SECOND)))
    cluster.settle()
    for _ in range(40):
        cluster.kit.now += 500
        assert cluster.settle() < 5
    blocked = cluster.of("a").blocked
    assert blocked is not None and blocked.code == "queue_paused" and 5 <= blocked.tries <= 7
    assert cluster.of("b").fired == 20
    cluster.kit(c.PauseQueue("q", enqueue=False))
    cluster.kit.now += 10_000
    cluster.settle()
    assert cluster.of("a").fired == 1, "one message for the latest slot"
    assert cluster.of("a").fired + cluster.of("a").skipped == 30


def test_a_timetable_this_node_does_not_know_is_said_and_tried_again() -> None:
    cluster = Cluster()
    cluster.put(cron="0 0 * * *", every_ms=None, timezone="Mars/Olympus")
    assert cluster.settle() == 1
    blocked = cluster.of().blocked
    assert blocked is not None and blocked.code == module.UNKNOWN_TIMETABLE
    cluster.kit.now += 1000
    assert cluster.settle() == 1 and cluster.of().decided_ms == START_MS


def test_all_schedules_there_can_be_due_at_once() -> None:
    cluster = Cluster()
    for number in range(SCHEDULES_MAX):
        cluster.put(f"s{number}", every_ms=3_600_000)
    assert cluster.settle() == SCHEDULES_MAX / FIRE_BATCH_MAX
    cluster.kit.now += 3_600_000
    assert cluster.settle() == SCHEDULES_MAX / FIRE_BATCH_MAX
    assert cluster.kit.counts() == {"ready": SCHEDULES_MAX}


@pytest.mark.parametrize("misfire", ["fire_once", "skip"])
def test_an_outage_of_everybody(misfire: str) -> None:
    cluster = Cluster()
    cluster.put(cron="*/5 * * * *", every_ms=None, misfire=misfire)
    cluster.settle()
    cluster.kit.now = cluster.of().next_slot_ms + 3_600_000 + 60_000  # the 13th slot is a minute late
    cluster.settle()
    assert (cluster.of().fired, cluster.of().skipped) == ((1, 12) if misfire == "fire_once" else (0, 13))
