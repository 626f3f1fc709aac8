"""What may be asked of the machine. These structs are the log's vocabulary (design 2, R32).

They are array-like and tagged, so that one `msgspec` decode turns an entry into typed commands.
Fields are only ever added at the end, with a default; a changed meaning raises `MACHINE_VERSION`.
Everything here was validated at the edge (types, lengths, ranges of `limits.py`); the machine
checks again only what depends on its state.

`gc=False`: what a command is made of by the thousand holds no cycles, and the collector need not look at it.

Bodies and results are raw bytes: `codec` says whether they are compact JSON text or plain bytes (R30).
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from trivet.machine.run_commands import AppendRunEvents, ReplayRun

MACHINE_VERSION = 3  # 1 and 2 were never released: a log or snapshot of them is refused, not read (R32)

CODEC_JSON = 0
CODEC_BYTES = 1


class Backoff(Struct, array_like=True, frozen=True):
    """How long a failed message waits. `factor` and `jitter` are thousandths (R30)."""

    type: str = "exponential"  # exponential | fixed | list
    base_ms: int = 1000
    factor_milli: int = 2000
    max_ms: int = 300_000
    jitter_milli: int = 500
    delays_ms: tuple[int, ...] = ()


class QueueConfig(Struct, array_like=True, frozen=True):
    """A queue's configuration with the defaults of api.md."""

    lease_ms: int = 30_000
    max_attempts: int = 5  # 0: no limit
    backoff: Backoff = Backoff()
    ttl_ms: int | None = None
    dead_retention_ms: int = 1_209_600_000
    max_dead: int = 100_000
    idempotency_window_ms: int = 3_600_000
    retention_ms: int = 0
    result_retention_ms: int = 3_600_000
    max_messages: int | None = None
    max_bytes: int | None = None
    on_full: str = "reject"  # reject | dead_letter_oldest
    max_leased: int | None = None
    max_leased_per_group: int = 1


class Extras(Struct, array_like=True, frozen=True, gc=False):
    """The rarer fields of a message: most messages have none of them."""

    run_id: str | None = None
    step_id: str | None = None
    parent_step_id: str | None = None
    tenant_id: str | None = None
    user_id: str | None = None
    traceparent: str | None = None
    max_attempts: int | None = None
    backoff: Backoff | None = None
    lease_ms: int | None = None
    depends_on: tuple[int, ...] = ()  # message numbers
    on_dependency_failure: str = "fail"  # fail | run
    retention_ms: int | None = None
    topic: str | None = None  # of a group's message, never a producer's: the machine sets it with the offset
    offset: int | None = None


class Draft(Struct, array_like=True, frozen=True, gc=False):
    """A message as its producer wrote it."""

    body: bytes = b"null"
    codec: int = CODEC_JSON
    content_type: str | None = None
    headers: dict[str, str] | None = None
    priority: int = 0
    delay_ms: int = 0
    deliver_at_ms: int | None = None
    ttl_ms: int | None = None
    group: str | None = None
    key: str | None = None  # idempotency_key
    key_window_ms: int | None = None
    extras: Extras | None = None


class Token(Struct, array_like=True, frozen=True, gc=False):
    """A lease or effect token, taken apart: base64url(fence ‖ mac) outside (R13)."""

    fence: int
    mac: bytes


class EffectDone(Struct, array_like=True, frozen=True, gc=False):
    """An effect that commits with an ack (R27). `token` None: by the lease's own grant or never begun."""

    effect_id: str
    result: bytes | None = None
    token: Token | None = None


class AckItem(Struct, array_like=True, frozen=True, gc=False):
    token: Token | None  # None: malformed at the edge, answered `not_found`
    result: bytes | None = None  # compact JSON
    effects: tuple[EffectDone, ...] = ()


class NackItem(Struct, array_like=True, frozen=True, gc=False):
    token: Token | None
    error: str | None = None
    delay_ms: int | None = None  # None: the backoff decides
    dead_letter: bool = False


class ExtendItem(Struct, array_like=True, frozen=True, gc=False):
    token: Token | None
    lease_ms: int | None = None  # None: message's, else queue's


class EnqueueTo(Struct, array_like=True, frozen=True, gc=False):
    """One message of an ack-with-enqueue, with its queue."""

    queue: str
    draft: Draft


class FlowStepDraft(Struct, array_like=True, frozen=True, gc=False):
    """A step of a new flow. `after`: positions of the steps it depends on."""

    step_id: str
    queue: str
    draft: Draft
    after: tuple[int, ...] = ()
    compensate: EnqueueTo | None = None


