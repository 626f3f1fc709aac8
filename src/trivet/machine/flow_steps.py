"""What the rest of the machine asks a flow, and tells it: may this step start, has it ended.

Nothing of size is done here: a flow that has work to do is put into `Machine.flow_work`, and `flows.settle`
does it, a bounded piece with each command (R25).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trivet.machine import transitions
from trivet.machine.flow_record import (
    COMPENSATED,
    FAILED,
    FLOW_DONE,
    IDLE,
    OPEN,
    RUNNING,
    STOPPING,
    UNDOING,
    Flow,
    FlowStep,
    failed,
)
from trivet.machine.runs import REPLAY
from trivet.machine.state import CANCELLED, DEAD, DONE, Message, extras_of

if TYPE_CHECKING:
    from trivet.machine.core import Machine

SAGA, FLOW, COMPENSATION = "saga", "flow", "compensation"
"""`Message.origin` of steps and compensations, with the id of their flow."""


def step_of(m: Machine, message: Message) -> tuple[Flow, FlowStep, bool] | None:
    """The flow of a message, the step it is of, and whether it is the step's compensation."""
    where = m.flow_steps.get(message.number)
    if where is None:
        return None
    flow, at = where
    return flow, flow.steps[at if at >= 0 else ~at], at < 0


def stopped(m: Machine, message: Message) -> bool:
    """The message is a step that must not start (again): its saga has turned round."""
    found = step_of(m, message)
    return found is not None and found[0].state != RUNNING and not found[2]


def stop(m: Machine, message: Message) -> None:
    """End a waiting step of a saga that has turned round; by the rule of dependencies if that ends it."""
    found = step_of(m, message)
    assert found is not None
    flow, step, _ = found
    if extras_of(message.draft).on_dependency_failure == "fail" and any(
        failed(flow.steps[at]) for at in step.parents
    ):
        transitions.finish(m, message, DEAD, reason="dependency_failed")
    else:
        transitions.finish(m, message, CANCELLED)


def ended(m: Machine, message: Message, to: int) -> None:
    """A step or a compensation ended as `to` (a purge or the deletion of its queue counts as cancelled)."""
    found = step_of(m, message)
    assert found is not None
    flow, step, compensation = found
    m.touch(flow)
    flow.left -= 1
    if compensation:
        step.compensated = to
    else:
        step.state = to
        step.order = m.new_place()
        if to != DONE and flow.saga and flow.state == RUNNING:
            flow.state = STOPPING
            owe(m, flow)
    if not flow.left:
        go_on(m, flow)


def owe(m: Machine, flow: Flow) -> None:
    """The work of the flow's state is to be done from its start."""
    if flow.cursor == IDLE:
        m.flow_work.add(flow.number, flow)
    flow.cursor = 0


def rest(m: Machine, flow: Flow) -> None:
    """The work of the flow's state is done."""
    flow.cursor = IDLE
    m.flow_work.discard(flow.number)


def go_on(m: Machine, flow: Flow) -> None:
    """Nothing of the flow is unfinished: what its state leads to. The caller has touched it."""
    if flow.state == STOPPING:
        flow.state = UNDOING
        owe(m, flow)
    elif flow.state == RUNNING:
        _end(m, flow, FLOW_DONE if all(step.state == DONE for step in flow.steps) else FAILED)
    elif flow.cursor == IDLE:  # else compensations are still to come
        undone = [step.compensated for step in flow.steps if step.compensation]
        _end(m, flow, COMPENSATED if undone and all(state == DONE for state in undone) else FAILED)


def _end(m: Machine, flow: Flow, state: int) -> None:
    flow.state = state
    flow.ended_at_ms = m.clock_ms
    flow.place = m.new_place()
    for step in flow.steps:
        step.compensate = None
    m.hints.flows.append(flow.number)
    owe(m, flow)


# --- parents ------------------------------------------------------------------------------------------


def parents(m: Machine, message: Message) -> dict[str, bytes | None] | None:
    """The results a step is given: of the steps it waited for; of its step if it is a compensation.

    None where there is none (any more). None for all: the message is of no flow. A replayed step gets the results
    of the messages that it depends on, by their step ids.
    """
    found = step_of(m, message)
    if found is None:
        extras = message.draft.extras
        if message.origin is None or message.origin[0] != REPLAY or extras is None or not extras.depends_on:
            return None
        return {name: result for number in extras.depends_on for name, result in _named_result(m, number)}
    flow, step, compensation = found
    given = [step] if compensation else [flow.steps[at] for at in step.parents]
    return {each.step_id: _result(m, each.message) for each in given}


def _named_result(m: Machine, number: int) -> Iterator[tuple[str, bytes | None]]:
    message = m.find(number)
    if message is not None and message.draft.extras is not None and message.draft.extras.step_id is not None:
        yield message.draft.extras.step_id, message.result


def _result(m: Machine, number: int) -> bytes | None:
    message = m.find(number)
    return None if message is None else message.result


def parents_bytes(m: Machine, message: Message) -> int:
    """What `parents` adds to a lease answer (R25)."""
    return sum(len(result or b"") for result in (parents(m, message) or {}).values())


# --- redrive ------------------------------------------------------------------------------------------


def may_redrive(message: Message) -> bool:
    """Not a step of a saga: its flow has undone, or is undoing, what came before it."""
    return message.origin is None or message.origin[0] != SAGA


def revived(m: Machine, message: Message) -> None:
    """A dead step or compensation lives again: its flow waits for it, also one that had ended."""
    found = step_of(m, message)
    if found is None:
        return
    flow, step, compensation = found
    m.touch(flow)
    if flow.state > UNDOING:
        if flow.cursor == IDLE:
            unkeep(m, flow)
        else:
            rest(m, flow)
        flow.state = UNDOING if compensation else RUNNING
        flow.ended_at_ms = flow.place = 0
    flow.left += 1
    if compensation:
        step.compensated = OPEN
    else:
        step.state = OPEN
        step.order = 0


def unkeep(m: Machine, flow: Flow) -> None:
    """An ended flow leaves what is kept. It was touched by the caller."""
    m.disarm(flow)
    flow.end_key = 0
    m.retained.drop()
    m.retained_bytes -= flow.size
