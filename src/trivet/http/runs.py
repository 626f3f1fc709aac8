"""Runs: what they are made of, their events as a page, append, replay. The stream of events: `streaming.py`."""

from __future__ import annotations

import itertools
from typing import Any

from msgspec import UNSET, Raw

from trivet.errors import TrivetError, invalid
from trivet.http import build, content, leader, render, run_shapes, streaming
from trivet.http import schema as s
from trivet.http.call import Call, Reply
from trivet.http.codec import JSON, Codec
from trivet.http.describing import (
    AFTER_MESSAGE,
    CONSISTENCY,
    LIMIT,
    MAX_BYTES,
    Query,
    Stream,
    Whole,
    operation,
)
from trivet.http.queues import after_message
from trivet.limits import (
    INT64_MAX,
    LIST_LIMIT_DEFAULT,
    LIST_LIMIT_MAX,
    RUN_APPEND_BYTES_MAX,
    RUN_APPEND_MAX,
    RUN_APPEND_REQUEST_BYTES_MAX,
    RUN_EVENT_DATA_BYTES_MAX,
    RUN_REPLAY_MAX,
)
from trivet.machine import run_views
from trivet.machine.ids import message_id
from trivet.machine.run_commands import (
    AppendRunEvents,
    NewRunEvent,
    ReplayedOne,
    ReplayRun,
    RunEventsAppended,
    RunReplayed,
)
from trivet.machine.runs import REPLAY, TRANSITIONS
from trivet.node.broker import Committed

_APPEND = Codec(s.AppendEventsIn)
_REPLAY = Codec(s.ReplayRunIn)
STEPS = Whole("limit", "at most so many steps", 1, LIST_LIMIT_MAX, LIST_LIMIT_MAX)
EVENTS = Whole("limit", "of a page: at most so many events", 1, LIST_LIMIT_MAX, LIST_LIMIT_DEFAULT)
AFTER_EVENT = Whole("after", "only events behind this id; `Last-Event-ID` counts more", 0, INT64_MAX, 0)
AFTER_RUN = Query("after", "go on after this run: the `next` of the answer before")
RESERVED = frozenset((*TRANSITIONS, streaming.GAP))


def run_id_of(call: Call) -> str:
    return content.text(call.params[0], "/run_id")


