"""Short ways to make flows and to see what became of them."""

from __future__ import annotations

from typing import Any

from tests.unit.machine.kit import Kit
from trivet.machine import flow_views, invariants
from trivet.machine.commands import CreateFlow, Draft, EnqueueTo, Extras, FlowStepDraft, Request
from trivet.machine.replies import Answer, FlowCreated, Grant


class FlowKit(Kit):
    """A kit whose machine keeps all its laws after each entry."""

    def answers(self, *requests: Request) -> list[Answer]:
        answers = super().answers(*requests)
        broken = invariants.check(self.m)
        assert not broken, broken
        return answers

    def flow(self, spec: str, *, undo: str = "", queue: str = "q", **step: Any) -> FlowCreated:
        reply = self(flow(spec, undo=undo, queue=queue, **step))
        assert isinstance(reply, FlowCreated), reply
        return reply

    def shown(self, made: FlowCreated) -> dict[str, Any]:
        shown = flow_views.flow(self.m, made.flow)
        assert shown is not None
        return shown

    def state_of(self, made: FlowCreated) -> str:
        return str(self.shown(made)["state"])

    def states(self, made: FlowCreated) -> dict[str, str]:
        """Of the steps and, with a minus before the name, of their compensations."""
        states: dict[str, str] = {}
        for step in self.shown(made)["steps"]:
            states[step["step_id"]] = step["state"]
            if "compensation" in step:
                states["-" + step["step_id"]] = step["compensation"]["state"]
        return states

    def next(self, queue: str = "q") -> Grant:
        (grant,) = self.lease(queue=queue)
        return grant

    def step(self, grant: Grant) -> str:
        """The name of a leased step, with a minus before that of a compensation."""
        message = self.m.messages[grant.message]
        assert message.draft.extras is not None
        return "-" * (self.m.flow_steps[grant.message][1] < 0) + str(message.draft.extras.step_id)

    def finish(self, *, fail: str = "", queue: str = "q") -> list[str]:
        """Work on everything there is, one at a time; `fail` names what is rejected. The order of it."""
        order = []
        while grants := self.lease(queue=queue):
            order.append(self.step(grants[0]))
            if order[-1] in fail.split():
                self.nack(*grants, dead_letter=True)
            else:
                self.ack(*grants, result=f'"{order[-1]}"'.encode())
        return order


def flow(spec: str, *, undo: str = "", queue: str = "q", auto_create: bool = True, **step: Any) -> CreateFlow:
    """`a b:a c:a,b` are three steps, the second after the first and the third after both."""
    names = [part.partition(":")[0] for part in spec.split()]
    steps = []
    for part in spec.split():
        name, _, after = part.partition(":")
        to = EnqueueTo(queue, Draft(f'"undo {name}"'.encode())) if name in undo.split() else None
        parents = tuple(names.index(parent) for parent in after.split(",") if parent)
        extras = Extras(**{key: value for key, value in step.items() if key in Extras.__struct_fields__})
        rest = {key: value for key, value in step.items() if key not in Extras.__struct_fields__}
        draft = Draft(f'"{name}"'.encode(), extras=None if extras == Extras() else extras, **rest)
        steps.append(FlowStepDraft(name, queue, draft, parents, to))
    order: list[int] = []
    while len(order) < len(steps):
        order += [
            at
            for at, each in enumerate(steps)
            if at not in order and all(parent in order for parent in each.after)
        ][:1]
    return CreateFlow(tuple(steps), tuple(order), None, auto_create)
