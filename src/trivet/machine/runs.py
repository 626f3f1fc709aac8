"""Runs (api.md, R29): what belongs to one, its events, and how long it is remembered.

A run comes into being with the first message that names it. Each step of the life cycle of its messages
becomes an event `message.<state>` (the audit), beside the events that workers append. `transitions` and
`intake` call `born`, `moved` and `left`; loading a snapshot calls `loaded`, which appends nothing.

An event of a run has its id for ever; the oldest leave at the run's limits, and readers are told (R29). A
run is forgotten `RUN_RETENTION_MS` after its last change once none of its messages is in the tables,
piece by piece (R25); earlier only if there are too many such runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trivet.limits import (
    RUN_EVENT_BYTES_MAX,
    RUN_EVENTS_MAX,
    RUN_RETENTION_MS,
    RUNS_BYTES_MAX,
    RUNS_IDLE_MAX,
)
from trivet.machine.ids import message_id, parse_message_id
from trivet.machine.persistent import LeaseInfo
from trivet.machine.replies import Refusal
from trivet.machine.run_commands import AppendedOne, AppendRunEvents, RunEventsAppended
from trivet.machine.run_state import Run, RunData, RunEvent, RunEventData
from trivet.machine.state import (
    CANCELLED,
    DEAD,
    DELAYED,
    DONE,
    LEASED,
    STATE_NAMES,
    WAKE_RUN,
    Message,
    wake_key,
)

if TYPE_CHECKING:
    from trivet.machine.core import Machine

TRANSITIONS = tuple(f"message.{name}" for name in STATE_NAMES)
REPLAY = "replay"
FORGOTTEN_AT_ONCE = 4  # events that are one piece of work for `Expire`

_encode = msgspec.json.Encoder().encode


def run_id_of(message: Message) -> str | None:
    """The run that a message belongs to."""
    extras = message.draft.extras
    return None if extras is None else extras.run_id


def replay_of(message: Message) -> int | None:
    """The number of the message that this one is a replay of."""
    origin = message.origin
    return parse_message_id(origin[1]) if origin is not None and origin[0] == REPLAY else None


# --- messages -----------------------------------------------------------------------------------------


def born(m: Machine, message: Message) -> None:
    """A new message of a run, already in the sets of its first state."""
    run_id = run_id_of(message)
    assert run_id is not None
    run = m.runs.get(run_id)
    if run is None:
        run = Run(m.new_number(), run_id, m.clock_ms, m.walk_mark)
        m.runs[run_id] = run
        m.run_index.add(run.number, run)
    else:
        m.touch(run)
    _join(m, run, message)
    more: dict[str, Any] = {}
    if message.origin is not None and message.origin[0] == REPLAY:
        more = {"reason": "replayed", "origin": message.origin[1]}
    _note(m, run, message, more)


def _join(m: Machine, run: Run, message: Message) -> None:
    if run.wake_key:
        _disarm(m, run)
    run.messages.add(message.number, message)
    run.counts[message.state] += 1
    origin = replay_of(message)
    if origin is not None:
        run.replays[origin] = message.number


def moved(m: Machine, message: Message, origin: int, lease: LeaseInfo | None, reason: str = "") -> None:
    """A message of a run took a step from the state `origin`. `lease`: the one that ended with it.

    `reason`: why, where neither the lease's end nor the message says so.
    """
    run_id = run_id_of(message)
    assert run_id is not None
    run = m.runs[run_id]
    m.touch(run)
    run.counts[origin] -= 1
    run.counts[message.state] += 1
    more: dict[str, Any] = {}
    state = message.state
    if state == LEASED:
        assert message.lease is not None
        more = {"attempt": message.attempt, "consumer": message.lease.consumer}
    elif lease is not None:
        more = _delivery(message, lease)
    if state == DEAD:
        reason = message.dead_reason or reason
    if reason:
        more["reason"] = reason
    _note(m, run, message, more)


def _delivery(message: Message, lease: LeaseInfo) -> dict[str, Any]:
    """How a delivery ended, for the event of what came of it."""
    ended = message.history[-1] if message.history else None
    if ended is None or ended.fence != lease.fence:  # an ack that leaves nothing to keep writes no history
        return {"attempt": message.attempt, "consumer": lease.consumer}
    told: dict[str, Any] = {"attempt": ended.attempt, "consumer": ended.consumer}
    if ended.error is not None:
        told["error"] = ended.error
    if message.state < LEASED:
        told["reason"] = ended.outcome
    return told


def left(m: Machine, message: Message) -> None:
    """A finished message of a run leaves the tables."""
    run_id = run_id_of(message)
    assert run_id is not None
    run = m.runs[run_id]
    m.touch(run)
    run.messages.discard(message.number)
    run.counts[message.state] -= 1
    done, dead, cancelled = run.left
    state = message.state
    run.left = (done + (state == DONE), dead + (state == DEAD), cancelled + (state == CANCELLED))
    origin = replay_of(message)
    if origin is not None:
        del run.replays[origin]
    if not run.messages.live:
        _arm(m, run)


def loaded(m: Machine, message: Message) -> None:
    """A message of a snapshot; its run is there already."""
    run_id = run_id_of(message)
    if run_id is not None:
        _join(m, m.runs[run_id], message)


# --- events -------------------------------------------------------------------------------------------


def _note(m: Machine, run: Run, message: Message, more: dict[str, Any]) -> None:
    """The event of a transition: the message is in its new state."""
    extras = message.draft.extras
    told: dict[str, Any] = {"message_id": message_id(message.number)}
    if extras is not None and extras.step_id is not None:
        told["step_id"] = extras.step_id
    told["queue"] = message.queue.name
    if message.state == DELAYED:
        told["deliver_at_ms"] = message.due_at_ms
    told.update(more)
    _append(m, run, TRANSITIONS[message.state], _encode(told), None)
    run.finished_at_ms = 0 if any(run.counts[: LEASED + 1]) else m.clock_ms
    _trim(m, run)


def append(m: Machine, command: AppendRunEvents) -> RunEventsAppended | Refusal:
    """All events or none. Refuses `run_not_found`, and `overloaded` while all runs together hold too much.

    An event id that is known in the run is dropped; its answer is the first event's id.
    """
    run = m.runs.get(command.run_id)
    if run is None:
        return Refusal("run_not_found", f"no run {command.run_id!r}")
    known = run.event_ids
    if m.run_bytes >= RUNS_BYTES_MAX and any(new.event_id not in known for new in command.events):
        return Refusal("overloaded", "the events of all runs take too much", None, RUNS_BYTES_MAX, 1000)
    m.touch(run)
    appended: list[AppendedOne] = []
    for new in command.events:
        first = None if new.event_id is None else known.get(new.event_id)
        if first is None:
            appended.append(AppendedOne(_append(m, run, new.type, new.data, new.event_id)))
        else:
            appended.append(AppendedOne(first, duplicate=True))
    _trim(m, run)
    if run.wake_key:
        _disarm(m, run)
        _arm(m, run)
    return RunEventsAppended(tuple(appended))


def _append(m: Machine, run: Run, type: str, data: bytes, event_id: str | None) -> int:
    """The run was touched by the caller, who trims it afterwards."""
    event = RunEvent(run, run.next_id, m.clock_ms, type, data, event_id, m.walk_mark)
    run.next_id += 1
    run.changed_at_ms = m.clock_ms
    _keep(m, run, event)
    m.hints.runs[run.run_id] = None
    return event.id


def _keep(m: Machine, run: Run, event: RunEvent) -> None:
    run.events.append(event)
    if event.event_id is not None:
        run.event_ids[event.event_id] = event.id
    size = size_of(event)
    run.bytes += size
    m.run_bytes += size


def size_of(event: RunEvent) -> int:
    """What an event counts: the bytes of its type, its data and its event id."""
    size = len(event.data) + _bytes(event.type)
    return size if event.event_id is None else size + _bytes(event.event_id)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _trim(m: Machine, run: Run) -> None:
    """Over a limit the oldest events leave (R29)."""
    events = run.events
    while len(events) > RUN_EVENTS_MAX or run.bytes > RUN_EVENT_BYTES_MAX:
        _drop_oldest(m, run)


def _drop_oldest(m: Machine, run: Run) -> None:
    event = run.events[0]
    if m.walk_mark:
        m.touch(event)
    run.events.popleft()
    if event.event_id is not None:
        del run.event_ids[event.event_id]
    size = size_of(event)
    run.bytes -= size
    m.run_bytes -= size


# --- how long a run is remembered ---------------------------------------------------------------------


def _arm(m: Machine, run: Run) -> None:
    """None of its messages is in the tables."""
    run.wake_key = wake_key(run.changed_at_ms + RUN_RETENTION_MS, WAKE_RUN, run.number)
    m.deadlines.push(run.wake_key, run)
    m.idle_runs.push(run.wake_key, run)


def _disarm(m: Machine, run: Run) -> None:
    run.wake_key = 0
    m.deadlines.drop()
    m.idle_runs.drop()


def forget_some(m: Machine, run: Run, budget: int) -> int:
    """Forget an idle run whose time has come, with bounded work: its oldest events first, so that its readers
    meet a gap, and itself with the last of them. Answers how much of the budget it took."""
    for done in range(1, budget + 1):
        for _ in range(min(FORGOTTEN_AT_ONCE, len(run.events))):
            _drop_oldest(m, run)
        if not run.events:
            m.touch(run)
            _disarm(m, run)
            del m.runs[run.run_id]
            m.run_index.discard(run.number)
            m.hints.runs[run.run_id] = None
            return done
    return budget


def excess(m: Machine) -> bool:
    """More idle runs than are kept, or their events take too much: the oldest leave before their time."""
    return m.idle_runs.live > RUNS_IDLE_MAX or (m.run_bytes > RUNS_BYTES_MAX and m.idle_runs.live > 0)


def drop_excess(m: Machine, budget: int) -> int:
    done = 0
    while done < budget and excess(m):
        entry = m.idle_runs.peek()
        assert entry is not None
        done += forget_some(m, entry[1], budget - done)
        m.runs_forgotten += not entry[1].wake_key
    return done


# --- snapshots ----------------------------------------------------------------------------------------


def load_run(m: Machine, data: RunData) -> None:
    """A run, before its events and messages: idle until the first message comes."""
    run = Run(data.number, data.run_id, data.created_at_ms, 0)
    run.changed_at_ms = data.changed_at_ms
    run.finished_at_ms = data.finished_at_ms
    run.next_id = data.next_id
    run.left = data.left
    m.runs[run.run_id] = run
    m.run_index.add(run.number, run)
    _arm(m, run)


def load_event(m: Machine, data: RunEventData) -> None:
    """An event of a loaded run, the oldest first."""
    run = next(m.run_index.after(data.run - 1), None)
    if run is None or run.number != data.run:
        raise KeyError(data.run)
    _keep(m, run, RunEvent(run, data.id, data.at_ms, data.type, data.data, data.event_id, 0))
