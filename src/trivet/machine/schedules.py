"""Schedules (R2): one message for each slot. The machine reads no cron and no time zone.

The leader computes the slots. What it says is only taken if it is later than all that was decided before
(`decided_ms`), belongs to the schedule as it is now (`revision`), and is not in the future of the log's
clock. So it does not matter who leads, how often that changes, or that a leader says a thing twice.

`next_slot_ms` above `decided_ms` is the next slot; equal to it means that the leader has to compute it.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from trivet.limits import SCHEDULE_BYTES_MAX, SCHEDULE_RETRY_MS_MAX, SCHEDULES_MAX
from trivet.machine import intake
from trivet.machine.admin import new_revision, wrong_revision
from trivet.machine.commands import (
    DeleteSchedule,
    Draft,
    Fire,
    FireSchedules,
    PauseSchedule,
    PutSchedule,
    RunSchedule,
    ScheduleSpec,
)
from trivet.machine.order import LazyHeap
from trivet.machine.replies import (
    Done,
    EnqueuedOne,
    Refusal,
    ScheduleRun,
    ScheduleSaved,
    SlotEnd,
    SlotsDecided,
)
from trivet.machine.state import LEASED, stored_bytes
from trivet.units import SECOND_MS

if TYPE_CHECKING:
    from trivet.machine.core import Machine

# Why a slot got no message (`Schedule.last_skip`).
MISSED = "missed"  # nobody fired it in time, and the misfire policy passes it over
OVERLAP = "overlap"
PAUSED = "paused"  # due and not fired yet when the schedule was paused
REPLACED = "replaced"  # due and not fired yet when a PUT changed the timetable
KEY_TAKEN = "key_taken"  # another message of the queue has the slot's idempotency key


class Blocked(Struct, array_like=True, frozen=True, gc=False):
    """The queue, or the leader, could not take the next slot: it is owed, and tried again."""

    code: str
    since_ms: int
    retry_at_ms: int
    tries: int


class Fired(Struct, array_like=True, frozen=True, gc=False):
    """The newest message of a schedule. `by_hand`: of a `RunSchedule`; its slot is the instant of that."""

    slot_ms: int
    message: int
    by_hand: bool = False


class Skipped(Struct, array_like=True, frozen=True, gc=False):
    slot_ms: int
    reason: str


class Schedule(Struct, eq=False):
    """`decided_ms`: every slot up to here has its message or was passed over. `anchor_ms`: where the slots
    of an interval are counted from: when its timetable was put."""

    number: int
    name: str
    spec: ScheduleSpec
    revision: int
    created_at_ms: int
    anchor_ms: int
    decided_ms: int
    next_slot_ms: int
    mark: int
    paused: bool = False
    fired: int = 0
    skipped: int = 0
    last_fire: Fired | None = None
    last_skip: Skipped | None = None
    blocked: Blocked | None = None
    due_key: int = 0  # derived: its key in `Schedules.due`, 0 while paused

    def to_data(self) -> list[Any]:
        return [getattr(self, name) for name in ScheduleData.__struct_fields__]

    @property
    def look_at_ms(self) -> int:
        """When the leader has something to do for it."""
        return self.next_slot_ms if self.blocked is None else max(self.next_slot_ms, self.blocked.retry_at_ms)


class ScheduleData(Struct, array_like=True):
    """`Schedule.to_data` as it comes back: the order of the fields is the format on disk."""

    number: int
    name: str
    spec: ScheduleSpec
    revision: int
    created_at_ms: int
    anchor_ms: int
    decided_ms: int
    next_slot_ms: int
    paused: bool
    fired: int
    skipped: int
    last_fire: Fired | None
    last_skip: Skipped | None
    blocked: Blocked | None


class Schedules:
    """All schedules of a machine: at most `SCHEDULES_MAX`. `due`, `bytes`: derived."""

    __slots__ = ("by_name", "bytes", "due")

    def __init__(self) -> None:
        self.by_name: dict[str, Schedule] = {}
        self.due: LazyHeap[Schedule] = LazyHeap(attrgetter("due_key"))
        self.bytes = 0  # of their messages

    def next_look_ms(self) -> int | None:
        """When the leader has to look at one of them; None for never."""
        key = self.due.first_key()
        return None if key is None else key >> 64

    def look_at(self, now_ms: int) -> list[str]:
        """The names of those the leader has to look at by now, longest due first."""
        end = (now_ms + 1) << 64
        found = [each for each in self.by_name.values() if 0 < each.due_key < end]
        return [each.name for each in sorted(found, key=attrgetter("due_key"))]

    def arm(self, schedule: Schedule) -> None:
        """Put it where its `look_at_ms` says; paused ones rest."""
        if schedule.due_key:
            schedule.due_key = 0
            self.due.drop()
        if not schedule.paused:
            schedule.due_key = schedule.look_at_ms << 64 | schedule.number
            self.due.push(schedule.due_key, schedule)

    def load(self, data: ScheduleData) -> None:
        """A schedule of a snapshot."""
        values = {name: getattr(data, name) for name in ScheduleData.__struct_fields__}
        schedule = Schedule(**values, mark=0)
        self.by_name[schedule.name] = schedule
        self.bytes += stored_bytes(schedule.spec.draft)
        self.arm(schedule)


# --- by request ---------------------------------------------------------------------------------------


def _unknown(name: str) -> Refusal:
    return Refusal("schedule_not_found", f"no schedule {name!r}")


def put_schedule(m: Machine, command: PutSchedule) -> ScheduleSaved | Refusal:
    """Create, or replace what it was told; the same again changes nothing.

    A replaced timetable begins now: its first slot is later than this instant. While the timetable stays
    the same, so do its slots, so that putting schedules again at each deployment loses and doubles none.
    """
    table, spec = m.schedules, command.spec
    found = table.by_name.get(command.name)
    refusal = wrong_revision(found, command.if_revision, "schedule")
    if refusal is not None:
        return refusal
    if spec.queue not in m.queues and not command.auto_create:
        return Refusal("queue_not_found", f"no queue {spec.queue!r}", "/queue")
    if found is None and len(table.by_name) >= SCHEDULES_MAX:
        return Refusal("too_many_schedules", "no room for another schedule", None, SCHEDULES_MAX)
    size = table.bytes + stored_bytes(spec.draft) - (0 if found is None else stored_bytes(found.spec.draft))
    if size > SCHEDULE_BYTES_MAX:
        return Refusal("too_many_schedules", "no room for this message", "/message", SCHEDULE_BYTES_MAX)
    now = m.clock_ms
    if found is None:
        number, revision = m.new_number(), new_revision(m)
        found = Schedule(number, command.name, spec, revision, now, now, now, now, m.walk_mark)
        table.by_name[command.name] = found
        table.bytes = size
        table.arm(found)
        return ScheduleSaved(found.name, True, revision)
    if spec != found.spec:
        m.touch(found)
        if _timetable(spec) != _timetable(found.spec):
            _begin_now(m, found, REPLACED)
            found.anchor_ms = now
        found.spec = spec
        found.revision = new_revision(m)
        found.blocked = None
        table.bytes = size
        table.arm(found)
    return ScheduleSaved(found.name, False, found.revision)


def _timetable(spec: ScheduleSpec) -> tuple[str | None, int | None, str]:
    return spec.cron, spec.every_ms, spec.timezone


def _begin_now(m: Machine, schedule: Schedule, reason: str) -> None:
    """What was due is passed over, slots count from now on; the leader computes the next one.

    How many were due (a full queue owes several) the machine can say of an interval only; else at least one.
    """
    now = m.clock_ms
    if not schedule.paused and schedule.decided_ms < schedule.next_slot_ms <= now:
        every = schedule.spec.every_ms
        schedule.skipped += 1 + (0 if every is None else (now - schedule.next_slot_ms) // every)
        schedule.last_skip = Skipped(schedule.next_slot_ms, reason)
    schedule.decided_ms = schedule.next_slot_ms = now  # not less than before: slots are never in the future


def delete_schedule(m: Machine, command: DeleteSchedule) -> Done | Refusal:
    """The messages it has made stay."""
    table = m.schedules
    schedule = table.by_name.get(command.name)
    if schedule is None:
        return _unknown(command.name)
    refusal = wrong_revision(schedule, command.if_revision, "schedule")
    if refusal is not None:
        return refusal
    m.touch(schedule)
    if schedule.due_key:
        schedule.due_key = 0
        table.due.drop()
    table.bytes -= stored_bytes(schedule.spec.draft)
    del table.by_name[schedule.name]
    return Done(1)


def pause_schedule(m: Machine, command: PauseSchedule) -> Done | Refusal:
    """Slots while it is paused get no message, then or later: resuming begins with the next slot."""
    schedule = m.schedules.by_name.get(command.name)
    if schedule is None:
        return _unknown(command.name)
    if schedule.paused != command.paused:
        m.touch(schedule)
        _begin_now(m, schedule, PAUSED)
        schedule.paused = command.paused
        schedule.blocked = None
        m.schedules.arm(schedule)
    return Done()


def run_schedule(m: Machine, command: RunSchedule) -> ScheduleRun | Refusal:
    """One message more, paused or not, whatever is unfinished. It takes no slot and has no key."""
    schedule = m.schedules.by_name.get(command.name)
    if schedule is None:
        return _unknown(command.name)
    made = _enqueue(m, schedule, schedule.spec.draft, command.auto_create)
    if isinstance(made, Refusal):
        return Refusal(made.code, made.detail, None, made.limit, made.retry_after_ms)
    m.touch(schedule)
    schedule.last_fire = Fired(m.clock_ms, made.message, by_hand=True)
    return ScheduleRun(made.message, made.state)


def _enqueue(m: Machine, schedule: Schedule, draft: Draft, auto_create: bool) -> EnqueuedOne | Refusal:
    planned = intake.plan(m, [(schedule.spec.queue, draft)], auto_create, "/messages", {})
    return planned if isinstance(planned, Refusal) else intake.carry_out(m, planned)[0]


# --- by the leader ------------------------------------------------------------------------------------


def fire_schedules(m: Machine, command: FireSchedules) -> SlotsDecided:
    """Each schedule by itself; what does not fit the state of now is `stale` and changes nothing.

    After a refused slot the later ones of the same schedule wait for it.
    """
    ends: list[SlotEnd] = []
    blocked: dict[str, None] = {}
    for fire in command.fires:
        end = SlotEnd("stale") if fire.name in blocked else _fire(m, fire, command.auto_create)
        if end.status == "blocked":
            blocked[fire.name] = None
        ends.append(end)
    return SlotsDecided(tuple(ends))


def slot_key(name: str, slot_ms: int) -> str:
    """The idempotency key of a slot's message."""
    return f"{name}@{slot_ms}"


