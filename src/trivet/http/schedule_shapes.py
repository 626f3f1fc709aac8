"""What calls of schedules take and answer: see `schema.py` and `shapes.py`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from trivet import limits
from trivet.http.schema import In, MessageFields, QueueName, said, words
from trivet.http.shapes import EnqueuedOne

MISFIRES = ("fire_once", "skip")
OVERLAPS = ("allow", "skip")
NOT_OF_A_SCHEDULE = (
    "deliver_at_ms",
    "idempotency_key",
    "idempotency_window_ms",
    "depends_on",
    "on_dependency_failure",
)


class ScheduledIn(MessageFields, forbid_unknown_fields=True):
    """What is enqueued at each slot; the slot is its idempotency key."""

    extra_schema: ClassVar = {
        "allOf": [
            *MessageFields.extra_schema["allOf"],
            {"not": {"anyOf": [{"required": [name]} for name in NOT_OF_A_SCHEDULE]}},
        ]
    }


class ScheduleIn(In, kw_only=True):
    """A timetable and what it enqueues; what is not given has its default."""

    extra_schema: ClassVar = {"oneOf": [{"required": ["cron"]}, {"required": ["every_ms"]}]}

    cron: (
        Annotated[str, said(minLength=1, maxLength=limits.CRON_BYTES_MAX, examples=["0 9 * * 1-5"])]
        | UnsetType
    ) = UNSET
    every_ms: Annotated[int, Meta(ge=limits.EVERY_MS_MIN, le=limits.EVERY_MS_MAX)] | UnsetType = UNSET
    timezone: Annotated[str, said(examples=["Europe/Berlin"])] = "UTC"
    queue: QueueName
    message: ScheduledIn | UnsetType = UNSET
    misfire: Annotated[str, words(*MISFIRES)] = "fire_once"
    overlap: Annotated[str, words(*OVERLAPS)] = "allow"


class ScheduledOutlineIn(Struct):
    body: Raw | UnsetType = UNSET


class ScheduleOutlineIn(Struct):
    """The heavy part of a big one, without taking it apart."""

    message: ScheduledOutlineIn | UnsetType = UNSET


# --- answers ------------------------------------------------------------------------------------------


class ScheduleFire(Struct):
    """The newest message of a schedule. `by_hand`: of a run; then the slot is the instant of that."""

    slot_ms: int
    message_id: str
    by_hand: bool


class ScheduleSkip(Struct):
    """The newest slot that got no message."""

    slot_ms: int
    reason: Literal["missed", "overlap", "paused", "replaced", "key_taken"]


class ScheduleBlocked(Struct):
    """The next slot could not be enqueued; it is owed, and tried again."""

    code: str
    since_at_ms: int
    retry_at_ms: int
    tries: int


class ScheduleBasics(Struct, kw_only=True):
    """A schedule in a list."""

    name: str
    cron: str | None
    every_ms: int | None
    timezone: str
    queue: str
    misfire: Literal["fire_once", "skip"]
    overlap: Literal["allow", "skip"]
    paused: bool
    revision: int
    created_at_ms: int
    anchor_at_ms: int
    decided_at_ms: int
    next_slot_at_ms: int | None
    next_fires_at_ms: list[int]
    fired: int
    skipped: int
    last_fire: ScheduleFire | None
    last_skip: ScheduleSkip | None
    blocked: ScheduleBlocked | None


class Schedule(ScheduleBasics, kw_only=True):
    message: dict[str, Any]


class Schedules(Struct):
    schedules: list[ScheduleBasics]
    next: str | None


class ScheduleRun(Struct):
    message_id: str
    messages: list[EnqueuedOne]
