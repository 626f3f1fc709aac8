"""Flows: all messages of a flow in one command, and the work its failures cause, in bounded pieces (R25).

A flow in which some step has a compensation is a saga. When one of its steps dies or is cancelled, nothing
new starts: dependents die by their rule, whatever else waits is cancelled, what is leased runs out. With the
last end, in the same entry, the compensations of the finished steps are enqueued, the last finished first,
each depending on the one before, so that they also run in that order. Without compensations the branches
that do not depend on the failed step go on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from trivet.limits import FLOW_RETENTION_MS, QUEUES_MAX
from trivet.machine import admin, dependencies, flow_steps, ids, intake, transitions
from trivet.machine.commands import CreateFlow, Draft, FlowStepDraft
from trivet.machine.flow_record import (
    IDLE,
    OPEN,
    STOPPING,
    UNDOING,
    Flow,
    FlowData,
    FlowStep,
    to_undo,
    weight,
)
from trivet.machine.replies import EnqueuedOne, FlowCreated, Refusal
from trivet.machine.state import DEAD, LEASED, WAITING_MAX, WAKE_FLOW, Queue, extras_of

if TYPE_CHECKING:
    from trivet.machine.core import Machine

STEPS_PER_THING = 16
"""How many steps may be forgotten for what dropping one record costs (R25)."""


def create_flow(m: Machine, command: CreateFlow) -> FlowCreated | Refusal:
    """All messages or none. Refuses as an enqueue does; and `invalid_argument` what is no order of steps,
    `idempotency_conflict` a key that another message has: a flow is made of its own messages."""
    refusal = _check_order(command) or _check_queues(m, command)
    if refusal is not None:
        return refusal
    entries = [(step.queue, step.draft) for step in command.steps]
    planned = intake.plan(m, entries, command.auto_create, "/steps", {})
    if isinstance(planned, Refusal):
        return planned
    for at in range(len(command.steps)):
        if at in planned.duplicates:
            field = f"/steps/{at}/idempotency_key"
            return Refusal("idempotency_conflict", "a message with this key is there already", field)
    for message in planned.displaced:
        transitions.finish(m, message, DEAD, reason="queue_full")
    return _make(m, command)


def _check_order(command: CreateFlow) -> Refusal | None:
    """`order` names each step once, and no step before one that it waits for."""
    made = [False] * len(command.steps)
    if len(command.order) == len(made):
        for at in command.order:
            if not 0 <= at < len(made) or made[at]:
                break
            if not all(0 <= parent < len(made) and made[parent] for parent in command.steps[at].after):
                break
            made[at] = True
    if not all(made) or not made or len({step.step_id for step in command.steps}) < len(made):
        return Refusal("invalid_argument", "the steps have no order", "/steps")
    return None


def _check_queues(m: Machine, command: CreateFlow) -> Refusal | None:
    """The queues of the compensations are made with the flow: later nothing may refuse them."""
    new: dict[str, None] = {}
    for at, step in enumerate(command.steps):
        if step.queue not in m.queues:
            new[step.queue] = None
        if step.compensate is not None and step.compensate.queue not in m.queues:
            new[step.compensate.queue] = None
            if not command.auto_create:
                name, field = step.compensate.queue, f"/steps/{at}/compensate/queue"
                return Refusal("queue_not_found", f"no queue {name!r}", field)
    if command.auto_create and len(m.queues) + len(new) > QUEUES_MAX:
        return Refusal("too_many_queues", "no room for another queue", None, QUEUES_MAX)
    return None


def _make(m: Machine, command: CreateFlow) -> FlowCreated:
    number = m.new_number()
    flow_id = ids.flow_id(number)
    run_id = flow_id if command.run_id is None else command.run_id
    saga = any(step.compensate is not None for step in command.steps)
    made: dict[int, EnqueuedOne] = {}
    for at in command.order:
        step = command.steps[at]
        draft = _draft(step, run_id, tuple([made[parent].message for parent in step.after]))
        made[at] = _enqueue(m, step.queue, draft, (flow_steps.SAGA if saga else flow_steps.FLOW, flow_id))
        if step.compensate is not None:
            _queue(m, step.compensate.queue)
    steps = [
        FlowStep(step.step_id, step.queue, made[at].message, step.after, step.compensate)
        for at, step in enumerate(command.steps)
    ]
    flow = Flow(number, run_id, saga, m.clock_ms, steps, m.walk_mark)
    _file(m, flow)
    return FlowCreated(number, run_id, tuple([made[at] for at in range(len(steps))]))


def _draft(step: FlowStepDraft, run_id: str, depends_on: tuple[int, ...]) -> Draft:
    extras = replace(extras_of(step.draft), run_id=run_id, step_id=step.step_id, depends_on=depends_on)
    return replace(step.draft, extras=extras)


def _enqueue(m: Machine, name: str, draft: Draft, origin: tuple[str, str]) -> EnqueuedOne:
    return intake.create(m, _queue(m, name), draft, origin=origin)


def _queue(m: Machine, name: str) -> Queue:
    return m.queues.get(name) or admin.create(m, name)


def _file(m: Machine, flow: Flow) -> None:
    """Everything derived of a flow."""
    m.flow_index.add(flow.number, flow)
    for at, step in enumerate(flow.steps):
        m.flow_steps[step.message] = flow, at
        if step.compensation:
            m.flow_steps[step.compensation] = flow, ~at
    if flow.state == UNDOING:
        flow.left = sum(1 for step in flow.steps if step.compensation and step.compensated == OPEN)
    else:
        flow.left = sum(1 for step in flow.steps if step.state == OPEN)
    if flow.cursor != IDLE:
        m.flow_work.add(flow.number, flow)
    elif flow.state > UNDOING:
        _keep(m, flow)


def load_flow(m: Machine, data: FlowData) -> None:
    """A flow of a snapshot, in any order."""
    flow = Flow(data.number, data.run_id, data.saga, data.created_at_ms, data.steps, 0)
    flow.state, flow.cursor = data.state, data.cursor
    flow.ended_at_ms, flow.place = data.ended_at_ms, data.place
    _file(m, flow)


# --- what flows owe -----------------------------------------------------------------------------------


def settle(m: Machine, budget: int) -> int:
    """Tell dependents of ends and do what flows owe, at most `budget` things; answers how many."""
    handled = 0
    while handled < budget:
        done = dependencies.resolve(m, budget - handled)
        done += _work(m, budget - handled - done)
        if not done:
            break
        handled += done
    return handled


def _work(m: Machine, budget: int) -> int:
    handled = 0
    while handled < budget:
        flow = m.flow_work.first()
        if flow is None:
            break
        m.touch(flow)
        left = budget - handled
        if flow.state == STOPPING:
            handled += _stop_some(m, flow, left)
        elif flow.state == UNDOING:
            handled += _undo_some(m, flow, left)
        else:
            handled += _give_back_some(m, flow, left)
    return handled


def _stop_some(m: Machine, flow: Flow, budget: int) -> int:
    """Nothing new starts: end what waits, parents before those that depend on them."""
    done = 0
    while done < budget and flow.cursor < len(flow.steps):
        step = flow.steps[flow.cursor]
        flow.cursor += 1
        done += 1
        message = m.find(step.message)
        if step.state == OPEN and message is not None and message.state <= WAITING_MAX:
            flow_steps.stop(m, message)
            if flow.state != STOPPING:
                return done
    if flow.cursor == len(flow.steps):
        flow_steps.rest(m, flow)
        done += 1
    return done


def _undo_some(m: Machine, flow: Flow, budget: int) -> int:
    """Enqueue compensations, each to run after the one before, however that ends."""
    wanted = to_undo(flow)
    done = 0
    while done < budget and flow.cursor < len(wanted):
        at = wanted[flow.cursor]
        step = flow.steps[at]
        before = flow.steps[wanted[flow.cursor - 1]].compensation if flow.cursor else 0
        flow.cursor += 1
        done += 2  # making a message takes twice as long as ending one
        to = step.compensate
        assert to is not None
        extras = replace(
            extras_of(to.draft),
            run_id=flow.run_id,
            step_id=step.step_id,
            depends_on=(before,) if before else (),
            on_dependency_failure="run",
        )
        origin = flow_steps.COMPENSATION, ids.flow_id(flow.number)
        step.compensation = _enqueue(m, to.queue, replace(to.draft, extras=extras), origin).message
        m.flow_steps[step.compensation] = flow, ~at
        flow.left += 1
    if flow.cursor == len(wanted):
        flow_steps.rest(m, flow)
        done += 1
        if not flow.left:
            flow_steps.go_on(m, flow)
    return done


def _give_back_some(m: Machine, flow: Flow, budget: int) -> int:
    """The flow ended: from now on its messages are kept as their queues say; then so is the flow."""
    count = len(flow.steps)
    done = 0
    while done < budget and flow.cursor < 2 * count:
        step = flow.steps[flow.cursor % count]
        message = m.find(step.message if flow.cursor < count else step.compensation)
        flow.cursor += 1
        done += 1
        if message is not None and message.state > LEASED and not message.due_at_ms:
            transitions.give_back(m, message)
    if flow.cursor == 2 * count:
        flow_steps.rest(m, flow)
        _keep(m, flow)
        done += 1
    return done


# --- retention ----------------------------------------------------------------------------------------


def _keep(m: Machine, flow: Flow) -> None:
    flow.size = weight(flow)
    flow.end_key = flow.place
    m.retained.push(flow.place, flow)
    m.retained_bytes += flow.size
    m.arm(flow, flow.ended_at_ms + FLOW_RETENTION_MS, WAKE_FLOW)


def forget(m: Machine, flow: Flow) -> int:
    """An ended flow leaves; answers how many things that counts."""
    m.touch(flow)
    flow_steps.unkeep(m, flow)
    m.flow_index.discard(flow.number)
    for step in flow.steps:
        del m.flow_steps[step.message]
        if step.compensation:
            del m.flow_steps[step.compensation]
    return 1 + len(flow.steps) // STEPS_PER_THING
