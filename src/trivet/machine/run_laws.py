"""The laws of runs, recounted from the messages and events: a part of `invariants.check`."""

from __future__ import annotations

from typing import Any, Protocol

from trivet.limits import RUN_EVENT_BYTES_MAX, RUN_EVENTS_MAX, RUN_RETENTION_MS
from trivet.machine.core import Machine
from trivet.machine.run_state import Run
from trivet.machine.state import Message

UNFINISHED = range(4)


class Report(Protocol):
    def law(self, holds: bool, what: str) -> None: ...

    def equal(self, found: Any, expected: Any, what: str) -> None: ...


def check(m: Machine, report: Report) -> None:
    members: dict[str, list[Message]] = {}
    for number in sorted(m.messages):
        extras = m.messages[number].draft.extras
        if extras is not None and extras.run_id is not None:
            members.setdefault(extras.run_id, []).append(m.messages[number])
    runs = list(m.run_index.after(0))
    report.equal(sorted(m.runs), sorted(run.run_id for run in runs), "runs by id")
    report.equal(m.run_index.live, len(runs), "runs count")
    for run in runs:
        report.law(m.runs.get(run.run_id) is run, f"run {run.run_id} is filed wrongly")
        _check_run(m, run, members.pop(run.run_id, []), report)
    report.law(not members, f"messages of runs that are not there: {list(members)}")
    report.equal(m.run_bytes, sum(run.bytes for run in runs), "bytes of all events")
    idle = {run.wake_key: run for run in runs if not run.messages.live}
    found = {key: run for key, run in m.idle_runs.entries() if run.wake_key == key}
    report.law(found == idle, f"idle runs {sorted(found)}, recounted {sorted(idle)}")
    report.equal(m.idle_runs.live, len(idle), "idle runs count")


def _check_run(m: Machine, run: Run, members: list[Message], report: Report) -> None:
    name = f"run {run.run_id}"
    report.equal(
        [each.number for each in run.messages.after(0)], [x.number for x in members], f"{name} messages"
    )
    states = [sum(x.state == code for x in members) for code in range(7)]
    report.equal(run.counts, states, f"{name} counts")
    unfinished = sum(states[code] for code in UNFINISHED)
    report.equal(bool(run.finished_at_ms), not unfinished, f"{name} is finished")
    report.equal(
        run.replays,
        {
            int(x.origin[1][1:], 16): x.number
            for x in members
            if x.origin is not None and x.origin[0] == "replay"
        },
        f"{name} replays",
    )
    events = list(run.events)
    ids = list(range(run.next_id - len(events), run.next_id))
    report.equal([event.id for event in events], ids, f"{name} ids are dense")
    report.law(bool(events) and ids[0] > 0, f"{name}: ids from 1, the newest is kept")
    report.law(all(event.run is run for event in events), f"{name}: an event of another run")
    instants = [event.at_ms for event in events]
    report.law(instants == sorted(instants), f"{name}: time goes back")
    report.equal(run.changed_at_ms, instants[-1] if instants else None, f"{name} changed")
    known = {event.event_id: event.id for event in events if event.event_id is not None}
    report.equal(run.event_ids, known, f"{name} event ids")
    report.equal(
        len(known), sum(event.event_id is not None for event in events), f"{name}: one id, one event"
    )
    size = sum(
        len(event.type.encode()) + len(event.data) + len((event.event_id or "").encode()) for event in events
    )
    report.equal(run.bytes, size, f"{name} bytes")
    report.law(len(events) <= RUN_EVENTS_MAX and size <= RUN_EVENT_BYTES_MAX, f"{name} is over its limits")
    wake = 0 if members else run.changed_at_ms + RUN_RETENTION_MS
    report.equal(run.wake_key >> 64, wake, f"{name} is forgotten at")
