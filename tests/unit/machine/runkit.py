"""A machine with runs, and short ways to ask it about them."""

from __future__ import annotations

import json
from typing import Any

from tests.unit.machine.kit import Kit
from trivet.machine import commands as c
from trivet.machine import invariants
from trivet.machine.commands import Draft, Extras
from trivet.machine.run_commands import (
    AppendRunEvents,
    NewRunEvent,
    ReplayRun,
    RunEventsAppended,
    RunReplayed,
)
from trivet.machine.run_state import Run

HOUR = 3_600_000


class RunKit(Kit):
    """Every entry is checked against the laws."""

    def answers(self, *requests: c.Request) -> Any:
        answers = super().answers(*requests)
        assert invariants.check(self.m) == []
        return answers

    def put_step(self, step: str | None = None, run: str = "r", queue: str = "q", **fields: Any) -> int:
        extras = {
            name: fields.pop(name) for name in ("depends_on", "on_dependency_failure") if name in fields
        }
        draft = Draft(b"1", extras=Extras(run_id=run, step_id=step, **extras), **fields)
        return self.put(draft, queue=queue)[0]

    def run(self, run: str = "r") -> Run:
        return self.m.runs[run]

    def append(self, *events: NewRunEvent | str, run: str = "r") -> list[tuple[int, bool]]:
        made = tuple(NewRunEvent(one) if isinstance(one, str) else one for one in events)
        reply = self(AppendRunEvents(run, made))
        assert isinstance(reply, RunEventsAppended), reply
        return [(one.id, one.duplicate) for one in reply.events]

    def replay(self, step: str | None = None, run: str = "r", **more: Any) -> dict[int, int]:
        """Message → the one it is a replay of."""
        reply = self(ReplayRun(run, step, **more))
        assert isinstance(reply, RunReplayed), reply
        return {one.message: one.origin for one in reply.messages}

    def told(self, run: str = "r") -> list[tuple[str, dict[str, Any]]]:
        return [
            (event.type.removeprefix("message."), json.loads(event.data)) for event in self.run(run).events
        ]

    def types(self, run: str = "r") -> list[str]:
        return [type for type, _ in self.told(run)]


def make(**config: object) -> RunKit:
    kit = RunKit()
    kit.queue(**{"backoff": c.Backoff("fixed", 100, jitter_milli=0), **config})
    return kit
