"""The model's schedules: what a leader may say of slots, and what comes of it (R2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from chaos.model.records import UNFINISHED, Message, Refused

RETRY_MS, RETRY_MS_MAX = 1000, 10_000


@dataclass(slots=True)
class Schedule:
    """`decided`: every slot up to here has its message, or never will."""

    spec: Any
    revision: int
    decided: int
    next: int
    paused: bool = False
    fired: int = 0
    skipped: int = 0
    last: Message | None = None
    tries: int = 0

    def owes(self, now: int) -> bool:
        return not self.paused and self.decided < self.next <= now


class Schedules:
    """Mixed into the model."""

    def __init__(self) -> None:
        super().__init__()
        self.schedules: dict[str, Schedule] = {}

    def schedule(self, name: str) -> Schedule:
        if name not in self.schedules:
            raise Refused("schedule_not_found")
        return self.schedules[name]

    def do_PutSchedule(self: Any, c: Any) -> Any:
        known = self.schedules.get(c.name)
        if c.if_revision is not None and (known is None or known.revision != c.if_revision):
            raise Refused("revision_changed")
        if c.spec.queue not in self.queues and not c.auto_create:
            raise Refused("queue_not_found")
        if known is None:
            self.revisions += 1
            self.schedules[c.name] = Schedule(c.spec, self.revisions, self.clock, self.clock)
        elif known.spec != c.spec:
            self.revisions += 1
            if any(
                getattr(known.spec, name) != getattr(c.spec, name)
                for name in ("cron", "every_ms", "timezone")
            ):
                self.begin_now(known)
            known.spec, known.revision, known.tries = c.spec, self.revisions, 0
        return ("schedule", c.name, known is None, self.schedules[c.name].revision)

    def begin_now(self: Any, schedule: Schedule) -> None:
        if schedule.owes(self.clock):
            schedule.skipped += 1
            if schedule.spec.every_ms is not None:
                schedule.skipped += (self.clock - schedule.next) // schedule.spec.every_ms
        schedule.decided = schedule.next = self.clock

    def do_DeleteSchedule(self: Any, c: Any) -> Any:
        if c.if_revision not in (None, self.schedule(c.name).revision):
            raise Refused("revision_changed")
        del self.schedules[c.name]
        return ("done", 1)

    def do_PauseSchedule(self: Any, c: Any) -> Any:
        schedule = self.schedule(c.name)
        if schedule.paused != c.paused:
            self.begin_now(schedule)
            schedule.paused, schedule.tries = c.paused, 0
        return ("done", 0)

    def do_RunSchedule(self: Any, c: Any) -> Any:
        schedule = self.schedule(c.name)
        entries = [(schedule.spec.queue, schedule.spec.draft)]
        message, state, *_ = self.take(entries, self.plan(entries, c.auto_create, {}), {})[0]
        schedule.last = message
        return ("run", message, state)

    def do_FireSchedules(self: Any, c: Any) -> Any:
        stopped: set[str] = set()
        ends = []
        for one in c.fires:
            end = "stale" if one.name in stopped else self.fire(one, c.auto_create)
            if end == "blocked":
                stopped.add(one.name)
            ends.append(end)
        return ("slots", ends)

    def fire(self: Any, one: Any, auto_create: bool) -> str:
        schedule = self.schedules.get(one.name)
        if schedule is None or schedule.paused or schedule.revision != one.revision:
            return "stale"
        if one.problem is not None:
            schedule.tries += 1
            return "blocked"
        if one.after_ms is not None and one.after_ms != schedule.decided:
            # computed before another one was applied: its `passed` counts the same slots again
            return "stale"
        first = schedule.decided + (1 if one.enqueue else 0)
        if not first <= one.slot_ms <= self.clock or one.next_slot_ms <= one.slot_ms:
            return "stale"
        end = self.give(one, schedule, auto_create) if one.enqueue else "passed"
        if end == "blocked":
            schedule.tries += 1
            return end
        schedule.fired += end == "fired"
        schedule.skipped += one.passed + (end == "skipped")
        schedule.decided, schedule.next, schedule.tries = one.slot_ms, one.next_slot_ms, 0
        return end

    def give(self: Any, one: Any, schedule: Schedule, auto_create: bool) -> str:
        last = schedule.last
        if (
            schedule.spec.overlap == "skip"
            and last is not None
            and not last.gone
            and last.state in UNFINISHED
        ):
            return "skipped"
        entries = [(schedule.spec.queue, replace(schedule.spec.draft, key=f"{one.name}@{one.slot_ms}"))]
        try:
            plan = self.plan(entries, auto_create, {})
        except Refused as refusal:
            return "skipped" if str(refusal) == "idempotency_conflict" else "blocked"
        schedule.last = self.take(entries, plan, {})[0][0]
        return "fired"
