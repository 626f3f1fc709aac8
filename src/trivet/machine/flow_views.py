"""Reads of flows, in api.md's shapes (see `views`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trivet.machine.flow_record import FLOW_STATE_NAMES, FLOW_STATES, OPEN, UNDOING, Flow, FlowStep
from trivet.machine.ids import flow_id, message_id
from trivet.machine.state import CANCELLED, DEAD, DONE, STATE_NAMES

if TYPE_CHECKING:
    from trivet.machine.core import Machine

SCAN_MAX = 20_000  # flows one list call looks at; then it answers what it has and a cursor to go on
STEPS_MAX = 20_000  # likewise: steps it counts


def flow(m: Machine, number: int) -> dict[str, Any] | None:
    """A flow with its steps, in the order they were given; None if there is none (any more)."""
    found = next(iter(m.flow_index.slice_after(number - 1, 1)), None)
    if found is None or found.number != number:
        return None
    steps = [_step(m, found, step) for step in found.steps]
    return {**_basics(found), "steps": steps}


def flows(
    m: Machine, limit: int, after: int = 0, state: str | None = None
) -> tuple[list[dict[str, Any]], str | None]:
    """At most `limit` flows, oldest first, after the number `after`; and the id to go on after, None at the end."""
    shown: list[dict[str, Any]] = []
    last, steps = after, 0
    for looked, each in enumerate(m.flow_index.after(after)):
        fits = state is None or FLOW_STATES[each.state] == state
        full = len(shown) == limit or bool(shown and steps + len(each.steps) > STEPS_MAX)
        if looked == SCAN_MAX or (fits and full):
            return shown, flow_id(last)
        last = each.number
        if fits:
            shown.append(_basics(each))
            steps += len(each.steps)
    return shown, None


def _basics(found: Flow) -> dict[str, Any]:
    ends = [step.state for step in found.steps]
    shown: dict[str, Any] = {
        "id": flow_id(found.number),
        "run_id": found.run_id,
        "state": FLOW_STATES[found.state],
        "saga": found.saga,
        "counts": {
            "steps": len(ends),
            "unfinished": ends.count(OPEN),
            **{STATE_NAMES[code]: ends.count(code) for code in (DONE, DEAD, CANCELLED)},
            "compensations": sum(1 for step in found.steps if step.compensation),
        },
        "created_at_ms": found.created_at_ms,
    }
    if found.state > UNDOING:
        shown["finished_at_ms"] = found.ended_at_ms
    return shown


def _step(m: Machine, found: Flow, step: FlowStep) -> dict[str, Any]:
    shown = {"step_id": step.step_id, **_message(m, step.message, step.state, step.queue)}
    shown["depends_on"] = [found.steps[at].step_id for at in step.parents]
    if step.compensation:
        shown["compensation"] = _message(m, step.compensation, step.compensated, None)
    return shown


def _message(m: Machine, number: int, ended: int, queue: str | None) -> dict[str, Any]:
    """A message that is gone is shown as it ended; one that a purge took is about to be told cancelled."""
    message = m.find(number)
    shown: dict[str, Any] = {"message_id": message_id(number)}
    if message is None:
        shown["state"] = "cancelled" if ended == OPEN else STATE_NAMES[ended]
    else:
        queue = message.queue.name
        shown["state"] = STATE_NAMES[message.state]
        shown["attempt"] = message.attempt
        if message.dead_reason is not None:
            shown["dead_reason"] = message.dead_reason
    if queue is not None:
        shown["queue"] = queue
    return shown


__all__ = ["FLOW_STATE_NAMES", "flow", "flows"]