@operation("List runs, oldest first", gives=run_shapes.Runs, query=(LIMIT, AFTER_RUN))
async def get_all(call: Call) -> Reply:
    limit = LIMIT.read(call.query)
    text = call.query.get("after", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise invalid("must be the `next` of an answer before", "/after")
    as_of, (found, following) = await call.look(
        lambda m: (m.applied_index, run_views.runs(m, limit, int(text)))
    )
    return call.seen(as_of, {"runs": found, "next": None if following is None else str(following)})


@operation(
    "A run: its steps, counts and timeline",
    note="`steps` are the messages that are still there; `counts` has all there ever were. `timeline` holds the "
    "newest 1000 transitions of its messages; the events of the run have them all.",
    gives=run_shapes.Run,
    query=(STEPS, AFTER_MESSAGE),
    problems=("run_not_found",),
)
async def get(call: Call) -> Reply:
    run_id = run_id_of(call)
    limit, after = STEPS.read(call.query), after_message(call)
    as_of, found = await call.look(lambda m: (m.applied_index, run_views.run(m, run_id, limit, after)))
    if found is None:
        raise run_not_found(run_id)
    found["timeline"] = [_moment(event, call.accept) for event in found["timeline"]]
    return call.seen(as_of, found)


def _moment(event: run_views.Event, media: str) -> Any:
    """One line of a timeline: the data's own fields beside the event's, without taking stored JSON apart."""
    head = {"id": event.id, "at_ms": event.at_ms, "type": event.type}
    if media == JSON:
        return Raw(render.encode(head, JSON)[:-1] + b"," + event.data[1:])
    return {**head, **render.json_value(event.data, media)}


# --- events -------------------------------------------------------------------------------------------


@operation(
    "Follow the events of a run (SSE), or read a page of them",
    note="Server-sent events by default: `id` is the position to go on from, on any node, with `Last-Event-ID` or "
    "`after`; `event` the type, `data` the JSON of the data. `event: gap` tells that the oldest events have left. "
    "With `Accept: application/json` a page.",
    gives=Stream("Server-sent events, until the node stops or loses the leader", run_shapes.RunEvents),
    query=(AFTER_EVENT, EVENTS, MAX_BYTES, CONSISTENCY),
    headers=("Last-Event-ID",),
    problems=("run_not_found", "overloaded"),
)
async def events(call: Call) -> Reply:
    run_id = run_id_of(call)
    after, limit, max_bytes = _position(call), EVENTS.read(call.query), MAX_BYTES.read(call.query)
    if call.accept == streaming.EVENT_STREAM:
        return await streaming.follow(call, run_id, after)
    if not call.local:
        other = await leader.elsewhere(call)
        if other is not None:
            return other
    as_of, page = await call.look(
        lambda m: (m.applied_index, run_views.events(m, run_id, after, limit, max_bytes))
    )
    if page is None:
        raise run_not_found(run_id)
    more = page.events and page.events[-1].id < page.next_id - 1
    told = {
        "events": [
            {"id": e.id, "at_ms": e.at_ms, "type": e.type, "data": render.json_value(e.data, call.accept)}
            for e in page.events
        ],
        "next": page.events[-1].id if more else None,
        "first_id": page.first_id,
    }
    return call.seen(as_of, told)


def _position(call: Call) -> int:
    text = call.request.headers.get("Last-Event-ID", "").strip()
    if not text:
        after: int = AFTER_EVENT.read(call.query)
        return after
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise invalid("must be the id of an event", "/Last-Event-ID")
    return int(text)


@operation(
    "Append events to a run",
    note="A repeated `event_id` is dropped: the answer is the first one's id, with `duplicate`.",
    takes=s.AppendEventsIn,
    gives={201: run_shapes.EventsAppended},
    problems=("run_not_found", "batch_too_large", "memory_pressure", "disk_full"),
    example={
        "events": [{"type": "token", "data": "Hel"}, {"type": "token", "data": "lo", "event_id": "t-2"}]
    },
)
async def append(call: Call) -> Reply:
    run_id = run_id_of(call)
    _bounded(len(call.body), RUN_APPEND_REQUEST_BYTES_MAX, "payload_too_large", "")
    given = call.decode(_APPEND)
    build.bounded_count(given.events, RUN_APPEND_MAX, "/events", what="events")
    made = tuple(_event(one, f"/events/{at}", call.typed) for at, one in enumerate(given.events))
    size = sum(
        len(one.data) + content.text_bytes(one.type) + content.text_bytes(one.event_id or "") for one in made
    )
    _bounded(size, RUN_APPEND_BYTES_MAX, "batch_too_large", "/events")
    committed = await call.submit(AppendRunEvents(run_id, made))
    reply = committed.answer.reply
    assert isinstance(reply, RunEventsAppended)
    told = [{"id": one.id, "duplicate": True} if one.duplicate else {"id": one.id} for one in reply.events]
    return call.written(committed, {"events": told}, 201)


def _bounded(size: int, limit: int, code: str, field: str) -> None:
    if size > limit:
        raise TrivetError(code, f"{size} bytes, at most {limit}", field=field, limit=limit)


def _event(given: s.RunEventIn, at: str, typed: bool) -> NewRunEvent:
    type = content.text(given.type, at + "/type")
    if any(ord(each) < 32 or ord(each) == 127 for each in type):
        raise invalid("holds a control character", at + "/type")
    if type in RESERVED:
        raise invalid(f'"{type}" is told by the cluster alone', at + "/type")
    data = b"null"
    if given.data is not UNSET:
        data = content.compact_json(given.data, at + "/data", typed=typed)
        _bounded(len(data), RUN_EVENT_DATA_BYTES_MAX, "payload_too_large", at + "/data")
    event_id = None if given.event_id is UNSET else content.text(given.event_id, at + "/event_id")
    return NewRunEvent(type, data, event_id)


# --- replay -------------------------------------------------------------------------------------------


@operation(
    "Enqueue the finished steps of a run again, or one step",
    note="As new messages, without their idempotency key, that name their origin. What they depend on among the "
    "replayed is mapped to the new ones. A message that has a replay is passed over: its replay stands for it.",
    takes=s.ReplayRunIn,
    optional=True,
    gives={201: run_shapes.RunReplayed},
    problems=(
        "run_not_found",
        "step_not_found",
        "queue_paused",
        "queue_full",
        "memory_pressure",
        "disk_full",
    ),
    example={"step_id": "write"},
)
async def replay(call: Call) -> Reply:
    run_id = run_id_of(call)
    given = call.decode(_REPLAY, optional=True)
    step_id = None if given.step_id is UNSET else content.text(given.step_id, "/step_id")
    done, last = await _replay(call, run_id, step_id)
    told = [
        {"id": message_id(one.message), "origin": {"type": REPLAY, "message_id": message_id(one.origin)}}
        for one in done
    ]
    return call.written(last, {"messages": told}, 201)


async def _replay(call: Call, run_id: str, step_id: str | None) -> tuple[list[ReplayedOne], Committed]:
    """Bounded commands until all is replayed (R25). What is born meanwhile is left alone: the first step says up
    to where.
    """
    done: list[ReplayedOne] = []
    command, last = ReplayRun(run_id, step_id, RUN_REPLAY_MAX), None
    whole = call.fingerprint(command)
    for step in itertools.count():
        try:
            committed = await call.submit_step(command, whole, step)
        except TrivetError as error:
            if last is None or error.code not in ("queue_full", "queue_paused"):
                raise
            return done, last  # as many as there was room for
        last, reply = committed, committed.answer.reply
        assert isinstance(reply, RunReplayed)
        done.extend(reply.messages)
        if reply.next is None:
            break
        command = ReplayRun(run_id, step_id, RUN_REPLAY_MAX, reply.next, reply.upto)
    assert last is not None
    return done, last


def run_not_found(run_id: str) -> TrivetError:
    return TrivetError("run_not_found", f'there is no run "{run_id}"')
