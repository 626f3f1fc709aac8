"""What each call answers, as structs. Nothing is encoded from them (answers are built in `views`, `render`, `bulk`):
they are the declaration that the API description shows, and each conformance test holds real answers against it.

`index`, `seq`, `term` of writes and `as_of` of reads are added by `openapi.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

Flag = Annotated[bool, Meta(extra_json_schema={"const": True})] | UnsetType  # there when it is true
State = Literal["blocked", "delayed", "ready", "leased", "done", "dead", "cancelled"]
DeadReason = Literal["max_attempts", "expired", "rejected", "dependency_failed", "queue_full"]


class Written(Struct, kw_only=True):
    """Where in the log a write took effect."""

    index: int
    seq: int
    term: int
    repeated: Flag = UNSET


class Seen(Struct, kw_only=True):
    """What a read saw."""

    as_of: int
    leader_contact_age_ms: int | UnsetType | None = UNSET


class Problem(Struct, kw_only=True):
    """An error (RFC 9457). The code is the API, the text is not."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retry: Literal["never", "elsewhere", "later", "same_key"]
    field: str | UnsetType = UNSET
    limit: int | UnsetType = UNSET
    retry_after_ms: int | UnsetType = UNSET


# --- queues -------------------------------------------------------------------------------------------


class Paused(Struct):
    enqueue: bool
    lease: bool


class QueueCounts(Struct, kw_only=True):
    """A queue in a list."""

    queue: str
    ready: int
    leasable: int
    delayed: int
    leased: int
    dead: int
    blocked: int
    bytes: int
    paused: Paused
    oldest_ready_age_ms: int | None


class Backoff(Struct, kw_only=True):
    type: Literal["exponential", "fixed", "list"]
    base_ms: int
    factor: float
    max_ms: int
    jitter: float
    delays_ms: list[int]


class Queue(QueueCounts, kw_only=True):
    """Configuration, counts and flags of a queue."""

    revision: int
    created_at_ms: int
    lease_ms: int
    max_attempts: int
    backoff: Backoff
    ttl_ms: int | None
    dead_retention_ms: int
    max_dead: int
    idempotency_window_ms: int
    retention_ms: int
    result_retention_ms: int
    max_messages: int | None
    max_bytes: int | None
    on_full: Literal["reject", "dead_letter_oldest"]
    max_leased: int | None
    max_leased_per_group: int
    rate_limit: None
    breaker: None


class Queues(Struct):
    queues: list[QueueCounts]
    next: str | None


class Removed(Struct):
    """How many messages went."""

    removed: int


# --- messages -----------------------------------------------------------------------------------------


class EnqueuedOne(Struct, kw_only=True):
    """`duplicate`: its idempotency key named a message already; that one's id, state and result."""

    id: str
    state: State
    duplicate: bool
    result: Any = UNSET


class Enqueued(Struct):
    """Aligned with the messages of the request."""

    messages: list[EnqueuedOne]


class Attempt(Struct, kw_only=True):
    attempt: int
    consumer: str
    started_at_ms: int
    ended_at_ms: int | UnsetType = UNSET
    outcome: Literal["acked", "nacked", "expired", "released", "cancelled"] | UnsetType = UNSET
    error: str | UnsetType = UNSET


class ProgressShown(Struct, kw_only=True):
    at_ms: int
    percent: int | UnsetType = UNSET
    note: str | UnsetType = UNSET


class Origin(Struct, kw_only=True):
    """Where a redriven or replayed message, or one of a flow, came from."""

    type: str
    queue: str | UnsetType = UNSET
    message_id: str | UnsetType = UNSET
    flow_id: str | UnsetType = UNSET


