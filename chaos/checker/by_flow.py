"""First judge: flows (S9). What an end has to cause happens once, in its order, and not without a reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chaos.checker.facts import Facts
from chaos.checker.records import Flow, FlowStep, Grant, Place, Sent
from chaos.checker.verdict import Findings


@dataclass(slots=True)
class Fate:
    """What the clients saw of a step or of a compensation. `state`: in the end; `acked`: where, if it is known."""

    name: str | None
    state: str | None
    acked: Place | None
    grants: list[Grant]


def check(facts: Facts, found: Findings) -> None:
    for flow in facts.flows:
        _given(facts, flow, found)
        if facts.resolved and flow.is_known:
            _Judged(facts, flow, found).check()


def _given(facts: Facts, flow: Flow, found: Findings) -> None:
    """A step is given the results of those it waited for; a compensation that of its step."""
    by_name = {step.id: step for step in flow.steps}
    for step in flow.steps:
        for sent, sources in ((step.sent, [by_name[name] for name in step.after]), (step.undo, [step])):
            for name in () if sent is None else sent.ids:
                for grant in facts.grants.get(name, ()):
                    told = facts.parents.get(grant.token)
                    wanted = {one.id: _result(facts, one) for one in sources}
                    if told is not None and any(
                        told.get(one) not in results for one, results in wanted.items()
                    ):
                        text = f"{name} was given {told}, its parents said {wanted}"
                        found.add("S9", text, (flow.op, grant.call.op))


def _result(facts: Facts, step: FlowStep) -> list[Any]:
    """What it may have given: it is the same whoever acked it, and nothing if it failed."""
    return [{"op": step.sent.op, "i": step.sent.i}]


class _Judged:
    def __init__(self, facts: Facts, flow: Flow, found: Findings) -> None:
        self._facts, self._flow, self._found = facts, flow, found
        self._steps = [(step, self._fate(step.sent), self._fate(step.undo)) for step in flow.steps]

    def _fate(self, sent: Sent | None) -> Fate:
        name = None if sent is None else next(iter(sent.ids), None)
        if name is None:
            return Fate(None, None, None, [])
        facts = self._facts
        reads = [one for one in facts.reads.get(name, ()) if one.state and not one.local]
        last = max(reads, key=lambda one: one.call.inv, default=None)
        grants = sorted(facts.grants.get(name, ()), key=lambda grant: grant.place)
        ends = [end for grant in grants for end in facts.ends.get(grant.token, ()) if end.verb == "ack"]
        acked = next((end.call.place for end in ends if end.counted), None)
        return Fate(name, None if last is None else last.state, acked, grants)

    def check(self) -> None:
        failed = any(fate.state in ("dead", "cancelled") for _, fate, _ in self._steps)
        for step, fate, undone in self._steps:
            due = failed and fate.state == "done" and step.undo is not None
            if due and undone.name is None:
                self._say(f"{step.id} was done in a flow that failed, and is not undone", fate.name)
            if undone.name is not None and not due:
                self._say(f"{step.id} is {fate.state} and was undone", undone.name)
        pairs = [(fate, undone) for _, fate, undone in self._steps if undone.name is not None]
        for fate, undone in pairs:
            for other, other_undone in pairs:
                if fate.acked is None or other.acked is None or not fate.acked < other.acked:
                    continue
                first = undone.grants[0].place if undone.grants else None
                if first is not None and other_undone.acked is not None and first < other_undone.acked:
                    text = f"{undone.name} was given at {first}, {other_undone.name} ended at {other_undone.acked}"
                    self._say("out of turn: " + text, undone.name)

    def _say(self, text: str, name: str | None) -> None:
        self._found.add("S9", f"{name}: {text}", (self._flow.op,))
