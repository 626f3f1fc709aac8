"""The records of a run: the run itself and its events. See `state.py` for what a record is."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from trivet.machine.order import Index

if TYPE_CHECKING:
    from trivet.machine.state import Message

STATES = 7
"""Of a message: `state.STATE_NAMES`."""


class Run:
    """Every message with one run id, and the events of their history.

    * `next_id`: of the next event; ids are dense from 1 and those of `events` end right below it.
    * `changed_at_ms`: the newest event. `finished_at_ms`: when its last unfinished message ended, 0 while one is.
    * `left`: messages that are no longer in the tables, as they ended: done, dead, cancelled.
    * `replays`: number of a message → number of its replay, of replays that are in the tables.
    * `wake_key`: armed exactly while none of its messages is in the tables: then it is forgotten.
    """

    __slots__ = (
        "bytes",
        "changed_at_ms",
        "counts",
        "created_at_ms",
        "event_ids",
        "events",
        "finished_at_ms",
        "left",
        "mark",
        "messages",
        "next_id",
        "number",
        "replays",
        "run_id",
        "wake_key",
    )

    def __init__(self, number: int, run_id: str, at_ms: int, mark: int) -> None:
        # persistent
        self.number = number
        self.run_id = run_id
        self.created_at_ms = at_ms
        self.changed_at_ms = at_ms
        self.finished_at_ms = 0
        self.next_id = 1
        self.left: tuple[int, int, int] = (0, 0, 0)
        self.mark = mark
        # derived
        self.events: deque[RunEvent] = deque()  # oldest first
        self.event_ids: dict[str, int] = {}
        self.bytes = 0
        self.messages: Index[Message] = Index()
        self.counts = [0] * STATES  # of `messages`
        self.replays: dict[int, int] = {}
        self.wake_key = 0

    @property
    def first_id(self) -> int:
        """The oldest event that is kept."""
        return self.next_id - len(self.events)

    def events_after(self, after: int, most: int) -> list[RunEvent]:
        """At most `most` events with ids above `after`, oldest first."""
        start = max(0, after + 1 - self.first_id)
        return [self.events[at] for at in range(start, min(start + most, len(self.events)))]

    def to_data(self) -> list[Any]:
        return [
            self.number,
            self.run_id,
            self.created_at_ms,
            self.changed_at_ms,
            self.finished_at_ms,
            self.next_id,
            self.left,
        ]


class RunEvent(Struct, eq=False, gc=False):
    """One event, never changed. `data`: compact JSON. Of a transition `type` is one of `runs.TRANSITIONS`."""

    run: Run
    id: int
    at_ms: int
    type: str
    data: bytes
    event_id: str | None
    mark: int

    def to_data(self) -> list[Any]:
        return [self.run.number, self.id, self.at_ms, self.type, self.data, self.event_id]


class RunData(Struct, array_like=True):
    """`Run.to_data` as it comes back: see `persistent.MessageData`."""

    number: int
    run_id: str
    created_at_ms: int
    changed_at_ms: int
    finished_at_ms: int
    next_id: int
    left: tuple[int, int, int]


class RunEventData(Struct, array_like=True):
    """Of a run: after it, the oldest first."""

    run: int
    id: int
    at_ms: int
    type: str
    data: bytes
    event_id: str | None
