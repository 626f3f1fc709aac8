"""The model's runs: how many events each has had, and which event ids it knows (R29). No event leaves: no
drill tells so many."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from chaos.model.records import Message, Refused

RUN_KEPT = 3_600_000


@dataclass(slots=True)
class Run:
    events: int = 0
    changed: int = 0
    ids: dict[str, int] = field(default_factory=dict)


class Runs:
    """Mixed into the model."""

    runs: dict[str, Run]
    messages: dict[int, Message]
    clock: int

    def run_hears(self, m: Message) -> None:
        """A message of the run has come to a new state."""
        if m.run_id is not None:
            run = self.runs.setdefault(m.run_id, Run())
            run.events += 1
            run.changed = self.clock

    def forget_runs(self) -> None:
        """An hour after the last change, once none of its messages is there."""
        for name in [name for name, run in self.runs.items() if run.changed + RUN_KEPT <= self.clock]:
            if not any(m.run_id == name for m in self.messages.values()):
                del self.runs[name]

    def do_AppendRunEvents(self, c: Any) -> Any:
        run = self.runs.get(c.run_id)
        if run is None:
            raise Refused("run_not_found")
        answers = []
        for new in c.events:
            known = None if new.event_id is None else run.ids.get(new.event_id)
            if known is None:
                run.events += 1
                run.changed = self.clock
                if new.event_id is not None:
                    run.ids[new.event_id] = run.events
            answers.append((known or run.events, known is not None))
        return ("appended", answers)
