"""The model's runs: how many events each has had, and which event ids it knows (R29). Nothing in a drill is old or
large enough to leave."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from chaos.model.records import Message, Refused


@dataclass(slots=True)
class Run:
    events: int = 0
    ids: dict[str, int] = field(default_factory=dict)


class Runs:
    """Mixed into the model."""

    runs: dict[str, Run]

    def run_hears(self, m: Message) -> None:
        """A message of the run has come to a new state."""
        if m.run_id is not None:
            self.runs.setdefault(m.run_id, Run()).events += 1

    def do_AppendRunEvents(self, c: Any) -> Any:
        run = self.runs.get(c.run_id)
        if run is None:
            raise Refused("run_not_found")
        answers = []
        for new in c.events:
            known = None if new.event_id is None else run.ids.get(new.event_id)
            if known is None:
                run.events += 1
                if new.event_id is not None:
                    run.ids[new.event_id] = run.events
            answers.append((known or run.events, known is not None))
        return ("appended", answers)
