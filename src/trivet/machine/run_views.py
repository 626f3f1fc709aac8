"""Reads of runs for the HTTP layer: see `views`. Events and timelines are `Event`s, whose data is JSON already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from trivet.limits import ANSWER_BYTES_MAX
from trivet.machine.ids import message_id
from trivet.machine.run_state import Run
from trivet.machine.runs import REPLAY, TRANSITIONS, size_of
from trivet.machine.state import DEAD, LEASED, STATE_NAMES, Message, extras_of, is_gone, max_attempts_of

if TYPE_CHECKING:
    from trivet.machine.core import Machine

TIMELINE_MAX = 1000  # the newest transitions that a run shows; its events have them all
TIMELINE_BYTES_MAX = 1 << 20

_TRANSITIONS = frozenset(TRANSITIONS)


class Event(NamedTuple):
    """`data`: compact JSON; of a transition an object."""

    id: int
    at_ms: int
    type: str
    data: bytes


class Page(NamedTuple):
    """Events of a run, oldest first, all above what was asked for. `first_id`: the oldest that is kept; readers
    that stand below it have missed some (R29). `next_id`: of the event that comes next."""

    events: list[Event]
    first_id: int
    next_id: int


def run(m: Machine, run_id: str, limit: int, after: int = 0) -> dict[str, Any] | None:
    """A run, at most `limit` of its steps after the message number `after`, and the newest of its timeline."""
    found = m.runs.get(run_id)
    if found is None:
        return None
    steps = found.messages.slice_after(after, limit + 1)
    return {
        **_summary(found),
        "steps": [_step(found, message) for message in steps[:limit]],
        "next": message_id(steps[limit - 1].number) if len(steps) > limit else None,
        "timeline": _timeline(found),
    }


def runs(m: Machine, limit: int, after: int = 0) -> tuple[list[dict[str, Any]], int | None]:
    """At most `limit` runs, oldest first, after the cursor `after`; and the cursor to go on, None at the end."""
    found = m.run_index.slice_after(after, limit + 1)
    shown = found[:limit]
    return [_summary(each) for each in shown], shown[-1].number if len(found) > limit else None


def events(m: Machine, run_id: str, after: int, limit: int, max_bytes: int = ANSWER_BYTES_MAX) -> Page | None:
    """At most `limit` events after the id `after`, at least one whatever its size; None: no such run."""
    found = m.runs.get(run_id)
    if found is None:
        return None
    shown: list[Event] = []
    size = 0
    for event in found.events_after(after, limit):
        size += size_of(event)
        if shown and size > max_bytes:
            break
        shown.append(Event(event.id, event.at_ms, event.type, event.data))
    return Page(shown, found.first_id, found.next_id)


def _summary(found: Run) -> dict[str, Any]:
    counts = dict(zip(STATE_NAMES, found.counts, strict=True))
    for name, count in zip(STATE_NAMES[LEASED + 1 :], found.left, strict=True):
        counts[name] += count
    return {
        "run_id": found.run_id,
        "counts": counts,
        "started_at_ms": found.created_at_ms,
        "changed_at_ms": found.changed_at_ms,
        "finished_at_ms": found.finished_at_ms or None,
        "first_event_id": found.first_id,
        "next_event_id": found.next_id,
    }


def _step(found: Run, message: Message) -> dict[str, Any]:
    extras = extras_of(message.draft)
    gone = message.state <= LEASED and is_gone(message)  # purged, and no sweep has come by yet
    shown: dict[str, Any] = {
        "step_id": extras.step_id,
        "message_id": message_id(message.number),
        "queue": message.queue.name,
        "state": "cancelled" if gone else STATE_NAMES[message.state],
        "attempt": message.attempt,
        "max_attempts": max_attempts_of(message),
        "enqueued_at_ms": message.enqueued_at_ms,
    }
    if extras.parent_step_id is not None:
        shown["parent_step_id"] = extras.parent_step_id
    if extras.depends_on:
        shown["depends_on"] = [message_id(number) for number in extras.depends_on]
    if message.state > LEASED:
        shown["finished_at_ms"] = message.finished_at_ms
    if message.state == DEAD:
        shown["dead_reason"] = message.dead_reason
    if message.origin is not None and message.origin[0] == REPLAY:
        shown["replay_of"] = message.origin[1]
    replay = found.replays.get(message.number)
    if replay is not None:
        shown["replayed_by"] = message_id(replay)
    return shown


def _timeline(found: Run) -> list[Event]:
    newest: list[Event] = []
    size = 0
    for event in reversed(found.events):
        if event.type in _TRANSITIONS:
            size += len(event.data)
            if len(newest) == TIMELINE_MAX or size > TIMELINE_BYTES_MAX:
                break
            newest.append(Event(event.id, event.at_ms, event.type, event.data))
    newest.reverse()
    return newest
