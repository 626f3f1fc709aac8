"""Reads of schedules for the HTTP layer (see `views.py`). What a cron expression means is not known here."""

from __future__ import annotations

from heapq import nsmallest
from typing import TYPE_CHECKING, Any

from trivet.machine.commands import Draft
from trivet.machine.ids import message_id
from trivet.machine.schedules import Schedule
from trivet.machine.state import extras_of
from trivet.machine.views import Body, backoff

if TYPE_CHECKING:
    from trivet.machine.core import Machine

_PLAIN = ("content_type", "headers", "ttl_ms", "group")
_EXTRAS = (
    "run_id", "step_id", "parent_step_id", "tenant_id", "user_id", "traceparent", "max_attempts", "lease_ms",
    "retention_ms",
)  # fmt: skip


def schedule(m: Machine, name: str) -> dict[str, Any] | None:
    """A schedule with its message; None if there is none. `message` holds a `Body` and maybe a backoff."""
    found = m.schedules.by_name.get(name)
    return None if found is None else {**shown(found), "message": draft(found.spec.draft)}


def schedules(m: Machine, limit: int, after: str | None) -> tuple[list[dict[str, Any]], str | None]:
    """At most `limit` schedules by name, without their messages; and the name to go on after, None at the end."""
    names = nsmallest(limit + 1, (name for name in m.schedules.by_name if after is None or name > after))
    page = names[:limit]
    return [shown(m.schedules.by_name[name]) for name in page], page[-1] if len(names) > limit else None


def shown(found: Schedule) -> dict[str, Any]:
    """All but the message. `next_slot_at_ms` is None until the leader has computed it, and while paused."""
    spec, last, skip, blocked = found.spec, found.last_fire, found.last_skip, found.blocked
    known = found.next_slot_ms > found.decided_ms and not found.paused
    return {
        "name": found.name,
        "cron": spec.cron,
        "every_ms": spec.every_ms,
        "timezone": spec.timezone,
        "queue": spec.queue,
        "misfire": spec.misfire,
        "overlap": spec.overlap,
        "paused": found.paused,
        "revision": found.revision,
        "created_at_ms": found.created_at_ms,
        "anchor_at_ms": found.anchor_ms,
        "decided_at_ms": found.decided_ms,
        "next_slot_at_ms": found.next_slot_ms if known else None,
        "fired": found.fired,
        "skipped": found.skipped,
        "last_fire": None
        if last is None
        else {"slot_ms": last.slot_ms, "message_id": message_id(last.message), "by_hand": last.by_hand},
        "last_skip": None if skip is None else {"slot_ms": skip.slot_ms, "reason": skip.reason},
        "blocked": None
        if blocked is None
        else {
            "code": blocked.code,
            "since_at_ms": blocked.since_ms,
            "retry_at_ms": blocked.retry_at_ms,
            "tries": blocked.tries,
        },
    }


def draft(told: Draft) -> dict[str, Any]:
    """A message as its producer wrote it: the fields that were given. Sent back it makes the same message."""
    made: dict[str, Any] = {"body": Body(told.body, told.codec, told.content_type)}
    made.update({name: value for name in _PLAIN if (value := getattr(told, name)) is not None})
    if told.priority:
        made["priority"] = told.priority
    if told.delay_ms:
        made["delay_ms"] = told.delay_ms
    extras = extras_of(told)
    made.update({name: value for name in _EXTRAS if (value := getattr(extras, name)) is not None})
    if extras.backoff is not None:
        made["backoff"] = backoff(extras.backoff)
    return made