def is_behind(schedule: Schedule, fire: Fire) -> bool:
    """It was decided before, or so much was that the leader had not seen: its count of missed slots is wrong then."""
    if fire.after_ms not in (None, schedule.decided_ms):
        return True
    return fire.slot_ms <= schedule.decided_ms if fire.enqueue else fire.slot_ms < schedule.decided_ms


def _fire(m: Machine, fire: Fire, auto_create: bool) -> SlotEnd:
    schedule = m.schedules.by_name.get(fire.name)
    if schedule is None or schedule.revision != fire.revision or schedule.paused:
        return SlotEnd("stale")
    if fire.problem is not None:
        return _block(m, schedule, fire.problem)
    slot, decided = fire.slot_ms, schedule.decided_ms
    if is_behind(schedule, fire) or slot > m.clock_ms or fire.next_slot_ms <= slot:
        return SlotEnd("stale")
    end = _decide(m, schedule, slot, auto_create) if fire.enqueue else SlotEnd("passed")
    if end.status == "blocked":
        return end
    m.touch(schedule)
    if fire.passed:
        schedule.skipped += fire.passed
        if end.status != "skipped":
            # the first of them, where it is known
            first = schedule.next_slot_ms if schedule.next_slot_ms > decided else slot
            schedule.last_skip = Skipped(first, MISSED)
    schedule.decided_ms = slot
    schedule.next_slot_ms = fire.next_slot_ms
    schedule.blocked = None
    m.schedules.arm(schedule)
    return end