# --- commands ---------------------------------------------------------------------------------------


class Genesis(Struct, array_like=True, frozen=True, tag=1):
    """The first command of a cluster: its id and secret (R5, R13). A second one changes nothing."""

    cluster_id: str
    secret: bytes
    members: tuple[str, ...]


class PutQueue(Struct, array_like=True, frozen=True, tag=2):
    name: str
    config: QueueConfig
    if_revision: int | None = None


class PatchQueue(Struct, array_like=True, frozen=True, tag=3):
    """`changes`: field name → new value as in `QueueConfig`; `backoff` is a map of its own fields."""

    name: str
    changes: dict[str, Any]
    if_revision: int | None = None


class DeleteQueue(Struct, array_like=True, frozen=True, tag=4):
    name: str
    if_revision: int | None = None


class PauseQueue(Struct, array_like=True, frozen=True, tag=5):
    """None leaves a flag as it is; `resume` sends False."""

    name: str
    enqueue: bool | None = None
    lease: bool | None = None


class PurgeQueue(Struct, array_like=True, frozen=True, tag=6):
    name: str


class Enqueue(Struct, array_like=True, frozen=True, tag=10):
    queue: str
    drafts: tuple[Draft, ...]
    auto_create: bool = True


class Lease(Struct, array_like=True, frozen=True, tag=11):
    queues: tuple[str, ...]
    consumer: str
    max_messages: int = 1
    lease_ms: int | None = None
    max_bytes: int = 8 * 1024 * 1024


class Ack(Struct, array_like=True, frozen=True, tag=12):
    items: tuple[AckItem, ...]
    enqueue: tuple[EnqueueTo, ...] = ()
    auto_create: bool = True


class AckTokens(Struct, array_like=True, frozen=True, tag=22):
    """`Ack` of nothing but tokens, in their 24 bytes (`ids.join_tokens`), one after the other."""

    tokens: bytes


class AckLeases(Struct, array_like=True, frozen=True, tag=23):
    """`AckTokens` that the leader has checked (`tokens.checked`): what it writes. 0: of a token that is none."""

    fences: tuple[int, ...]


class Nack(Struct, array_like=True, frozen=True, tag=13):
    items: tuple[NackItem, ...]


class Extend(Struct, array_like=True, frozen=True, tag=14):
    items: tuple[ExtendItem, ...]


class Release(Struct, array_like=True, frozen=True, tag=15):
    tokens: tuple[Token | None, ...]


class ReleaseLeases(Struct, array_like=True, frozen=True, tag=24):
    """`Release` of what the leader leased for somebody who is gone (R26)."""

    fences: tuple[int, ...]


class Progress(Struct, array_like=True, frozen=True, tag=16):
    """Counts as a heartbeat: sets the lease's rest to its length from now."""

    message: int
    token: Token | None
    percent: int | None = None
    note: str | None = None


class Cancel(Struct, array_like=True, frozen=True, tag=17):
    message: int


class PatchMessage(Struct, array_like=True, frozen=True, tag=18):
    message: int
    priority: int | None = None
    deliver_at_ms: int | None = None


class Redrive(Struct, array_like=True, frozen=True, tag=20):
    """At most `limit` (≤ `REDRIVE_BATCH_MAX`) dead messages, oldest first, after `after` (R25)."""

    queue: str
    ids: tuple[int, ...] | None = None
    reason: str | None = None
    limit: int = 1000
    to: str | None = None
    after: int = 0
    upto: int | None = None  # messages that died later than the first batch are left alone


class PurgeDead(Struct, array_like=True, frozen=True, tag=21):
    queue: str


class EffectBegin(Struct, array_like=True, frozen=True, tag=30):
    effect_id: str
    owner: str
    lease: Token | None = None
    has_lease: bool = False  # a malformed lease token: has_lease with lease None
    ttl_ms: int | None = None


class EffectCommit(Struct, array_like=True, frozen=True, tag=31):
    token: Token | None
    result: bytes | None = None


class EffectAbort(Struct, array_like=True, frozen=True, tag=32):
    token: Token | None


class Expire(Struct, array_like=True, frozen=True, tag=40):
    """Handle what is due, at most `limit` things; the reply says whether more is (contract 4, R25).

    `leases` False (the first `lease_grace_ms` after taking office, R1): expired leases and effect grants
    stay as they are; delayed messages, ttls, windows and retentions go on.
    """

    limit: int = 1000
    leases: bool = True


