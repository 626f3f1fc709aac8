"""Flows: steps that wait for each other, made in one call, and what undoes them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Any

from msgspec import UNSET

from trivet.errors import TrivetError, invalid
from trivet.http import build, content, shapes
from trivet.http import schema as s
from trivet.http.call import Call, Reply
from trivet.http.codec import BIG_BYTES, Codec
from trivet.http.describing import LIMIT, WAIT_MS, Choice, Query, operation
from trivet.limits import DEPENDS_ON_MAX, FLOW_STEPS_MAX
from trivet.machine import flow_views
from trivet.machine.commands import CreateFlow, Draft, EnqueueTo, FlowStepDraft
from trivet.machine.ids import flow_id, message_id, parse_flow_id
from trivet.machine.replies import FlowCreated

STATE = Choice("state", "only flows in this state", flow_views.FLOW_STATE_NAMES)
AFTER = Query("after", "go on after this flow: the `next` of the answer before")

_PARTS = Codec(s.FlowPartsIn)
_STEP = Codec(s.FlowStepIn)
_OUTLINE = Codec(s.FlowStepOutlineIn)

EDGES_PER_TURN = 5_000
"""Dependencies looked at before the loop gets a turn."""


@operation(
    "Make a flow: messages that wait for each other, and what undoes them",
    note="One log entry, all or nothing. The steps come in any order. If any step has a `compensate`, the flow is a "
    "saga: when a step dies or is cancelled, nothing new starts, what is leased runs out, and the compensations of "
    "the finished steps are enqueued, each to run after the one before, the last finished first.",
    takes=s.FlowIn,
    gives={201: shapes.FlowMade},
    problems=(
        *("queue_not_found", "queue_paused", "queue_full", "too_many_queues", "batch_too_large"),
        *("memory_pressure", "disk_full"),
    ),
    example={
        "steps": [
            {"step_id": "pay", "queue": "payments", "compensate": {"queue": "refunds"}},
            {"step_id": "ship", "queue": "parcels", "depends_on": ["pay"]},
        ]
    },
)
async def create(call: Call) -> Reply:
    given = call.decode(_PARTS)
    run_id = None if given.run_id is UNSET else content.text(given.run_id, "/run_id")
    steps = await _steps(call, given.steps)
    after = await _parents(steps)
    order = await _order(after, [step.step_id for step, _, _ in steps])
    command = CreateFlow(
        tuple(
            FlowStepDraft(step.step_id, step.queue, draft, parents, undo)
            for (step, draft, undo), parents in zip(steps, after, strict=True)
        ),
        order,
        run_id,
        call.services.broker.auto_create_queues,
    )
    committed = await call.submit(command)
    reply = committed.answer.reply
    assert isinstance(reply, FlowCreated)
    told = {
        "id": flow_id(reply.flow),
        "run_id": reply.run_id,
        "steps": [
            {"step_id": step.step_id, "message_id": message_id(one.message), "state": one.state}
            for (step, _, _), one in zip(steps, reply.steps, strict=True)
        ],
    }
    return call.written(committed, told, 201)


# --- reading the request ------------------------------------------------------------------------------

_Step = tuple[s.FlowStepIn, Draft, EnqueueTo | None]


async def _steps(call: Call, raw: Sequence[Any]) -> list[_Step]:
    """A step at a time."""
    if not raw:
        raise invalid("a flow has at least one step", "/steps")
    build.bounded_count(raw, FLOW_STEPS_MAX, "/steps", what="steps")
    made = await build.part_by_part(raw, lambda data, at: _step(call, data, f"/steps/{at}"))
    drafts = [draft for _, draft, _ in made] + [undo.draft for _, _, undo in made if undo is not None]
    build.bounded_batch(tuple(drafts), "/steps")
    return made


def _step(call: Call, data: bytes, at: str) -> _Step:
    try:
        if len(data) > BIG_BYTES:
            _check_weights(call, data)
        step = _STEP.decode(data, call.media)
    except TrivetError as error:
        error.field = at + (error.field or "")
        raise
    content.text(step.step_id, at + "/step_id")
    content.queue_name(step.queue, at + "/queue")
    if step.run_id is not UNSET:
        raise invalid("the run is the flow's, not a step's", at + "/run_id")
    undo = None
    if step.compensate is not UNSET:
        undo = _compensation(call, step.compensate, at + "/compensate")
    depends_on, step.depends_on = step.depends_on, UNSET  # names of steps, not ids of messages
    draft = _draft(call, step, at)
    step.depends_on = depends_on
    return step, draft, undo


def _check_weights(call: Call, data: bytes) -> None:
    outline = _OUTLINE.decode(data, call.media)
    if outline.body is not UNSET:
        content.check_weight(bytes(outline.body), "/body", typed=call.typed)
    if outline.compensate is not UNSET and outline.compensate.body is not UNSET:
        content.check_weight(bytes(outline.compensate.body), "/compensate/body", typed=call.typed)


def _compensation(call: Call, given: s.CompensationIn, at: str) -> EnqueueTo:
    for name in s.NOT_OF_A_COMPENSATION:
        if getattr(given, name) is not UNSET:
            raise invalid("a compensation takes this from its step, or not at all", f"{at}/{name}")
    return EnqueueTo(content.queue_name(given.queue, at + "/queue"), _draft(call, given, at))


def _draft(call: Call, given: s.MessageFields, at: str) -> Draft:
    return build.draft(given, at, typed=call.typed, now_ms=call.services.broker.now_ms)


async def _parents(steps: Sequence[_Step]) -> list[tuple[int, ...]]:
    """The positions of the steps that each step depends on; the same one twice is one dependency."""
    positions: dict[str, int] = {}
    for at, (step, _, _) in enumerate(steps):
        if positions.setdefault(step.step_id, at) != at:
            raise invalid(f'there are two steps "{step.step_id}"', f"/steps/{at}/step_id")
    after: list[tuple[int, ...]] = []
    edges = 0
    for at, (step, _, _) in enumerate(steps):
        names = [] if step.depends_on is UNSET else step.depends_on
        if len(names) > DEPENDS_ON_MAX:
            field = f"/steps/{at}/depends_on"
            raise invalid(f"at most {DEPENDS_ON_MAX} dependencies", field, DEPENDS_ON_MAX)
        for which, name in enumerate(names):
            if name not in positions:
                raise invalid(f'there is no step "{name[:64]}"', f"/steps/{at}/depends_on/{which}")
        after.append(tuple(dict.fromkeys(positions[name] for name in names)))
        edges += len(names)
        if edges > EDGES_PER_TURN:
            edges = 0
            await asyncio.sleep(0)
    return after


async def _order(after: Sequence[tuple[int, ...]], names: Sequence[str]) -> tuple[int, ...]:
    """The positions so that none comes before one it depends on, else as they were given."""
    children: list[list[int]] = [[] for _ in after]
    for at, parents in enumerate(after):
        for parent in parents:
            children[parent].append(at)
    await asyncio.sleep(0)
    waits = [len(parents) for parents in after]
    free = [at for at, count in enumerate(waits) if not count]
    heapify(free)
    order: list[int] = []
    edges = 0
    while free:
        at = heappop(free)
        order.append(at)
        for child in children[at]:
            waits[child] -= 1
            if not waits[child]:
                heappush(free, child)
        edges += len(children[at])
        if edges > EDGES_PER_TURN:
            edges = 0
            await asyncio.sleep(0)
    if len(order) < len(after):
        at = _on_a_cycle(after, waits)
        raise invalid(f'step "{names[at][:64]}" waits for itself in the end', f"/steps/{at}/depends_on")
    return tuple(order)


def _on_a_cycle(after: Sequence[tuple[int, ...]], waits: Sequence[int]) -> int:
    """A step that waits for itself: going from parent to parent among those that never start ends in one."""
    at = next(at for at, count in enumerate(waits) if count)
    seen: set[int] = set()
    while at not in seen:
        seen.add(at)
        at = next(parent for parent in after[at] if waits[parent])
    return at


# --- reading flows ------------------------------------------------------------------------------------


def flow_not_found(text: str) -> TrivetError:
    return TrivetError("flow_not_found", f'there is no flow "{text[:64]}"')


@operation(
    "A flow, its steps and what became of each",
    note="With `wait_ms` once it has ended. A flow is there for an hour after its end.",
    gives=shapes.Flow,
    query=(WAIT_MS,),
    problems=("flow_not_found", "overloaded"),
)
async def get(call: Call) -> Reply:
    number = parse_flow_id(call.params[0])
    if number is None:
        raise flow_not_found(call.params[0])
    wait_ms = WAIT_MS.read(call.query)
    found = await call.services.waiters.message(
        number, wait_ms, lambda machine: _looked_up(machine, number), local=call.local
    )
    if found is None:
        raise flow_not_found(flow_id(number))
    as_of = found.pop("as_of")
    return call.seen(as_of, found)


def _looked_up(machine: Any, number: int) -> dict[str, Any] | None:
    found = flow_views.flow(machine, number)
    return None if found is None else {**found, "as_of": machine.applied_index}


@operation("Flows, oldest first", gives=shapes.Flows, query=(LIMIT, AFTER, STATE))
async def get_all(call: Call) -> Reply:
    limit, state = LIMIT.read(call.query), STATE.read(call.query)
    after = call.query.get("after")
    number = 0 if after is None else parse_flow_id(after)
    if number is None:
        raise invalid("after is no flow id", "/after")
    as_of, page = await call.look(lambda m: (m.applied_index, flow_views.flows(m, limit, number, state)))
    return call.seen(as_of, {"flows": page[0], "next": page[1]})
