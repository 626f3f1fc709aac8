"""A flow: steps that wait for each other, made together, and what is done when one of them fails.

The record holds what the flow has to know of its steps when their messages are gone. Nothing in here
changes by itself: `flow_steps` writes how steps end, `flows` does the work that follows.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from trivet.machine.commands import EnqueueTo
from trivet.machine.state import CANCELLED, DEAD, DONE

RUNNING, STOPPING, UNDOING, FLOW_DONE, COMPENSATED, FAILED = range(6)
FLOW_STATES = ("running", "compensating", "compensating", "done", "compensated", "failed")
FLOW_STATE_NAMES = ("running", "compensating", "done", "compensated", "failed")

OPEN = -1  # a step or compensation that has not ended
IDLE = -1  # a flow that owes no work

_OVERHEAD = 512
_STEP_OVERHEAD = 256


class FlowStep(Struct, array_like=True, gc=False):
    """One step. `parents`: positions of the steps it waits for, all of them made before it.

    * `state`: how its message ended (`DONE`, `DEAD`, `CANCELLED`), `OPEN` before. `order`: the order of ends.
    * `compensate`: what undoes it; forgotten once the flow has ended. `compensation`: the number of that
      message once it is enqueued, 0 before; `compensated`: how that one ended, `OPEN` before.
    """

    step_id: str
    queue: str
    message: int
    parents: tuple[int, ...]
    compensate: EnqueueTo | None = None
    state: int = OPEN
    order: int = 0
    compensation: int = 0
    compensated: int = OPEN


class Flow(Struct, eq=False):
    """A flow, by the number of its id.

    * `state`: RUNNING; STOPPING: a step of a saga failed, nothing new starts, what is leased runs out;
      UNDOING: its compensations are enqueued and run; then one of the three ends.
    * `cursor`: how far the work has come that the state owes, `IDLE` without any: STOPPING: steps looked at;
      UNDOING: compensations enqueued; ended: messages given back to their queues' retention (steps, then
      compensations).
    * `saga`: a step has a compensation. `place`: its order among what is kept though it is finished.
    """

    number: int
    run_id: str
    saga: bool
    created_at_ms: int
    steps: list[FlowStep]
    mark: int
    state: int = RUNNING
    cursor: int = IDLE
    ended_at_ms: int = 0
    place: int = 0
    # derived
    left: int = 0  # messages that have not ended: steps, or while UNDOING compensations
    size: int = 0  # what it counts while it is kept
    wake_key: int = 0  # its key in the deadline heap once it is kept, else 0
    end_key: int = 0  # its key in the heap of what is kept: place, else 0

    def to_data(self) -> list[Any]:
        return [
            self.number,
            self.run_id,
            self.saga,
            self.created_at_ms,
            self.steps,
            self.state,
            self.cursor,
            self.ended_at_ms,
            self.place,
        ]


class FlowData(Struct, array_like=True):
    """`Flow.to_data` as it comes back from a snapshot."""

    number: int
    run_id: str
    saga: bool
    created_at_ms: int
    steps: list[FlowStep]
    state: int
    cursor: int
    ended_at_ms: int
    place: int


def weight(flow: Flow) -> int:
    """About the bytes an ended flow takes."""
    return _OVERHEAD + sum(_STEP_OVERHEAD + len(step.step_id) + len(step.queue) for step in flow.steps)


def failed(step: FlowStep) -> bool:
    """A dependency that is cancelled or dead has failed."""
    return step.state in (DEAD, CANCELLED)


def to_undo(flow: Flow) -> list[int]:
    """The positions of the finished steps that have a compensation, the last finished first."""
    steps = flow.steps
    done = [at for at, step in enumerate(steps) if step.state == DONE and step.compensate is not None]
    return sorted(done, key=lambda at: steps[at].order, reverse=True)