class MessageBasics(Struct, kw_only=True):
    """What its producer said of a message. Its body is `body`, or `body_base64` for bytes in JSON."""

    id: str
    queue: str
    body: Any = UNSET
    body_base64: str | UnsetType = UNSET
    content_type: str | UnsetType = UNSET
    priority: int
    attempt: int
    max_attempts: int
    enqueued_at_ms: int
    idempotency_key: str | UnsetType = UNSET
    expires_at_ms: int | UnsetType = UNSET
    origin: Origin | UnsetType = UNSET
    run_id: str | UnsetType = UNSET
    step_id: str | UnsetType = UNSET
    parent_step_id: str | UnsetType = UNSET
    tenant_id: str | UnsetType = UNSET
    user_id: str | UnsetType = UNSET
    traceparent: str | UnsetType = UNSET
    topic: str | UnsetType = UNSET
    offset: int | UnsetType = UNSET
    depends_on: list[str] | UnsetType = UNSET
    on_dependency_failure: Literal["fail", "run"] | UnsetType = UNSET


class Message(MessageBasics, kw_only=True):
    """A message as everybody may see it. Fields that do not apply are absent."""

    state: State
    headers: dict[str, str] | UnsetType = UNSET
    group: str | UnsetType = UNSET
    attempts: list[Attempt] | UnsetType = UNSET
    lease_expires_at_ms: int | UnsetType = UNSET
    cancelled: Flag = UNSET
    deliver_at_ms: int | UnsetType = UNSET
    progress: ProgressShown | UnsetType = UNSET
    result: Any = UNSET
    finished_at_ms: int | UnsetType = UNSET
    dead_reason: DeadReason | UnsetType = UNSET
    dead_at_ms: int | UnsetType = UNSET


class Messages(Struct):
    """Oldest first."""

    messages: list[Message]
    next: str | None


class LeasedMessage(MessageBasics, kw_only=True):
    """A message as the holder of its lease sees it."""

    headers: dict[str, str]
    group: str | None
    lease_token: str
    lease_expires_at_ms: int
    parents: dict[str, Any] | UnsetType = UNSET


class Leased(Struct, kw_only=True):
    """`messages` is empty when the wait ended first. `lost`: of a repeated request, how many are no longer leased."""

    messages: list[LeasedMessage]
    now_ms: int
    lost: int | UnsetType = UNSET


# --- settling -----------------------------------------------------------------------------------------


class Acked(Struct, kw_only=True):
    """`effect_held`, `stale_effect`, `effect_not_found`: an effect of this ack was refused, the lease stays."""

    status: Literal["acked", "stale_lease", "not_found", "effect_held", "stale_effect", "effect_not_found"]
    repeated: Flag = UNSET


class AckedAll(Struct, kw_only=True):
    """Aligned with `acks`; `messages` with `enqueue`."""

    results: list[Acked]
    messages: list[EnqueuedOne] | UnsetType = UNSET


class Nacked(Struct, kw_only=True):
    status: Literal["nacked", "dead", "stale_lease", "not_found"]
    repeated: Flag = UNSET
    state: State | UnsetType = UNSET
    deliver_at_ms: int | UnsetType = UNSET
    cancelled: Flag = UNSET


class NackedAll(Struct):
    """Aligned with `nacks`."""

    results: list[Nacked]


class Extended(Struct, kw_only=True):
    """`cancelled`: somebody cancelled the message; an ack still makes it done."""

    status: Literal["extended", "stale_lease", "not_found"]
    repeated: Flag = UNSET
    lease_expires_at_ms: int | UnsetType = UNSET
    cancelled: Flag = UNSET


class ExtendedAll(Struct):
    """Aligned with `extensions`."""

    results: list[Extended]


class Released(Struct, kw_only=True):
    status: Literal["released", "stale_lease", "not_found"]
    repeated: Flag = UNSET
    state: State | UnsetType = UNSET
    cancelled: Flag = UNSET


class ReleasedAll(Struct):
    """Aligned with `leases`."""

    results: list[Released]


class MessageChanged(Struct, kw_only=True):
    """`cancelled`: it is leased now and was marked."""

    id: str
    state: State
    cancelled: Flag = UNSET
    lease_expires_at_ms: int | UnsetType = UNSET