class PutTopic(Struct, array_like=True, frozen=True, tag=60):
    name: str
    retention_ms: int
    retention_messages: int


class DeleteTopic(Struct, array_like=True, frozen=True, tag=61):
    """With its groups."""

    name: str


class PutGroup(Struct, array_like=True, frozen=True, tag=62):
    """The queue `{topic}:{group}`. The start counts only when the group is made; none given: at the end.

    `inline`: so many entries it gets with this command, the rest with `Expire` (R25).
    """

    topic: str
    group: str
    config: QueueConfig
    if_revision: int | None = None
    from_at_ms: int | None = None
    from_offset: int | None = None
    inline: int = 1000


class DeleteGroup(Struct, array_like=True, frozen=True, tag=63):
    topic: str
    group: str
    if_revision: int | None = None


class Publish(Struct, array_like=True, frozen=True, tag=64):
    """All drafts or none, and each to every group (R28)."""

    topic: str
    drafts: tuple[Draft, ...]


class ReplayGroup(Struct, array_like=True, frozen=True, tag=65):
    """Exactly one of the two is given. `inline`: see `PutGroup`."""

    topic: str
    group: str
    from_at_ms: int | None = None
    from_offset: int | None = None
    inline: int = 1000


class ScheduleSpec(Struct, array_like=True, frozen=True, gc=False):
    """What a schedule was told. Exactly one of `cron` and `every_ms`; the machine reads neither (R2)."""

    queue: str
    draft: Draft
    cron: str | None = None
    every_ms: int | None = None
    timezone: str = "UTC"
    misfire: str = "fire_once"  # fire_once | skip
    overlap: str = "allow"  # allow | skip


class PutSchedule(Struct, array_like=True, frozen=True, tag=70):
    name: str
    spec: ScheduleSpec
    if_revision: int | None = None
    auto_create: bool = True


class DeleteSchedule(Struct, array_like=True, frozen=True, tag=71):
    name: str
    if_revision: int | None = None


class PauseSchedule(Struct, array_like=True, frozen=True, tag=72):
    name: str
    paused: bool


class Fire(Struct, array_like=True, frozen=True, gc=False):
    """One step of one schedule, computed by the leader: all slots up to `slot_ms` are decided by it.

    `enqueue`: the slot gets its message, else it is only passed over. `passed`: slots before it that nobody
    fired in time. `problem`: why the leader cannot compute the slots; nothing is decided then. `after_ms`:
    the last decided slot as the leader knew it; where it was another, the step is out of date.
    """

    name: str
    revision: int
    slot_ms: int
    next_slot_ms: int
    enqueue: bool = True
    passed: int = 0
    problem: str | None = None
    after_ms: int | None = None


class FireSchedules(Struct, array_like=True, frozen=True, tag=73):
    """At most `FIRE_BATCH_MAX` steps, each by itself (R25)."""

    fires: tuple[Fire, ...]
    auto_create: bool = True


class RunSchedule(Struct, array_like=True, frozen=True, tag=74):
    """Its message now, by hand."""

    name: str
    auto_create: bool = True


class CreateFlow(Struct, array_like=True, frozen=True, tag=80):
    """All messages of a flow. `order`: the positions of the steps, none before one it depends on."""

    steps: tuple[FlowStepDraft, ...]
    order: tuple[int, ...]
    run_id: str | None = None  # None: the flow's id
    auto_create: bool = True


Command = (
    Genesis
    | PutQueue
    | PatchQueue
    | DeleteQueue
    | PauseQueue
    | PurgeQueue
    | Enqueue
    | Lease
    | Ack
    | AckTokens
    | AckLeases
    | Nack
    | Extend
    | Release
    | ReleaseLeases
    | Progress
    | Cancel
    | PatchMessage
    | Redrive
    | PurgeDead
    | EffectBegin
    | EffectCommit
    | EffectAbort
    | Expire
    | AppendRunEvents
    | ReplayRun
    | PutSchedule
    | DeleteSchedule
    | PauseSchedule
    | FireSchedules
    | RunSchedule
    | PutTopic
    | DeleteTopic
    | PutGroup
    | DeleteGroup
    | Publish
    | ReplayGroup
    | CreateFlow
)


class Request(Struct, array_like=True, frozen=True):
    """A command with its request id (R12). `fingerprint`: 16-byte hash of method, path and content."""

    command: Command
    request_id: str | None = None
    fingerprint: bytes = b""
