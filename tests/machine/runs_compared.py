"""Runs of machine and model side by side."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from trivet.machine.core import Machine
from trivet.machine.state import STATE_NAMES


def compare_runs(machine: Machine, runs: dict[str, dict[str, Any]]) -> None:
    """All that is told of each run. The order among messages is the machine's where one `Expire` wakes several."""
    for run_id, run in machine.runs.items():
        if run_id not in runs:
            # Its time has come; a run is forgotten in pieces, and the next piece is due.
            assert not run.messages.live
            due = machine.next_deadline_ms()
            assert due is not None and due <= machine.clock_ms
    assert set(runs) <= set(machine.runs)
    for run_id, known in runs.items():
        run = machine.runs[run_id]
        assert run.next_id == known["next"], run_id
        assert run.changed_at_ms == known["changed"]
        assert (run.finished_at_ms or None) == known["finished"]
        states = Counter(member["state"] for member in known["members"].values())
        done, dead, cancelled = run.left
        shown = dict(zip(STATE_NAMES, run.counts, strict=True))
        for name, count in (("done", done), ("dead", dead), ("cancelled", cancelled)):
            shown[name] += count
        assert {name: count for name, count in shown.items() if count} == dict(states)
        machines, models = histories(machine, run_id), {}
        for event in known["events"]:
            subject = event["data"]["message_id"] if event["type"].startswith("message.") else ""
            models.setdefault(subject, []).append(
                (event["at"], event["type"], event["data"], event["event_id"])
            )
        assert machines == models, run_id
        ids = {event["event_id"]: event["id"] for event in known["events"] if event["event_id"] is not None}
        assert run.event_ids == ids


def histories(machine: Machine, run_id: str) -> dict[str, list[Any]]:
    """By message ("" for what workers appended), each in its order."""
    found: dict[str, list[Any]] = {}
    for event in machine.runs[run_id].events:
        if event.type.startswith("message."):
            data = json.loads(event.data)
            found.setdefault(data["message_id"], []).append((event.at_ms, event.type, data, None))
        else:
            found.setdefault("", []).append((event.at_ms, event.type, event.data, event.event_id))
    return found
