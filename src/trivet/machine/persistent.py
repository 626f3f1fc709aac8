"""The plain values that snapshots hold: parts of records, records that never change, and the forms in which
records come back (`state.py` has the records themselves).

The order of fields is the format on disk: a new one goes to the end, with a default.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from trivet.machine.commands import Draft, QueueConfig
from trivet.machine.replies import Settled


class Attempt(Struct, array_like=True, frozen=True, gc=False):
    """One ended delivery. `outcome`: acked | nacked | expired | released | cancelled."""

    attempt: int
    consumer: str
    started_at_ms: int
    ended_at_ms: int
    outcome: str
    error: str | None
    fence: int


class ProgressNote(Struct, array_like=True, frozen=True, gc=False):
    percent: int | None
    note: str | None
    at_ms: int


class LeaseInfo(Struct, array_like=True, gc=False):
    """The one lease of a leased message. `length_ms`: what a progress report renews. `cancelled`: R22."""

    fence: int
    consumer: str
    started_at_ms: int
    expires_at_ms: int
    length_ms: int
    cancelled: bool = False
    # not persistent, and different on each node
    token: bytes = b""  # all 24 of its bytes, once this node has needed them (`tokens.fill_in`)

    def to_data(self) -> tuple[Any, ...]:
        """The persistent fields."""
        return (
            self.fence,
            self.consumer,
            self.started_at_ms,
            self.expires_at_ms,
            self.length_ms,
            self.cancelled,
        )


class Totals(Struct, array_like=True):
    """What happened to a queue's messages since it was made. The law:

    ``enqueued + moved_in = live + dead + done + cancelled + purged + dead_dropped + moved_out``
    with `live` and `dead` those present now (a purge counts at once).
    """

    enqueued: int = 0
    done: int = 0
    cancelled: int = 0
    purged: int = 0
    dead_dropped: int = 0  # dead ones that left by retention, max_dead or a purge of the dead
    moved_in: int = 0  # redriven from another queue
    moved_out: int = 0
    # not part of the law
    leased: int = 0
    nacked: int = 0
    released: int = 0
    lease_expired: int = 0
    died: int = 0
    redriven: int = 0
    duplicates: int = 0


class StoredReply(Struct, array_like=True, frozen=True, gc=False):
    """The reply of a request with an id, for its repeats (R12). `reply`: msgpack of the `Reply`."""

    request_id: str
    fingerprint: bytes
    index: int
    seq: int
    at_ms: int
    reply: bytes


class SettledRun(Struct, array_like=True, frozen=True, gc=False):
    """Leases ended by ack, nack or release, in one instant, under consecutive fences, and their first answer (R14).
    `messages`: their numbers, eight bytes each, little-endian."""

    fence: int
    messages: bytes
    at_ms: int
    answer: Settled


class Header(Struct, array_like=True):
    """The scalars of the machine: the first record of a snapshot."""

    applied_index: int
    clock_ms: int
    cluster_id: str
    secret: bytes
    members: tuple[str, ...]
    next_number: int  # messages, queues (uid), sweeps, effects
    next_place: int
    next_fence: int
    next_revision: int
    chain: bytes
    settled_forgotten: int  # dropped before their time because of SETTLED_TOKENS_MAX
    retained_forgotten: int  # dropped before their time because of RETAINED_BYTES_MAX
    dead_forgotten: int  # dropped because of max_dead
    runs_forgotten: int = 0  # dropped before their time because of RUNS_IDLE_MAX or RUNS_BYTES_MAX


class MessageData(Struct, array_like=True, gc=False):
    """`Message.to_data` as it comes back from a snapshot: decode into this, then `Machine.load_message`."""

    number: int
    queue: int
    draft: Draft
    state: int
    priority: int
    enqueued_at_ms: int
    epoch: int
    place: int
    group_order: int
    due_at_ms: int
    expires_at_ms: int
    ready_at_ms: int
    attempt: int
    pending: tuple[int, ...]
    lease: LeaseInfo | None
    history: tuple[Attempt, ...]
    progress: ProgressNote | None
    result: bytes | None
    finished_at_ms: int
    dead_reason: str | None
    origin: tuple[str, str] | None


class QueueData(Struct, array_like=True):
    """`Queue.to_data` as it comes back: see `MessageData`. Note: encode `totals` before it changes."""

    uid: int
    name: str
    config: QueueConfig
    revision: int
    created_at_ms: int
    paused_enqueue: bool
    paused_lease: bool
    deleted: bool
    epoch: int
    dead_epoch: int
    totals: Totals


class KeyData(Struct, array_like=True):
    number: int
    queue: int
    key: str
    fingerprint: bytes
    expires_at_ms: int
    final: int


class EffectData(Struct, array_like=True):
    number: int
    effect_id: str
    state: str
    owner: str
    fence: int
    lease_fence: int
    message: int
    expires_at_ms: int
    uncertain: bool
    aborted: bool
    result: bytes | None
    older: tuple[int, ...]


class SweepData(Struct, array_like=True):
    number: int
    kind: str
    queue: int
    cursor: int
    upto: int
    message: int
    failed: bool
