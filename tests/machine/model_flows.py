"""The model's flows: steps that wait for each other, and what is undone when one fails (api.md, Flows)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.machine.model import CANCELLED, DEAD, DONE, UNFINISHED, WAITING, Refused

HOUR = 3_600_000
RUNNING, STOPPING, UNDOING, COMPENSATED, FAILED = "running", "stopping", "undoing", "compensated", "failed"
ENDS = (DONE, COMPENSATED, FAILED)


def copied(record: Any, **changes: Any) -> Any:
    """A draft or its rarer fields with some of them changed; no type of `src/` is needed for that."""
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    return SimpleNamespace(__struct_fields__=record.__struct_fields__, **{**fields, **changes})


class Flows:
    """Mixed into the model; uses its messages and queues."""

    def __init__(self) -> None:
        super().__init__()
        self.flows: list[dict[str, Any]] = []  # oldest first

    def do_CreateFlow(self: Any, c: Any) -> Any:
        made: list[int] = []
        for at in c.order:
            if not 0 <= at < len(c.steps) or at in made or not set(c.steps[at].after) <= set(made):
                raise Refused("invalid_argument")
            made.append(at)
        if not made or len(made) < len(c.steps) or len({step.step_id for step in c.steps}) < len(made):
            raise Refused("invalid_argument")
        for step in c.steps:
            if step.compensate and step.compensate.queue not in self.queues and not c.auto_create:
                raise Refused("queue_not_found")
        self.check_steps(c)
        number, numbers = self.hints.flow
        assert number > self.last_number, "ids rise"
        self.last_number = number
        flow_id = f"f{number:012x}"
        run_id = c.run_id or flow_id
        for at in c.order:
            step = c.steps[at]
            depends_on = tuple(numbers[parent] for parent in step.after)
            extras = copied(
                step.draft.extras or self.hints.no_extras,
                run_id=run_id,
                step_id=step.step_id,
                depends_on=depends_on,
            )
            queue = self.queue_or_new(step.queue, True)
            m = self.create(queue, copied(step.draft, extras=extras), numbers[at], ())
            saga = any(each.compensate for each in c.steps)
            m["origin"] = ("saga" if saga else "flow", flow_id)
            if step.compensate:
                self.queue_or_new(step.compensate.queue, True)
        steps = [
            {
                "id": step.step_id,
                "number": numbers[at],
                "parents": step.after,
                "compensate": step.compensate,
                "end": None,
                "order": 0,
                "undo": 0,
                "undone": None,
            }
            for at, step in enumerate(c.steps)
        ]
        flow = {
            "number": number,
            "id": flow_id,
            "run": run_id,
            "steps": steps,
            "state": RUNNING,
            "ended": None,
        }
        flow["saga"] = any(step["compensate"] for step in steps)
        flow["owes"] = False
        self.flows.append(flow)
        states = [(n, self.messages[n]["state"]) for n in numbers]
        return ("flow", number, run_id, states)

    def check_steps(self: Any, c: Any) -> None:
        """As an enqueue is checked; and in the end no message may be another one's."""
        known, fresh = [], []
        seen: dict[tuple[str, str], Any] = {}
        for step in c.steps:
            old = self.key_of(step.queue, step.draft.key)
            twin = seen.get((step.queue, step.draft.key)) if step.draft.key is not None else None
            fingerprint = self.fingerprint(step.draft)
            if old is not None and old["fingerprint"] != fingerprint:
                raise Refused("idempotency_conflict")
            if old is None and twin not in (None, fingerprint):
                raise Refused("idempotency_conflict")
            seen.setdefault((step.queue, step.draft.key), fingerprint)
            (known if old is not None or twin is not None else fresh).append(step)
        for step in fresh:
            if step.queue not in self.queues and not c.auto_create:
                raise Refused("queue_not_found")
            if step.queue in self.queues and self.queues[step.queue]["paused_enqueue"]:
                raise Refused("queue_paused")
        self.make_room([(self.queues[s.queue], s.draft) for s in fresh if s.queue in self.queues])
        if known:
            raise Refused("idempotency_conflict")

    # --- who is of which flow -----------------------------------------------------------------------------

    def flow_of(self, number: int) -> tuple[dict[str, Any], dict[str, Any], bool] | None:
        for flow in self.flows:
            for step in flow["steps"]:
                if number in (step["number"], step["undo"]):
                    return flow, step, number == step["undo"]
        return None

    def is_stopped(self, m: dict[str, Any]) -> bool:
        """It is a step, and nothing of its flow starts any more."""
        found = self.flow_of(m["number"])
        return found is not None and not found[2] and found[0]["state"] != RUNNING

    def is_held(self, m: dict[str, Any]) -> bool:
        return self.flow_of(m["number"]) is not None

    def stop(self: Any, m: dict[str, Any]) -> None:
        flow, step, _ = self.flow_of(m["number"])
        failed = [flow["steps"][at]["end"] in (DEAD, CANCELLED) for at in step["parents"]]
        if any(failed) and m["draft"].extras.on_dependency_failure == "fail":
            self.finish(m, DEAD, "dependency_failed")
        else:
            self.finish(m, CANCELLED)

    def parents(self: Any, m: dict[str, Any]) -> Any:
        """What a leased step is given, None if it is none."""
        found = self.flow_of(m["number"])
        if found is None:
            return self.parents_of_replay(m)
        flow, step, undoes = found
        of = [step] if undoes else [flow["steps"][at] for at in step["parents"]]
        given = {each["id"]: self.messages.get(each["number"]) for each in of}
        return {name: None if parent is None else parent["result"] for name, parent in given.items()}

    def parents_size(self, m: dict[str, Any]) -> int:
        return sum(len(result or b"") for result in (self.parents(m) or {}).values())

    # --- what becomes of it -------------------------------------------------------------------------------

    def flow_hears(self: Any, number: int, state: str) -> None:
        found = self.flow_of(number)
        if found is None:
            return
        flow, step, undoes = found
        if undoes:
            step["undone"] = state
        else:
            step["end"], step["order"] = state, self.next_tick()
            if state != DONE and flow["saga"] and flow["state"] == RUNNING:
                flow["state"], flow["owes"] = STOPPING, True
        self.flow_goes_on(flow)

    def flow_goes_on(self: Any, flow: dict[str, Any]) -> None:
        steps = flow["steps"]
        if flow["state"] in (RUNNING, STOPPING):
            if any(step["end"] is None for step in steps):
                return
            if flow["state"] == STOPPING:
                flow["state"], flow["owes"] = UNDOING, True
            else:
                self.flow_ends(flow, DONE if all(step["end"] == DONE for step in steps) else FAILED)
        elif flow["state"] == UNDOING and not flow["owes"]:
            undone = [step["undone"] for step in steps if step["undo"]]
            if None not in undone:
                well = undone and set(undone) == {DONE}
                self.flow_ends(flow, COMPENSATED if well else FAILED)

    def flow_ends(self: Any, flow: dict[str, Any], state: str) -> None:
        flow.update(state=state, ended=self.clock, owes=True)
        for step in flow["steps"]:
            step["compensate"] = None

    def settle(self: Any) -> None:
        """All that ends cause, until nothing more is owed."""
        while self.owed or any(flow["owes"] for flow in self.flows):
            self.tell_dependents()
            while owing := [flow for flow in self.flows if flow["owes"]]:
                flow = owing[0]
                state = flow["state"]
                if state == STOPPING:
                    self.stop_what_waits(flow)
                elif state == UNDOING:
                    self.undo(flow)
                else:
                    self.give_back(flow)

    def stop_what_waits(self: Any, flow: dict[str, Any]) -> None:
        for step in flow["steps"]:
            m = self.messages.get(step["number"])
            if flow["state"] == STOPPING and m is not None and m["state"] in WAITING:
                self.stop(m)
        if flow["state"] == STOPPING:
            flow["owes"] = False

    def undo(self: Any, flow: dict[str, Any]) -> None:
        done = [step for step in flow["steps"] if step["end"] == DONE and step["compensate"]]
        before: tuple[int, ...] = ()
        for step in sorted(done, key=lambda step: -step["order"]):
            number = self.hints.undo(flow["number"], flow["steps"].index(step))
            to = step["compensate"]
            extras = copied(
                to.draft.extras or self.hints.no_extras,
                run_id=flow["run"],
                step_id=step["id"],
                depends_on=before,
                on_dependency_failure="run",
            )
            m = self.create(self.queue_or_new(to.queue, True), copied(to.draft, extras=extras), number, ())
            m["origin"] = ("compensation", flow["id"])
            step["undo"] = number
            before = (number,)
        flow["owes"] = False
        self.flow_goes_on(flow)

    def give_back(self: Any, flow: dict[str, Any]) -> None:
        flow["owes"] = False
        for number in [s["number"] for s in flow["steps"]] + [s["undo"] for s in flow["steps"]]:
            m = self.messages.get(number)
            if m is None or m["state"] in UNFINISHED or m["forget"] is not None:
                continue
            keep = self.keep_ms(m, m["state"])
            m["forget"] = self.clock + keep
            if not keep and m["state"] != DEAD:
                self.forget(m)

    def flow_redriven(self, m: dict[str, Any]) -> None:
        found = self.flow_of(m["number"])
        if found is None:
            return
        flow, step, undoes = found
        if flow["state"] in ENDS:
            flow.update(state=UNDOING if undoes else RUNNING, ended=None, owes=False)
        if undoes:
            step["undone"] = None
        else:
            step["end"], step["order"] = None, 0

    def forget_flows(self: Any) -> None:
        self.flows = [f for f in self.flows if f["ended"] is None or f["ended"] + HOUR > self.clock]

    def shown_flow(self: Any, flow: dict[str, Any]) -> tuple[Any, ...]:
        """State, run, end, and of each step and compensation what it is now."""
        steps = []
        for step in flow["steps"]:
            pair = []
            for number, end in ((step["number"], step["end"]), (step["undo"], step["undone"])):
                m = self.messages.get(number)
                pair.append((number, m["state"] if m is not None else (end or CANCELLED)) if number else None)
            steps.append((step["id"], *pair))
        state = "compensating" if flow["state"] in (STOPPING, UNDOING) else flow["state"]
        return (state, flow["run"], flow["ended"], steps)
