"""The model's flows: steps that wait for each other, and what is undone when one of them fails (api.md, Flows)."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from chaos.model.intake import Intake
from chaos.model.records import (
    CANCELLED,
    CONFIG,
    DEAD,
    DONE,
    UNFINISHED,
    WAITING,
    Message,
    Queue,
    Refused,
)

FLOW_KEPT = 3_600_000
RUNNING, STOPPING, UNDOING, COMPENSATED, FAILED = "running", "stopping", "undoing", "compensated", "failed"
NO_EXTRAS: dict[str, Any] = {
    "run_id": None,
    "step_id": None,
    "max_attempts": None,
    "backoff": None,
    "lease_ms": None,
    "depends_on": (),
    "on_dependency_failure": "fail",
    "retention_ms": None,
}


@dataclass(slots=True, eq=False)
class Step:
    id: str
    message: Message
    parents: tuple[int, ...]
    compensate: Any
    end: str | None = None
    order: int = 0
    undo: Message | None = None
    undone: str | None = None


@dataclass(slots=True, eq=False)
class Flow:
    run_id: str | None
    steps: list[Step]
    saga: bool
    state: str = RUNNING
    owes: bool = False
    ended: int | None = None

    @property
    def shown(self) -> str:
        return "compensating" if self.state in (STOPPING, UNDOING) else self.state


def with_extras(draft: Any, **changes: Any) -> Any:
    """The draft with other rarer fields."""
    extras = {
        name: value if draft.extras is None else getattr(draft.extras, name)
        for name, value in NO_EXTRAS.items()
    }
    fields = {name: getattr(draft, name) for name in draft.__struct_fields__}
    return SimpleNamespace(**{**fields, "extras": SimpleNamespace(**{**extras, **changes})})


class Flows(Intake):
    def __init__(self) -> None:
        super().__init__()
        self.flows: list[Flow] = []
        self.hear_later: list[Message] = []  # purged: their flows hear of it with the sweep

    # --- making one ---------------------------------------------------------------------------------------

    def do_CreateFlow(self, c: Any) -> Any:
        self.check_order(c)
        for step in c.steps:
            if step.compensate and step.compensate.queue not in self.queues and not c.auto_create:
                raise Refused("queue_not_found")
        plan = self.plan([(step.queue, step.draft) for step in c.steps], c.auto_create, {})
        if any(kind != "new" for kind, _ in plan):
            raise Refused("idempotency_conflict")
        for m in self.displaced:
            self.finish(m, DEAD, "queue_full")
        saga = any(step.compensate for step in c.steps)
        made: dict[int, Message] = {}
        for at in c.order:
            step = c.steps[at]
            after = tuple(made[parent].number or 0 for parent in step.after)
            draft = with_extras(step.draft, run_id=c.run_id or "", step_id=step.step_id, depends_on=after)
            made[at] = self.born(step.queue, draft, "saga" if saga else "flow")
            if step.compensate:
                self.queue_or_new(step.compensate.queue)
        steps = [Step(one.step_id, made[at], one.after, one.compensate) for at, one in enumerate(c.steps)]
        flow = Flow(c.run_id, steps, saga)
        self.flows.append(flow)
        for at, step in enumerate(steps):
            self.flow_of[step.message.serial] = flow, at, False
        return ("flow", [(step.message, step.message.state) for step in steps])

    def check_order(self, c: Any) -> None:
        made: set[int] = set()
        for at in c.order:
            if not 0 <= at < len(c.steps) or at in made or not set(c.steps[at].after) <= made:
                raise Refused("invalid_argument")
            made.add(at)
        if not made or len(made) < len(c.steps) or len({step.step_id for step in c.steps}) < len(made):
            raise Refused("invalid_argument")

    def queue_or_new(self, name: str) -> Queue:
        return self.queues.get(name) or self.new_queue(name, deepcopy(CONFIG))

    def born(self, queue: str, draft: Any, origin: str) -> Message:
        m = self.create(self.queue_or_new(queue), draft, {})
        m.origin = origin
        if m.number is None:  # nobody was ever told its id: any will do for those that wait for it
            self.bind(m, -m.serial)
        return m

    # --- what others ask ------------------------------------------------------------------------------------

    def is_stopped(self, m: Message) -> bool:
        found = self.flow_of.get(m.serial)
        return found is not None and not found[2] and found[0].state != RUNNING

    def stop(self, m: Message) -> None:
        flow, at, _ = self.flow_of[m.serial]
        if not m.runs_anyway and any(
            flow.steps[parent].end in (DEAD, CANCELLED) for parent in flow.steps[at].parents
        ):
            self.finish(m, DEAD, "dependency_failed")
        else:
            self.finish(m, CANCELLED)

    def parents_size(self, m: Message) -> int:
        found = self.flow_of.get(m.serial)
        if found is None:
            return 0
        flow, at, undoes = found
        given = [flow.steps[at]] if undoes else [flow.steps[parent] for parent in flow.steps[at].parents]
        results = [None if step.message.gone else step.message.result for step in given]
        return sum(len(result) for result in results if result is not None)

    # --- what becomes of it -----------------------------------------------------------------------------------

    def flow_hears(self, m: Message, state: str) -> None:
        found = self.flow_of.get(m.serial)
        if found is None:
            return
        flow, at, undoes = found
        step = flow.steps[at]
        if undoes:
            step.undone = state
        else:
            step.end, step.order = state, self.new_place()
            if state != DONE and flow.saga and flow.state == RUNNING:
                flow.state, flow.owes = STOPPING, True
        self.go_on(flow)

    def go_on(self, flow: Flow) -> None:
        if flow.state in (RUNNING, STOPPING) and all(step.end for step in flow.steps):
            if flow.state == STOPPING:
                flow.state, flow.owes = UNDOING, True
            else:
                self.end_flow(flow, DONE if all(step.end == DONE for step in flow.steps) else FAILED)
        elif flow.state == UNDOING and not flow.owes:
            undone = [step.undone for step in flow.steps if step.undo is not None]
            if None not in undone:
                self.end_flow(flow, COMPENSATED if undone and set(undone) == {DONE} else FAILED)

    def end_flow(self, flow: Flow, state: str) -> None:
        flow.state, flow.ended, flow.owes = state, self.clock, True
        for step in flow.steps:
            step.compensate = None

    def settle(self) -> None:
        """All that ends cause, until nothing is owed."""
        while self.owed or any(flow.owes for flow in self.flows):
            self.tell_dependents()
            while owing := [flow for flow in self.flows if flow.owes]:
                flow = owing[0]
                if flow.state == STOPPING:
                    self.stop_what_waits(flow)
                elif flow.state == UNDOING:
                    self.undo(flow)
                else:
                    self.give_back(flow)

    def stop_what_waits(self, flow: Flow) -> None:
        for step in flow.steps:
            if flow.state == STOPPING and not step.message.gone and step.message.state in WAITING:
                self.stop(step.message)
        if flow.state == STOPPING:
            flow.owes = False

    def undo(self, flow: Flow) -> None:
        done = [at for at, step in enumerate(flow.steps) if step.end == DONE and step.compensate]
        before: tuple[int, ...] = ()
        for at in sorted(done, key=lambda at: -flow.steps[at].order):
            step = flow.steps[at]
            draft = with_extras(
                step.compensate.draft,
                run_id=flow.run_id or "",
                step_id=step.id,
                depends_on=before,
                on_dependency_failure="run",
            )
            step.undo = self.born(step.compensate.queue, draft, "compensation")
            self.flow_of[step.undo.serial] = flow, at, True
            before = (step.undo.number or 0,)
        flow.owes = False
        self.go_on(flow)

    def give_back(self, flow: Flow) -> None:
        """Its messages are kept from now on as their queues say."""
        flow.owes = False
        messages = [step.message for step in flow.steps]
        messages += [step.undo for step in flow.steps if step.undo is not None]
        for m in messages:
            if m.gone or m.state in UNFINISHED or not m.held:
                continue
            keep, state, place = self.retention(m, m.state), m.state, m.place
            self.leave(m)
            m.held = False
            m.state, m.due, m.place = state, self.clock + keep, place
            if keep or state == DEAD:
                self.enter(m, state)
            else:
                self.forget(m)

    def flow_redriven(self, m: Message) -> None:
        found = self.flow_of.get(m.serial)
        if found is None:
            return
        flow, at, undoes = found
        if flow.ended is not None:
            flow.state, flow.ended, flow.owes = UNDOING if undoes else RUNNING, None, False
        if undoes:
            flow.steps[at].undone = None
        else:
            flow.steps[at].end = None

    def forget_flows(self) -> None:
        over = [f for f in self.flows if f.ended is not None and f.ended + FLOW_KEPT <= self.clock]
        for flow in over:
            self.flows.remove(flow)
            for step in flow.steps:
                del self.flow_of[step.message.serial]
                if step.undo is not None:
                    del self.flow_of[step.undo.serial]
