"""Schedules in the simulation: what clients make of them, what leaders say, and what the log must never show.

`STEADY_SCHEDULE` has one timetable for all of a run, and nobody pauses it before the end: each of its slots must be
accounted for. The others are changed all the time; for them only what holds for every schedule is judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.queue_calls import Callers
from tests.simulation.world import World
from trivet.limits import SLOT_ON_TIME_MS
from trivet.machine import commands as c
from trivet.machine import replies as r

STEADY_SCHEDULE = "steady"
WILD_SCHEDULES = ("tick", "tock")
SCHEDULES = (STEADY_SCHEDULE, *WILD_SCHEDULES)
STEADY_SPEC = c.ScheduleSpec("q1", c.Draft(b'"steady"'), every_ms=900, misfire="skip")


class ScheduleActs(Callers):
    """Clients."""

    def begin_schedules(self) -> None:
        self.call(c.PutSchedule(STEADY_SCHEDULE, STEADY_SPEC))

    def end_schedules(self) -> None:
        """The queues are to run empty."""
        for name in SCHEDULES:
            self.call(c.PauseSchedule(name, True))

    def _schedule(self) -> None:
        rng = self.rng
        if rng.random() < 0.2:  # a deployment: the same again
            self.call(c.PutSchedule(STEADY_SCHEDULE, STEADY_SPEC))
            return
        name = rng.choice(WILD_SCHEDULES)
        self.call(
            rng.choices(
                (
                    c.PutSchedule(name, self._spec()),
                    c.PauseSchedule(name, True),
                    c.PauseSchedule(name, False),
                    c.RunSchedule(name),
                    c.DeleteSchedule(name),
                ),
                (5, 1, 2, 2, 1),
            )[0]
        )

    def _spec(self) -> c.ScheduleSpec:
        rng = self.rng
        by_cron = rng.random() < 0.2
        return c.ScheduleSpec(
            rng.choice(("q1", "w1", "w2")),
            c.Draft(rng.choice((b'"a"', b'"b"'))),
            cron=rng.choice(("* * * * *", "*/2 * * * *")) if by_cron else None,
            every_ms=None if by_cron else rng.choice((300, 700, 5000)),
            timezone=rng.choice(("UTC", "Asia/Kathmandu")),
            misfire=rng.choice(("fire_once", "skip")),
            overlap=rng.choice(("allow", "allow", "skip")),
        )


@dataclass
class ScheduleFact:
    """A schedule as the log has told. `from_ms`: slots up to here were decided, or never counted."""

    spec: c.ScheduleSpec
    anchor_ms: int
    from_ms: int
    paused: bool = False
    fired: set[int] = field(default_factory=set)

    def slots_between(self, after_ms: int, upto_ms: int) -> int:
        """How many slots of an interval lie in (after, upto]; a cron expression's here come with whole minutes."""
        length, start = self._grid()
        return max(0, (upto_ms - start) // length) - max(0, (after_ms - start) // length)

    def is_slot(self, at_ms: int) -> bool:
        length, start = self._grid()
        return at_ms > start and (at_ms - start) % length == 0

    def _grid(self) -> tuple[int, int]:
        if self.spec.every_ms is not None:
            return self.spec.every_ms, self.anchor_ms
        if self.spec.cron == "* * * * *":
            return 60_000, 0
        return (
            120_000,
            60_000 if self.spec.timezone == "Asia/Kathmandu" else 0,
        )  # 5:45 ahead: even minutes are odd

    def timetable(self) -> tuple[str | None, int | None, str]:
        return self.spec.cron, self.spec.every_ms, self.spec.timezone


class ScheduleLaws:
    """R2, from the log alone: each slot of a schedule is decided once, in order, at its time; one that was on time
    got its message, unless something that the log tells kept it from it."""

    def __init__(
        self, world: World, enqueued: Callable[[int, int, str, c.Draft, r.EnqueuedOne], None]
    ) -> None:
        self.world = world
        self._enqueued = enqueued
        self.facts: dict[str, ScheduleFact] = {}

    def note(self, clock_ms: int, command: c.Command) -> None:
        """A command of a client that was not refused."""
        if isinstance(command, c.PutSchedule):
            fact = self.facts.get(command.name)
            if fact is None:
                self.facts[command.name] = ScheduleFact(command.spec, clock_ms, clock_ms)
                return
            before = fact.timetable()
            fact.spec = command.spec
            if fact.timetable() != before:
                fact.anchor_ms = fact.from_ms = clock_ms
        elif isinstance(command, c.DeleteSchedule):
            del self.facts[command.name]
        elif isinstance(command, c.PauseSchedule):
            fact = self.facts[command.name]
            if fact.paused != command.paused:
                fact.paused, fact.from_ms = command.paused, clock_ms

    def ran(self, index: int, clock_ms: int, name: str, reply: r.ScheduleRun) -> None:
        self.world.count("schedules run by hand")
        spec = self.facts[name].spec
        self._enqueued(index, clock_ms, spec.queue, spec.draft, r.EnqueuedOne(reply.message, reply.state))

    def decided(self, index: int, clock_ms: int, command: c.FireSchedules, reply: r.SlotsDecided) -> None:
        for fire, end in zip(command.fires, reply.results, strict=True):
            self.world.count(f"slots {end.status}")
            if end.status in ("stale", "blocked"):
                continue
            what = f"slot {fire.slot_ms} of {fire.name} at {index}"
            fact = self.facts.get(fire.name)
            if fact is None or fact.paused:
                self.world.violate("slot of no schedule", what)
                continue
            self._in_time(what, clock_ms, fact, fire, end)
            if end.status == "fired":
                self._fired(index, clock_ms, what, fact, fire, end)
            fact.from_ms = fire.slot_ms

    def _in_time(self, what: str, clock_ms: int, fact: ScheduleFact, fire: c.Fire, end: r.SlotEnd) -> None:
        between = fact.slots_between(fact.from_ms, fire.slot_ms)
        wanted = between - (1 if fire.enqueue else 0)
        if wanted != fire.passed and not (fact.spec.cron and wanted > fire.passed >= 24):
            self.world.violate("slot lost", f"{what}: {wanted} passed over, it says {fire.passed}")
        first = self._first_after(fact)
        if fire.passed and clock_ms - first <= SLOT_ON_TIME_MS:
            self.world.violate("slot lost", f"{what}: {clock_ms - first} ms after {first} it was on time")
        if fire.passed:
            self.world.count("slots missed", fire.passed)
        if fire.enqueue and not fact.is_slot(fire.slot_ms):
            self.world.violate("no slot", what)
        if fire.slot_ms > clock_ms:
            self.world.violate("slot before its time", f"{what}: {fire.slot_ms - clock_ms} ms")
        if fire.enqueue and clock_ms - fire.slot_ms > 500:
            self.world.count("slots decided late")
        if end.status == "skipped" and end.code == "overlap" and fact.spec.overlap != "skip":
            self.world.violate("slot lost", f"{what}: overlaps are allowed")

    @staticmethod
    def _first_after(fact: ScheduleFact) -> int:
        length, start = fact._grid()
        return start + (max(0, (fact.from_ms - start) // length) + 1) * length

    def _fired(
        self, index: int, clock_ms: int, what: str, fact: ScheduleFact, fire: c.Fire, end: r.SlotEnd
    ) -> None:
        if fire.slot_ms in fact.fired:
            self.world.violate("slot doubled", what)
        fact.fired.add(fire.slot_ms)
        assert end.message is not None
        draft = c.Draft(fact.spec.draft.body, key=f"{fire.name}@{fire.slot_ms}")
        self._enqueued(index, clock_ms, fact.spec.queue, draft, r.EnqueuedOne(end.message, "ready"))

    def close(self) -> None:
        """The steady one has had a message for each slot that did not fall into an outage."""
        fact = self.facts.get(STEADY_SCHEDULE)
        if fact is not None and fact.fired:
            self.world.count("steady schedules seen to the end")
