"""Flows in the simulation: what clients make of them, and what the log must never show of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec

from tests.simulation.queue_calls import Callers
from tests.simulation.queue_facts import Fact
from tests.simulation.world import World
from trivet.machine import commands as c
from trivet.machine import replies as r
from trivet.machine.state import Message

STEP_QUEUES = ("q1", "q2")
UNDO_QUEUE = "q1"  # nothing in it ends but by an answer, so the log says how each compensation ended


@dataclass
class StepFact:
    number: int
    undone_by: bool  # it has a compensation
    compensation: int = 0


@dataclass
class FlowFact:
    saga: bool
    steps: list[StepFact]
    done: list[int] = field(default_factory=list)  # positions in the order of their acks

    def to_undo(self) -> list[StepFact]:
        return [self.steps[at] for at in reversed(self.done) if self.steps[at].undone_by]


def make_flow(rng: Random, tag: int) -> c.CreateFlow:
    """A chain, a fan or a tangle. A compensation's body says what it undoes."""
    count = rng.choice((1, 3, 3, 6))
    shape = rng.choice(("chain", "fan", "tangle"))
    saga = rng.random() < 0.7
    steps = []
    for at in range(count):
        if shape == "chain":
            after: tuple[int, ...] = (at - 1,) if at else ()
        elif shape == "fan":
            after = () if at == 0 else (0,) if at < count - 1 else tuple(range(count - 1))
        else:
            after = tuple(parent for parent in range(at) if rng.random() < 0.4)
        undo = None
        if saga and rng.random() < 0.8:
            undo = c.EnqueueTo(UNDO_QUEUE, c.Draft(msgspec.json.encode({"undo": [tag, at]})))
        queue = rng.choice(STEP_QUEUES)
        extras = c.Extras(on_dependency_failure=rng.choice(("fail", "fail", "run")))
        draft = c.Draft(msgspec.json.encode([tag, at]), extras=extras)
        steps.append(c.FlowStepDraft(f"s{at}", queue, draft, after, undo))
    return c.CreateFlow(tuple(steps), tuple(range(count)), f"flow-{tag}")


class FlowActs(Callers):
    numbers: dict[str, list[int]]
    held: list[Any]
    steps_known: set[int]

    def _flow(self) -> None:
        """A new flow; or a step of one fails for good."""
        held = [held for held in self.held if held.message in self.steps_known]
        if held and self.rng.random() < 0.5:
            one = self.rng.choice(held)
            self.held.remove(one)
            self.call(c.Nack((c.NackItem(one.token, "no", None, True),)))
            return
        command = make_flow(self.rng, self.next_id)

        def made(reply: r.Reply, _: bool) -> None:
            if isinstance(reply, r.FlowCreated):
                for step, one in zip(command.steps, reply.steps, strict=True):
                    self.numbers[step.queue] = [*self.numbers[step.queue], one.message][-30:]
                    self.steps_known.add(one.message)

        self.call(command, made)


class FlowLaws:
    """`look` gives a message as the first node has it: what the worker sees in its lease."""

    def __init__(self, world: World, facts: dict[int, Fact]) -> None:
        self.world = world
        self.facts = facts
        self.flows: dict[int, FlowFact] = {}  # by tag
        self.step_of: dict[int, tuple[FlowFact, int]] = {}
        self.look: Callable[[int], Message | None] = lambda number: None

    def created(self, command: c.CreateFlow, reply: r.FlowCreated) -> list[c.Draft]:
        """The steps' messages as they depend on each other."""
        self.world.count("flows made")
        flow = FlowFact(
            any(step.compensate for step in command.steps),
            [
                StepFact(one.message, step.compensate is not None)
                for step, one in zip(command.steps, reply.steps, strict=True)
            ],
        )
        self.flows[msgspec.json.decode(command.steps[0].draft.body)[0]] = flow
        drafts = []
        for at, step in enumerate(command.steps):
            self.step_of[reply.steps[at].message] = flow, at
            extras = msgspec.structs.replace(
                step.draft.extras or c.Extras(), depends_on=tuple(reply.steps[p].message for p in step.after)
            )
            drafts.append(msgspec.structs.replace(step.draft, extras=extras))
        return drafts

    def acked(self, number: int) -> None:
        found = self.step_of.get(number)
        if found is not None and found[1] not in found[0].done:
            found[0].done.append(found[1])

    def step_granted(self, what: str, number: int) -> None:
        """Once a step of a saga is known to have failed, nothing of it starts."""
        found = self.step_of.get(number)
        if found is None or not found[0].saga:
            return
        ends = [self.facts[step.number].ended for step in found[0].steps]
        if "dead" in ends or "cancelled" in ends:
            self.world.violate("started in a saga that turned round", f"{what}: {ends}")

    def unknown_granted(self, what: str, number: int, clock_ms: int) -> Fact:
        """Nobody enqueued it: it is a compensation, the next one in its turn."""
        message = self.look(number)
        told = None if message is None else msgspec.json.decode(message.draft.body)
        if message is None or not isinstance(told, dict):
            self.world.violate("delivered from nowhere", what)
            raise AssertionError(what)
        tag, at = told["undo"]
        flow = self.flows[tag]
        step = flow.steps[at]
        self.world.count("compensations delivered")
        if step.compensation or not step.undone_by:
            self.world.violate("compensated twice", f"{what}: {step}")
        step.compensation = number
        if at not in flow.done or len(flow.done) == len(flow.steps):
            self.world.violate("compensated without a reason", f"{what}: {flow}")
        for other in flow.steps:
            fact = self.facts[other.number]
            if not fact.ended and fact.leased_until > clock_ms:
                self.world.violate("compensated beside work", f"{what}: {other}")
        wanted = flow.to_undo()
        turn = wanted.index(step)
        ended = [bool(other.compensation) and self.facts[other.compensation].ended for other in wanted[:turn]]
        if not all(ended) or any(other.compensation for other in wanted[turn + 1 :]):
            self.world.violate("compensated out of turn", f"{what}: {wanted}, {ended}")
        return Fact(message.queue.name, message.draft, 0, 0, False)

    def close(self) -> None:
        """Everything has drained: what failed has been undone, what did not has not."""
        flows, self.flows = self.flows, {}  # asked once for each node
        for tag, flow in flows.items():
            all_done = len(flow.done) == len(flow.steps)
            left = [] if all_done else [step for step in flow.to_undo() if not step.compensation]
            if left and flow.saga:
                self.world.violate("not compensated", f"flow {tag}: {left} of {flow}")
            self.world.count("flows done" if all_done else "sagas undone" if flow.saga else "flows failed")
