"""Schedules of a machine beside those of the model."""

from __future__ import annotations

from typing import Any

from msgspec.structs import astuple

from trivet.machine.core import Machine
from trivet.machine.replies import Reply, ScheduleRun, ScheduleSaved, SlotsDecided


def plain_of_schedules(reply: Reply) -> tuple[Any, ...] | None:
    match reply:
        case ScheduleSaved():
            return ("schedule", reply.name, reply.created, reply.revision)
        case ScheduleRun():
            return ("run", reply.message, reply.state)
        case SlotsDecided():
            return ("slots", [(end.status, end.message, end.code) for end in reply.results])
    return None


def numbers_of_schedules(reply: Reply, last_number: int) -> list[int] | None:
    """The new messages of a reply of schedules; `last_number`: of the one made last."""
    if isinstance(reply, ScheduleRun):
        return [reply.message]
    if isinstance(reply, SlotsDecided):
        made = (end.message for end in reply.results if end.message is not None)
        return [number for number in made if number > last_number]
    return None


def refusals_of_schedules(reply: Reply) -> list[bool]:
    """Of each step, whether its queue refused it."""
    if not isinstance(reply, SlotsDecided):
        return []
    return [end.status == "blocked" or end.code == "key_taken" for end in reply.results]


def compare_schedules(machine: Machine, model: Any) -> None:
    found = machine.schedules.by_name
    assert sorted(found) == sorted(model.schedules)
    for name, one in found.items():
        blocked = one.blocked
        shown = {
            "spec": one.spec,
            "revision": one.revision,
            "paused": one.paused,
            "decided": one.decided_ms,
            "next": one.next_slot_ms,
            "anchor": one.anchor_ms,
            "since": one.created_at_ms,
            "fired": one.fired,
            "skipped": one.skipped,
            "last": None if one.last_fire is None else astuple(one.last_fire),
            "skip": None if one.last_skip is None else astuple(one.last_skip),
            "blocked": None
            if blocked is None
            else (blocked.code, blocked.since_ms, blocked.tries, blocked.retry_at_ms),
        }
        assert shown == model.shown_schedule(name), name