class Redriven(Struct):
    redriven: int
    ids: list[str]


# --- flows --------------------------------------------------------------------------------------------

FlowState = Literal["running", "compensating", "done", "compensated", "failed"]


class FlowStepMade(Struct):
    step_id: str
    message_id: str
    state: State


class FlowMade(Struct):
    """`steps` in the order of the request."""

    id: str
    run_id: str
    steps: list[FlowStepMade]


class FlowCounts(Struct):
    """Steps by how they ended; and how many compensations there are."""

    steps: int
    unfinished: int
    done: int
    dead: int
    cancelled: int
    compensations: int


class FlowBasics(Struct, kw_only=True):
    """A flow in a list."""

    id: str
    run_id: str
    state: FlowState
    saga: bool
    counts: FlowCounts
    created_at_ms: int
    finished_at_ms: int | UnsetType = UNSET


class FlowMessage(Struct, kw_only=True):
    """The message of a step, or of its compensation, that may be gone by now."""

    message_id: str
    state: State
    queue: str | UnsetType = UNSET
    attempt: int | UnsetType = UNSET
    dead_reason: DeadReason | UnsetType = UNSET


class FlowStep(FlowMessage, kw_only=True):
    step_id: str
    depends_on: list[str]
    compensation: FlowMessage | UnsetType = UNSET


class Flow(FlowBasics, kw_only=True):
    steps: list[FlowStep]


class Flows(Struct):
    flows: list[FlowBasics]
    next: str | None


# --- topics -------------------------------------------------------------------------------------------


class TopicGroup(Struct):
    group: str
    queue: str


class Topic(Struct, kw_only=True):
    topic: str
    retention_ms: int
    retention_messages: int
    first_offset: int
    next_offset: int
    groups: list[TopicGroup]


class Topics(Struct):
    """By name."""

    topics: list[Topic]
    next: str | None


class Group(Queue, kw_only=True):
    """A consumer group: its queue. `replayed`: of a new one, with how many messages from before it starts."""

    topic: str
    group: str
    replayed: int | UnsetType = UNSET


class PublishedOne(Struct):
    """`duplicate`: its idempotency key came before, with the message at this offset."""

    offset: int
    duplicate: bool
    ids: dict[str, str]


class Published(Struct):
    """Aligned with the messages of the request."""

    messages: list[PublishedOne]


class Replayed(Struct):
    replayed: int
    from_offset: int
    more: bool


class TopicMessage(Struct, kw_only=True):
    """What a topic keeps. Its body is `body`, or `body_base64` for bytes in JSON."""

    topic: str
    offset: int
    published_at_ms: int
    body: Any = UNSET
    body_base64: str | UnsetType = UNSET
    content_type: str | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    priority: int
    group: str | UnsetType = UNSET
    idempotency_key: str | UnsetType = UNSET
    run_id: str | UnsetType = UNSET
    step_id: str | UnsetType = UNSET
    parent_step_id: str | UnsetType = UNSET
    tenant_id: str | UnsetType = UNSET
    user_id: str | UnsetType = UNSET
    traceparent: str | UnsetType = UNSET


class TopicMessages(Struct):
    """In the order of their offsets."""

    messages: list[TopicMessage]
    next: int | None


# --- effects ------------------------------------------------------------------------------------------


class EffectBegun(Struct, kw_only=True):
    """`granted` with a token, or `done` with the result of then."""

    state: Literal["granted", "done"]
    effect_token: str | UnsetType = UNSET
    uncertain: bool | UnsetType = UNSET
    expires_at_ms: int | UnsetType = UNSET
    result: Any = UNSET


class EffectCommitted(Struct, kw_only=True):
    state: Literal["done"]
    result: Any


class EffectAborted(Struct):
    state: Literal["aborted"]


class Effect(Struct, kw_only=True):
    effect_id: str
    state: Literal["granted", "done", "open"]
    uncertain: bool
    owner: str
    result: Any
    expires_at_ms: int | None
