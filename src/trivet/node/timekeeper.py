"""The leader's part in schedules: which slots are due, and what becomes of those that are late (R2).

Nothing here changes anything: a step is only what the leader says, and the machine takes it if it fits
(`machine/schedules.py`). So a leader that was deposed meanwhile, or says a thing twice, does no harm.

A slot decided at most `SLOT_ON_TIME_MS` after its time is on time: a failover of seconds loses none. When the
first undecided slot is later than that, there was an outage, and the misfire policy counts: `fire_once` gives
one message for the latest slot, `skip` passes over what is late and goes on with what is on time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from trivet.limits import FIRE_BATCH_MAX, SLOT_ON_TIME_MS
from trivet.machine.commands import Fire, FireSchedules
from trivet.machine.schedules import Schedule, Schedules
from trivet.node.slots import NEVER_MS, BadTimetable, Timetable, timetable

UNKNOWN_TIMETABLE = (
    "unknown_timetable"  # `Schedule.blocked.code` where this node's cron or zones do not know it
)


class Step(NamedTuple):
    """All slots up to `slot_ms` are decided by it. `passed`: those before it that get no message."""

    slot_ms: int
    next_slot_ms: int
    enqueue: bool
    passed: int = 0


def steps(
    table: Timetable, decided_ms: int, next_slot_ms: int, misfire: str, now_ms: int, most: int
) -> list[Step]:
    """What is to be said at `now_ms` of a schedule, at most `most` steps.

    `next_slot_ms` is its next slot, or `decided_ms` where that has not been computed.
    """
    first = next_slot_ms if next_slot_ms > decided_ms else _after(table, decided_ms)
    if first > now_ms:
        return [Step(decided_ms, first, False)]
    passed = 0
    if now_ms - first > SLOT_ON_TIME_MS:
        if misfire == "fire_once":
            latest, passed = table.latest(first, now_ms)
            return [Step(latest, _after(table, latest), True, passed)]
        late, before = table.latest(first, now_ms - SLOT_ON_TIME_MS - 1)
        first, passed = _after(table, late), before + 1
        if first > now_ms:
            return [Step(late, first, False, passed)]
    found: list[Step] = []
    while first <= now_ms and len(found) < most:
        following = _after(table, first)
        found.append(Step(first, following, True, passed))
        first, passed = following, 0
    return found


def _after(table: Timetable, at_ms: int) -> int:
    following = table.after(at_ms)
    return at_ms + NEVER_MS if following is None else following


class Timekeeper:
    """What is due, a bounded batch at a time. One for each node; knows nothing that the machine does not.

    `out_of_time`: asked after each schedule, so that nothing holds the loop for long (R25).
    """

    def __init__(self, auto_create: bool, out_of_time: Callable[[], bool] = lambda: False) -> None:
        self._auto_create = auto_create
        self._out_of_time = out_of_time
        self._names: deque[str] = deque()  # still to be looked at

    def next_command(self, schedules: Schedules, now_ms: int) -> FireSchedules | None:
        """What the leader should say now, None for nothing. Ask again when it has been applied."""
        if not self._names:
            at = schedules.next_look_ms()
            if at is None or at > now_ms:
                return None
            self._names.extend(schedules.look_at(now_ms))
        fires: list[Fire] = []
        while self._names and len(fires) < FIRE_BATCH_MAX:
            schedule = schedules.by_name.get(self._names.popleft())
            if schedule is None or schedule.paused or schedule.look_at_ms > now_ms:
                continue  # meanwhile
            fires += _fires(schedule, now_ms, FIRE_BATCH_MAX - len(fires))
            if self._out_of_time():
                break
        return FireSchedules(tuple(fires), self._auto_create) if fires else None


def _fires(schedule: Schedule, now_ms: int, most: int) -> list[Fire]:
    spec, name, revision = schedule.spec, schedule.name, schedule.revision
    decided = schedule.decided_ms
    try:
        table = timetable(spec.cron, spec.every_ms, spec.timezone, schedule.anchor_ms)
    except BadTimetable:  # taken by a node with other zones
        return [Fire(name, revision, decided, decided, False, problem=UNKNOWN_TIMETABLE, after_ms=decided)]
    told = steps(table, decided, schedule.next_slot_ms, spec.misfire, now_ms, most)
    before = (decided, *(step.slot_ms for step in told))
    return [Fire(name, revision, *step, after_ms=after) for after, step in zip(before, told, strict=False)]
