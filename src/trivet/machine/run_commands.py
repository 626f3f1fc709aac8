"""What may be asked about runs, and the answers: part of the unions in `commands.py` and `replies.py`."""

from __future__ import annotations

from msgspec import Struct


class NewRunEvent(Struct, array_like=True, frozen=True, gc=False):
    """An event as its sender wrote it. `data` is compact JSON; a repeated `event_id` is dropped (R29)."""

    type: str
    data: bytes = b"null"
    event_id: str | None = None


class AppendRunEvents(Struct, array_like=True, frozen=True, tag=50):
    run_id: str
    events: tuple[NewRunEvent, ...]


class ReplayRun(Struct, array_like=True, frozen=True, tag=51):
    """Enqueue at most `limit` finished messages of the run again, oldest first, after `after` (R25)."""

    run_id: str
    step_id: str | None = None
    limit: int = 1000
    after: int = 0  # a message number
    upto: int | None = None  # messages born after the first batch are left alone


class AppendedOne(Struct, array_like=True, frozen=True, gc=False):
    """`duplicate`: this `event_id` was there already, under this id."""

    id: int
    duplicate: bool = False


class RunEventsAppended(Struct, array_like=True, frozen=True, tag=20):
    events: tuple[AppendedOne, ...]


class ReplayedOne(Struct, array_like=True, frozen=True, gc=False):
    message: int
    origin: int


class RunReplayed(Struct, array_like=True, frozen=True, tag=21):
    """`next`: cursor for the following batch, None at the end; `upto`: see `ReplayRun`."""

    messages: tuple[ReplayedOne, ...]
    next: int | None = None
    upto: int | None = None
