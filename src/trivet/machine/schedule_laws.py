"""The laws of schedules, recounted: part of `invariants.check`, which shares no code with the transitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trivet.machine.core import Machine
    from trivet.machine.schedules import Schedule


def broken(m: Machine) -> list[str]:
    """Every broken law of schedules in one line each."""
    table = m.schedules
    found: list[str] = []
    size = 0
    wanted: dict[int, Schedule] = {}
    for name, schedule in table.by_name.items():
        found += [f"schedule {name}: {law}" for law in _broken_of(m, name, schedule)]
        draft = schedule.spec.draft
        size += len(draft.body)
        size += sum(len(k.encode()) + len(v.encode()) for k, v in (draft.headers or {}).items())
        if not schedule.paused:
            at = schedule.next_slot_ms
            if schedule.blocked is not None and schedule.blocked.retry_at_ms > at:
                at = schedule.blocked.retry_at_ms
            wanted[(at << 64) + schedule.number] = schedule
            if schedule.due_key != (at << 64) + schedule.number:
                found.append(f"schedule {name}: looked at by {schedule.due_key >> 64}, recounted {at}")
        elif schedule.due_key:
            found.append(f"schedule {name}: paused and due")
    if table.bytes != size:
        found.append(f"bytes of schedules: {table.bytes}, recounted {size}")
    held = {key: record for key, record in table.due.entries() if record.due_key == key}
    if sorted(held) != sorted(wanted) or any(held[key] is not wanted[key] for key in held):
        found.append(f"schedules due: {sorted(held)}, recounted {sorted(wanted)}")
    if table.due.live != len(wanted):
        found.append(f"schedules due, count: {table.due.live}, recounted {len(wanted)}")
    return found


def _broken_of(m: Machine, name: str, schedule: Schedule) -> list[str]:
    spec = schedule.spec
    laws = {
        "filed wrongly": schedule.name == name,
        "number from the counter": 0 < schedule.number < m.next_number,
        "revision from the counter": 0 < schedule.revision < m.next_revision,
        "cron or every_ms": (spec.cron is None) != (spec.every_ms is None),
        "slots decided in the future": schedule.created_at_ms <= schedule.decided_ms <= m.clock_ms,
        "the next slot is decided already": schedule.next_slot_ms >= schedule.decided_ms,
        "anchored in the future": schedule.created_at_ms <= schedule.anchor_ms <= schedule.decided_ms,
        "blocked and paused": schedule.blocked is None or not schedule.paused,
        "fired without a message": not schedule.fired or schedule.last_fire is not None,
        "skipped without a reason": (schedule.skipped == 0) == (schedule.last_skip is None),
    }
    last = schedule.last_fire
    if last is not None:
        laws["message from the counter"] = last.message < m.next_number
        laws["a slot fired and not decided"] = last.by_hand or last.slot_ms <= schedule.decided_ms
    return [law for law, holds in laws.items() if not holds]