def _decide(m: Machine, schedule: Schedule, slot: int, auto_create: bool) -> SlotEnd:
    """The slot's message, or why there is none."""
    last = schedule.last_fire
    if schedule.spec.overlap == "skip" and last is not None:
        message = m.find(last.message)
        if message is not None and message.state <= LEASED:
            return _skip(m, schedule, slot, OVERLAP)
    draft = msgspec.structs.replace(schedule.spec.draft, key=slot_key(schedule.name, slot))
    made = _enqueue(m, schedule, draft, auto_create)
    if isinstance(made, Refusal):
        if made.code == "idempotency_conflict":
            return _skip(m, schedule, slot, KEY_TAKEN)
        return _block(m, schedule, made.code)
    m.touch(schedule)
    schedule.fired += 1
    schedule.last_fire = Fired(slot, made.message)
    return SlotEnd("fired", made.message)


def _skip(m: Machine, schedule: Schedule, slot: int, reason: str) -> SlotEnd:
    m.touch(schedule)
    schedule.skipped += 1
    schedule.last_skip = Skipped(slot, reason)
    return SlotEnd("skipped", code=reason)


def _block(m: Machine, schedule: Schedule, code: str) -> SlotEnd:
    """Nothing is decided: the leader tries again, after twice the time of the last try."""
    m.touch(schedule)
    before, now = schedule.blocked, m.clock_ms
    tries = 1 if before is None else before.tries + 1
    wait = min(SECOND_MS << min(tries - 1, 20), SCHEDULE_RETRY_MS_MAX)
    schedule.blocked = Blocked(code, now if before is None else before.since_ms, now + wait, tries)
    m.schedules.arm(schedule)
    return SlotEnd("blocked", code=code)
