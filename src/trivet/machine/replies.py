"""What the machine answers: plain data, one reply a request, equal on every node (R11).

A reply holds no reference into the state, so it can be stored for repeats (R12) and hashed into the
digest. What it says of many messages alike stands in it once, or in columns: each node makes and hashes
each reply. The HTTP layer turns it into JSON; what a lease shows of a message is read from the state
right after apply (`views.leased`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

from trivet.machine.run_commands import RunEventsAppended, RunReplayed


class Refusal(Struct, array_like=True, frozen=True, tag=1):
    """Nothing changed. `code` is one of `errors.CODES`; `field` a JSON pointer into the request."""

    code: str
    detail: str
    field: str | None = None
    limit: int | None = None
    retry_after_ms: int | None = None


class Done(Struct, array_like=True, frozen=True, tag=2):
    """The command took effect and there is nothing more to say. `count`: how many it concerned."""

    count: int = 0
    more: bool = False  # Expire, sweeps: more is due now


class QueueSaved(Struct, array_like=True, frozen=True, tag=3):
    name: str
    created: bool
    revision: int


class EnqueuedOne(Struct, array_like=True, frozen=True, gc=False):
    """`state` is the first message's state now when `duplicate`, with its result if it is finished."""

    message: int
    state: str
    duplicate: bool = False
    result: bytes | None = None


class Enqueued(Struct, array_like=True, frozen=True, tag=4):
    """`count` new messages from number `first` on, all ready, or `each` of them."""

    each: tuple[EnqueuedOne, ...] = ()
    first: int = 0
    count: int = 0

    @property
    def messages(self) -> tuple[EnqueuedOne, ...]:
        if not self.count:
            return self.each
        return tuple([EnqueuedOne(number, "ready") for number in range(self.first, self.first + self.count)])


def enqueued(made: Sequence[EnqueuedOne]) -> Enqueued:
    """The one form an answer of these messages has: equal whichever code made them."""
    first = made[0].message if made else 0
    for number, one in enumerate(made, first):
        if one.message != number or one.state != "ready" or one.duplicate:
            return Enqueued(tuple(made))
    return Enqueued(first=first, count=len(made))


class Grant(NamedTuple):
    """One row of `Leased`. Its token's mac is not written: it follows from fence and message (R13)."""

    message: int
    fence: int
    lease_expires_at_ms: int
    attempt: int


class Leased(Struct, array_like=True, frozen=True, tag=5):
    """What was leased, in columns. `lost`: of a repeated lease request, how many are no longer live (R18)."""

    messages: tuple[int, ...]
    fences: tuple[int, ...]
    lease_expires_at_ms: tuple[int, ...]
    attempts: tuple[int, ...]
    now_ms: int
    lost: int = 0

    @property
    def grants(self) -> tuple[Grant, ...]:
        return tuple(map(Grant, self.messages, self.fences, self.lease_expires_at_ms, self.attempts))


class Settled(Struct, array_like=True, frozen=True, gc=False):
    """One item's answer. `status`: acked | nacked | dead | extended | released | stale_lease | not_found,
    or a refusal's code when an ack's effect was refused (R27)."""

    status: str
    repeated: bool = False
    state: str | None = None
    deliver_at_ms: int | None = None
    lease_expires_at_ms: int | None = None
    cancelled: bool = False


ACKED = Settled("acked")


class SettledAll(Struct, array_like=True, frozen=True, tag=6):
    """`acked` items, all with the answer `ACKED`, or `each` of them."""

    each: tuple[Settled, ...] = ()
    messages: tuple[EnqueuedOne, ...] | None = None  # ack with enqueue
    acked: int = 0

    @property
    def results(self) -> tuple[Settled, ...]:
        return (ACKED,) * self.acked or self.each


def all_settled(results: Sequence[Settled]) -> SettledAll:
    """The one form the answer to an ack of nothing but tokens has."""
    if results.count(ACKED) == len(results):
        return SettledAll(acked=len(results))
    return SettledAll(tuple(results))


class MessageChanged(Struct, array_like=True, frozen=True, tag=7):
    """Cancel, patch, progress: the message's state now; `cancelled` if a leased one was marked (R22)."""

    message: int
    state: str
    cancelled: bool = False
    lease_expires_at_ms: int | None = None


class Redriven(Struct, array_like=True, frozen=True, tag=8):
    """`next`: cursor for the following batch, None at the end; `upto`: see `commands.Redrive`."""

    ids: tuple[int, ...]
    next: int | None = None
    upto: int | None = None


class EffectState(Struct, array_like=True, frozen=True, tag=9):
    """`state`: granted | done | aborted."""

    state: str
    uncertain: bool = False
    fence: int | None = None
    mac: bytes | None = None
    result: bytes | None = None
    expires_at_ms: int | None = None
    repeated: bool = False


class TopicSaved(Struct, array_like=True, frozen=True, tag=25):
    name: str
    created: bool


class GroupSaved(Struct, array_like=True, frozen=True, tag=26):
    """As `QueueSaved`, of the group's queue. `replayed`: retained entries a new group starts with."""

    name: str
    created: bool
    revision: int
    replayed: int = 0


class Published(Struct, array_like=True, frozen=True, tag=27):
    """`offsets`, aligned with the drafts; the position of a draft whose key came before is in `duplicates`.
    `numbers`: for each of `groups` the message each other draft became. A group that is catching up is left
    out: it gets these entries in their turn."""

    offsets: tuple[int, ...]
    duplicates: tuple[int, ...] = ()
    groups: tuple[str, ...] = ()
    numbers: tuple[tuple[int, ...], ...] = ()


class Replayed(Struct, array_like=True, frozen=True, tag=28):
    """`count` entries from `from_offset` on come again; `more`: not all of them with this command."""

    count: int
    from_offset: int
    more: bool = False


class ScheduleSaved(Struct, array_like=True, frozen=True, tag=30):
    name: str
    created: bool
    revision: int


class SlotEnd(Struct, array_like=True, frozen=True, gc=False):
    """How one step of a schedule ended. `status`: fired | skipped | passed | blocked (`code`: what refused it;
    the slot is still owed) | stale (changed, gone, paused, or decided before)."""

    status: str
    message: int | None = None
    code: str | None = None


class SlotsDecided(Struct, array_like=True, frozen=True, tag=31):
    results: tuple[SlotEnd, ...]


class ScheduleRun(Struct, array_like=True, frozen=True, tag=32):
    message: int
    state: str


class FlowCreated(Struct, array_like=True, frozen=True, tag=35):
    """`steps` are aligned with those asked for."""

    flow: int
    run_id: str
    steps: tuple[EnqueuedOne, ...]


Reply = (
    Refusal
    | Done
    | QueueSaved
    | Enqueued
    | Leased
    | SettledAll
    | MessageChanged
    | Redriven
    | EffectState
    | ScheduleSaved
    | SlotsDecided
    | ScheduleRun
    | TopicSaved
    | GroupSaved
    | Published
    | Replayed
    | FlowCreated
    | RunEventsAppended
    | RunReplayed
)


class Answer(Struct, array_like=True, frozen=True):
    """A reply with its place. `repeated`: the stored reply of an earlier request with this id (R12);
    `index`, `seq`, `term` are then those of the first."""

    reply: Reply
    index: int
    seq: int
    repeated: bool = False
