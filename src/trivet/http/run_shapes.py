"""What the calls of runs answer: see `shapes`."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from trivet.http.shapes import DeadReason, Flag, State


class RunCounts(Struct):
    """Messages of the run by state, those that are no longer there too."""

    blocked: int
    delayed: int
    ready: int
    leased: int
    done: int
    dead: int
    cancelled: int


class RunSummary(Struct, kw_only=True):
    run_id: str
    counts: RunCounts
    started_at_ms: int
    changed_at_ms: int
    finished_at_ms: int | None
    first_event_id: int
    next_event_id: int


class Runs(Struct):
    """Oldest first."""

    runs: list[RunSummary]
    next: str | None


class RunStep(Struct, kw_only=True):
    """A message of the run."""

    step_id: str | None
    message_id: str
    queue: str
    state: State
    attempt: int
    max_attempts: int
    enqueued_at_ms: int
    parent_step_id: str | UnsetType = UNSET
    depends_on: list[str] | UnsetType = UNSET
    finished_at_ms: int | UnsetType = UNSET
    dead_reason: DeadReason | UnsetType = UNSET
    replay_of: str | UnsetType = UNSET
    replayed_by: str | UnsetType = UNSET


class RunMoment(Struct, kw_only=True):
    """A transition of one of the run's messages: `message.` and its new state."""

    id: int
    at_ms: int
    type: str
    message_id: str
    queue: str
    step_id: str | UnsetType = UNSET
    attempt: int | UnsetType = UNSET
    consumer: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    deliver_at_ms: int | UnsetType = UNSET
    origin: str | UnsetType = UNSET


class Run(RunSummary, kw_only=True):
    steps: list[RunStep]
    next: str | None
    timeline: list[RunMoment]


class RunEvent(Struct, kw_only=True):
    id: int
    at_ms: int
    type: str
    data: Any


class RunEvents(Struct, kw_only=True):
    """`first_id` above the position asked for plus one: the events between have left."""

    events: list[RunEvent]
    next: int | None
    first_id: int


class EventAppended(Struct, kw_only=True):
    id: int
    duplicate: Flag = UNSET


class EventsAppended(Struct):
    """Aligned with the events of the request."""

    events: list[EventAppended]


class ReplayOrigin(Struct):
    type: Literal["replay"]
    message_id: str


class ReplayedMessage(Struct):
    id: str
    origin: ReplayOrigin


class RunReplayed(Struct):
    messages: list[ReplayedMessage]
