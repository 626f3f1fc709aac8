"""The laws of flows, recounted from the records (see `invariants`)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trivet.machine.core import Machine
    from trivet.machine.flow_record import Flow, FlowStep
    from trivet.machine.state import Message

LEASED, DONE, DEAD, CANCELLED = 3, 4, 5, 6
RUNNING, STOPPING, UNDOING, ALL_DONE, COMPENSATED, FAILED = range(6)
OPEN = IDLE = -1


def check(m: Machine) -> list[str]:
    """Every broken law of flows."""
    flows = list(m.flow_index.after(0))
    broken: list[str] = []
    filed = {}
    for flow in flows:
        broken += [f"flow {flow.number}: {what}" for what in _laws(m, flow)]
        for at, step in enumerate(flow.steps):
            filed[step.message] = (flow.number, at)
            if step.compensation:
                filed[step.compensation] = (flow.number, ~at)
    found = {number: (flow.number, at) for number, (flow, at) in m.flow_steps.items()}
    if found != filed:
        broken.append(f"steps by message: {found}, recounted {filed}")
    owing = [flow.number for flow in flows if flow.cursor != IDLE]
    if [flow.number for flow in m.flow_work.after(0)] != owing:
        broken.append(f"flows that owe work are {owing}")
    for message in m.messages.values():
        if message.state > LEASED and not message.due_at_ms and not _is_held(m, message):
            broken.append(f"message {message.number} is kept by no flow and for no time")
    return broken


def _is_held(m: Machine, message: Message) -> bool:
    where = m.flow_steps.get(message.number)
    queue = message.queue
    if queue.deleted or (message.state == DEAD and message.epoch < queue.dead_epoch):
        return True  # until the sweep comes by
    if where is None:
        return False
    flow, at = where
    if flow.state <= UNDOING:
        return True
    return flow.cursor != IDLE and (at if at >= 0 else len(flow.steps) + ~at) >= flow.cursor


def _laws(m: Machine, flow: Flow) -> list[str]:
    steps = flow.steps
    open_steps = [step for step in steps if step.state == OPEN]
    undoing = [step for step in steps if step.compensation and step.compensated == OPEN]
    failed = [step for step in steps if step.state in (DEAD, CANCELLED)]
    laws = {
        "counts what is left": flow.left == len(undoing if flow.state == UNDOING else open_steps),
        "has ended exactly with an instant and a place": (flow.state > UNDOING)
        == bool(flow.ended_at_ms)
        == bool(flow.place),
        "is kept exactly when it owes nothing more": bool(flow.end_key)
        == bool(flow.wake_key)
        == (flow.state > UNDOING and flow.cursor == IDLE),
        "compensates only as a saga": flow.saga or not any(s.compensate or s.compensation for s in steps),
        "waits for its steps": flow.state not in (RUNNING, STOPPING) or bool(open_steps),
        "has no open step after it": flow.state <= STOPPING or not open_steps,
        "runs on without a failure": flow.state != RUNNING or not (flow.saga and failed),
        "turns round because of a failure": flow.state not in (STOPPING, UNDOING)
        or (flow.saga and bool(failed)),
        "waits for its compensations": flow.state != UNDOING or bool(undoing) or flow.cursor != IDLE,
        "ends with its compensations": flow.state <= UNDOING or not undoing,
        "forgets its compensations at the end": flow.state <= UNDOING or not any(s.compensate for s in steps),
        "is done when all is": flow.state != ALL_DONE or all(step.state == DONE for step in steps),
        "is compensated when all is": flow.state != COMPENSATED
        or all(step.compensated == DONE for step in steps if step.compensation),
        "fails for a reason": flow.state != FAILED or bool(failed),
        "starts nothing new": flow.state != STOPPING or not _waiting(m, flow),
        "undoes in reverse order": _in_reverse_order(m, flow),
    }
    broken = [what for what, holds in laws.items() if not holds]
    for step in steps:
        broken += _step_laws(m, step)
    return broken


def _step_laws(m: Machine, step: FlowStep) -> list[str]:
    broken = []
    for number, state, what in (
        (step.message, step.state, step.step_id),
        (step.compensation, step.compensated, f"compensation of {step.step_id}"),
    ):
        message = m.messages.get(number)
        if message is None:
            right = state != OPEN or not number
        else:
            right = state == (OPEN if message.state <= LEASED else message.state)
        if not right:
            broken.append(f"{what} is recorded as {state}")
    if (step.order > 0) != (step.state != OPEN) or (step.compensation and step.state != DONE):
        broken.append(f"{step.step_id} ended as {step.state}, {step.order}, {step.compensation}")
    return broken


def _waiting(m: Machine, flow: Flow) -> list[str]:
    """Steps that wait though the flow has looked at them since it turned round."""
    looked = flow.steps if flow.cursor == IDLE else flow.steps[: flow.cursor]
    found = [(step.step_id, m.find(step.message)) for step in looked]
    return [name for name, message in found if message is not None and message.state < LEASED]


def _in_reverse_order(m: Machine, flow: Flow) -> bool:
    """The last finished is undone first, each after the one before; and as many are enqueued as should be."""
    undone = sorted((s for s in flow.steps if s.compensation), key=lambda s: -s.order)
    wanted = sorted((s for s in flow.steps if s.compensate and s.state == DONE), key=lambda s: -s.order)
    if flow.state == UNDOING and wanted:  # forgotten at an end that a redrive took back
        come = len(wanted) if flow.cursor == IDLE else flow.cursor
        if undone != wanted[:come]:
            return False
    if flow.state < UNDOING and undone:
        return False
    for first, second in pairwise(undone):
        message = m.messages.get(second.compensation)
        if first.compensation >= second.compensation:
            return False
        if message is not None and (
            message.draft.extras is None or message.draft.extras.depends_on != (first.compensation,)
        ):
            return False
    return True
