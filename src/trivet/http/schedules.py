"""Schedules: what is due when is computed here and by the leader, never in the machine (R2)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from trivet.errors import TrivetError, invalid
from trivet.http import build, content, render
from trivet.http import schedule_shapes as s
from trivet.http.call import Call, Reply
from trivet.http.codec import BIG_BYTES, Codec
from trivet.http.describing import LIMIT, Query, operation
from trivet.http.queues import etag, number
from trivet.http.schema import In
from trivet.http.shapes import Removed
from trivet.machine import schedule_views
from trivet.machine.commands import (
    Command,
    DeleteSchedule,
    Draft,
    PauseSchedule,
    PutSchedule,
    RunSchedule,
    ScheduleSpec,
)
from trivet.machine.ids import message_id
from trivet.machine.replies import ScheduleRun, ScheduleSaved
from trivet.node import slots

if TYPE_CHECKING:
    from trivet.machine.core import Machine

AFTER = Query("after", "go on after this schedule: the `next` of the answer before")
NEXT_FIRES = 5

_SCHEDULE = Codec(s.ScheduleIn)
_OUTLINE = Codec(s.ScheduleOutlineIn)
_NOTHING = Codec(In)


def name_of(call: Call) -> str:
    return content.queue_name(call.params[0], "/name", "a schedule's")


@operation(
    "Create a schedule, or replace it",
    note="201 if it is new. While cron, every_ms and timezone stay the same, so do its slots: a PUT at each deployment "
    "loses and doubles none. Another timetable begins now. What is not given has its default; `paused` stays.",
    takes=s.ScheduleIn,
    gives={200: s.Schedule, 201: s.Schedule},
    problems=("revision_changed", "too_many_schedules", "queue_not_found", "payload_too_large"),
    headers=("If-Match",),
    example={
        "cron": "30 2 * * *",
        "timezone": "Europe/Berlin",
        "queue": "reports",
        "message": {"body": {"kind": "daily"}},
    },
)
async def put(call: Call) -> Reply:
    name = name_of(call)
    if len(call.body) > BIG_BYTES:
        outline = _OUTLINE.decode(call.body, call.media)
        if outline.message is not UNSET and outline.message.body is not UNSET:
            content.check_weight(bytes(outline.message.body), "/message/body", typed=call.typed)
    spec = _spec(call, call.decode(_SCHEDULE))
    auto_create = call.services.broker.auto_create_queues
    return await _saved(call, name, PutSchedule(name, spec, call.if_match(), auto_create))


def _spec(call: Call, given: s.ScheduleIn) -> ScheduleSpec:
    cron = None if given.cron is UNSET else given.cron
    every_ms = None if given.every_ms is UNSET else given.every_ms
    if (cron is None) == (every_ms is None):
        raise invalid("either cron or every_ms", "/cron" if cron is None else "/every_ms")
    try:
        slots.zone(given.timezone)
        if cron is not None:
            slots.cron(cron, given.timezone)
    except slots.BadTimetable as error:
        raise invalid(str(error), "/" + error.field) from None
    return ScheduleSpec(
        content.queue_name(given.queue, "/queue"),
        _draft(call, given),
        cron,
        every_ms,
        given.timezone,
        build.choice(given.misfire, s.MISFIRES, "/misfire"),
        build.choice(given.overlap, s.OVERLAPS, "/overlap"),
    )


def _draft(call: Call, given: s.ScheduleIn) -> Draft:
    if given.message is UNSET:
        return Draft()
    for name in s.NOT_OF_A_SCHEDULE:
        if getattr(given.message, name) is not UNSET:
            raise invalid(
                "a schedule's message is made again at each slot, under a key of its own", f"/message/{name}"
            )
    return build.draft(given.message, "/message", typed=call.typed, now_ms=call.services.broker.now_ms)


@operation(
    "Stop a schedule's slots",
    note="Slots while it is paused get no message, then or later.",
    takes=In,
    optional=True,
    gives=s.Schedule,
    problems=("schedule_not_found",),
)
async def pause(call: Call) -> Reply:
    return await _paused(call, True)


@operation(
    "Go on with the next slot",
    takes=In,
    optional=True,
    gives=s.Schedule,
    problems=("schedule_not_found",),
)
async def resume(call: Call) -> Reply:
    return await _paused(call, False)


async def _paused(call: Call, paused: bool) -> Reply:
    name = name_of(call)
    call.decode(_NOTHING, optional=True)
    return await _saved(call, name, PauseSchedule(name, paused))


async def _saved(call: Call, name: str, command: Command) -> Reply:
    """A change answers with the schedule as it is after its entry."""
    committed = await call.submit(command, lambda machine, _: schedule_views.schedule(machine, name))
    reply = committed.answer.reply
    told: dict[str, Any] = {"name": name}  # a repeat of a request whose schedule is gone since
    if committed.shown is not None:
        told = await _whole(call, committed.shown)
    status = 200
    if isinstance(reply, ScheduleSaved):
        told["revision"] = reply.revision  # of a repeat: the one its first made (R12), so If-Match stays safe
        status = 201 if reply.created else 200
    return call.written(committed, told, status, etag(told))


@operation("A schedule, with its next five fires", gives=s.Schedule, problems=("schedule_not_found",))
async def get(call: Call) -> Reply:
    name = name_of(call)
    as_of, told = await call.look(lambda m: (m.applied_index, schedule_views.schedule(m, name)))
    if told is None:
        raise TrivetError("schedule_not_found", f'there is no schedule "{name}"')
    return call.seen(as_of, await _whole(call, told), etag(told))


@operation(
    "Schedules by name, without their messages",
    gives=s.Schedules,
    query=(LIMIT, AFTER),
)
async def get_all(call: Call) -> Reply:
    limit, after = LIMIT.read(call.query), call.query.get("after")

    def view(m: Machine) -> tuple[int, list[dict[str, Any]], str | None]:
        return m.applied_index, *schedule_views.schedules(m, limit, after)

    as_of, found, following = await call.look(view)
    for told in found:
        await _add_next_fires(call, told)
    return call.seen(as_of, {"schedules": found, "next": following})


@operation(
    "Delete a schedule; the messages it has made stay",
    takes=In,
    optional=True,
    gives=Removed,
    problems=("schedule_not_found", "revision_changed"),
    headers=("If-Match",),
)
async def delete(call: Call) -> Reply:
    name = name_of(call)
    call.decode(_NOTHING, optional=True)
    committed = await call.submit(DeleteSchedule(name, call.if_match()))
    return call.written(committed, {"removed": 1})


@operation(
    "Make a schedule's message now, by hand",
    note="It takes no slot: what is due is due all the same. Also while the schedule is paused, and whatever is "
    "unfinished. Refused as an enqueue would be.",
    takes=In,
    optional=True,
    gives={201: s.ScheduleRun},
    problems=(
        *("schedule_not_found", "queue_not_found", "queue_paused", "queue_full", "too_many_queues"),
        *("memory_pressure", "disk_full"),
    ),
)
async def run(call: Call) -> Reply:
    name = name_of(call)
    call.decode(_NOTHING, optional=True)
    committed = await call.submit(RunSchedule(name, call.services.broker.auto_create_queues))
    reply = committed.answer.reply
    assert isinstance(reply, ScheduleRun)
    made = message_id(reply.message)
    told = {"message_id": made, "messages": [{"id": made, "state": reply.state, "duplicate": False}]}
    return call.written(committed, told, 201)


# --- showing ------------------------------------------------------------------------------------------


async def _whole(call: Call, told: dict[str, Any]) -> dict[str, Any]:
    message = render.message(told["message"], call.accept)
    if "backoff" in message:
        message["backoff"] = {key: number(value) for key, value in message["backoff"].items()}
    await _add_next_fires(call, told)
    return told


async def _add_next_fires(call: Call, told: dict[str, Any]) -> None:
    """After each slot the loop gets a turn: a rare date may take some milliseconds to find (R25)."""
    found: list[int] = []
    try:
        table = slots.timetable(told["cron"], told["every_ms"], told["timezone"], told["anchor_at_ms"])
    except slots.BadTimetable:  # taken by a node with other zones; its leader says so in `blocked`
        table = None
    at = max(call.services.broker.now_ms, told["decided_at_ms"])
    while table is not None and len(found) < NEXT_FIRES:
        following = table.after(at)
        await asyncio.sleep(0)
        if following is None:
            break
        found.append(following)
        at = following
    told["next_fires_at_ms"] = found
