"""What each call takes, as structs: msgspec checks types, ranges and unknown fields while it decodes.

`UNSET` is absent; null is allowed only where it means something ("Absent and null are different from
zero"). What `said` adds is for the API description only: `build.py` checks it when it turns a request into a
machine command, with an error of its own (texts by bytes, lists by their codes, words by the words there are).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from trivet import limits
from trivet.machine.commands import Backoff, Draft, Extras, QueueConfig


def said(**schema: Any) -> Meta:
    return Meta(extra_json_schema=schema)


def words(*of: str) -> Meta:
    return Meta(extra_json_schema={"enum": list(of)})


def at_most(items: int, least: int = 0) -> Meta:
    return Meta(extra_json_schema={"minItems": least, "maxItems": items} if least else {"maxItems": items})


Text = Annotated[str, said(minLength=1, maxLength=limits.ID_BYTES_MAX)]
Id = Text | UnsetType
QueueName = Annotated[str, said(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,255}$")]
AnyQueueName = Annotated[  # also a consumer group's
    str, said(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,255}(:[A-Za-z0-9][A-Za-z0-9._-]{0,255})?$")
]
Priority = Annotated[int, Meta(ge=limits.PRIORITY_MIN, le=limits.PRIORITY_MAX)]
DelayMs = Annotated[int, Meta(ge=0, le=limits.DELAY_MS_MAX)]
AtMs = Annotated[int, Meta(ge=0, le=limits.INT64_MAX)]
TtlMs = Annotated[int, Meta(ge=1, le=limits.TTL_MS_MAX)]
LeaseMs = Annotated[int, Meta(ge=limits.LEASE_MS_MIN, le=limits.LEASE_MS_MAX)]
Attempts = Annotated[int, Meta(ge=0, le=limits.MAX_ATTEMPTS_MAX)]
RetentionMs = Annotated[int, Meta(ge=0, le=limits.RETENTION_MS_MAX)]
Count = Annotated[int, Meta(ge=1, le=limits.INT64_MAX)]
EffectTtlMs = Annotated[int, Meta(ge=1, le=limits.EFFECT_TTL_MS_MAX)]


_BACKOFF = Backoff()
DEAD_REASONS = ("max_attempts", "expired", "rejected", "dependency_failed", "queue_full")


class In(Struct, forbid_unknown_fields=True):
    """Every write's body may hold its request id."""

    request_id: Id = UNSET


def _defaults(of: Struct, *without: str) -> dict[str, Any]:
    """As the properties of a schema."""
    return {
        "properties": {
            name: {"default": getattr(of, name)} for name in of.__struct_fields__ if name not in without
        }
    }


class BackoffPatchIn(Struct, forbid_unknown_fields=True):
    """What is to change of a backoff."""

    extra_schema: ClassVar = {
        "if": {"properties": {"type": {"const": "list"}}, "required": ["type"]},
        "then": {"properties": {"delays_ms": {"minItems": 1}}, "required": ["delays_ms"]},
    }

    type: Annotated[str, words("exponential", "fixed", "list")] | UnsetType = UNSET
    base_ms: DelayMs | UnsetType = UNSET
    factor: Annotated[float, said(minimum=1, maximum=limits.BACKOFF_FACTOR_MAX)] | UnsetType = UNSET
    max_ms: DelayMs | UnsetType = UNSET
    jitter: Annotated[float, said(minimum=0, maximum=1)] | UnsetType = UNSET
    delays_ms: Annotated[list[DelayMs], at_most(limits.BACKOFF_DELAYS_MAX)] | UnsetType = UNSET


class BackoffIn(BackoffPatchIn):
    """How long a message waits after a nack; what is not given has its default."""

    extra_schema: ClassVar = {
        **BackoffPatchIn.extra_schema,
        "properties": {
            "type": {"default": _BACKOFF.type},
            "base_ms": {"default": _BACKOFF.base_ms},
            "factor": {"default": _BACKOFF.factor_milli / 1000},
            "max_ms": {"default": _BACKOFF.max_ms},
            "jitter": {"default": _BACKOFF.jitter_milli / 1000},
            "delays_ms": {"default": list(_BACKOFF.delays_ms)},
        },
    }


class QueueFields(In):
    lease_ms: LeaseMs | UnsetType = UNSET
    max_attempts: Attempts | UnsetType = UNSET
    ttl_ms: TtlMs | UnsetType | None = UNSET
    dead_retention_ms: RetentionMs | UnsetType = UNSET
    max_dead: Annotated[int, Meta(ge=0, le=limits.MAX_DEAD_MAX)] | UnsetType = UNSET
    idempotency_window_ms: RetentionMs | UnsetType = UNSET
    retention_ms: RetentionMs | UnsetType = UNSET
    result_retention_ms: RetentionMs | UnsetType = UNSET
    max_messages: Count | UnsetType | None = UNSET
    max_bytes: Count | UnsetType | None = UNSET
    on_full: Annotated[str, words("reject", "dead_letter_oldest")] | UnsetType = UNSET
    max_leased: Count | UnsetType | None = UNSET
    max_leased_per_group: Count | UnsetType = UNSET
    rate_limit: Annotated[Any, said(type="null")] = UNSET
    breaker: Annotated[Any, said(type="null")] = UNSET


class QueueIn(QueueFields):
    """A queue's configuration; what is not given has its default."""

    extra_schema: ClassVar = _defaults(QueueConfig(), "backoff")

    backoff: BackoffIn | UnsetType = UNSET


class QueuePatchIn(QueueFields):
    """What is to change of a queue's configuration; a `backoff` given in part keeps its other values."""

    backoff: BackoffPatchIn | UnsetType = UNSET


Offset = Annotated[int, Meta(ge=0, le=limits.INT64_MAX)]


class TopicIn(In):
    """How much a topic keeps for how long; what is not given has its default."""

    retention_ms: Annotated[RetentionMs, said(default=limits.TOPIC_RETENTION_MS_DEFAULT)] | UnsetType = UNSET
    retention_messages: (
        Annotated[int, Meta(ge=0, le=limits.TOPIC_MESSAGES_MAX), said(default=limits.TOPIC_MESSAGES_DEFAULT)]
        | UnsetType
    ) = UNSET


class GroupIn(QueueIn):
    """The configuration of a consumer group's queue, and where a new group starts."""

    extra_schema: ClassVar = {**QueueIn.extra_schema, "not": {"required": ["from_at_ms", "from_offset"]}}

    from_at_ms: AtMs | UnsetType = UNSET
    from_offset: Offset | UnsetType = UNSET


class ReplayGroupIn(In):
    extra_schema: ClassVar = {
        "anyOf": [{"required": ["from_at_ms"]}, {"required": ["from_offset"]}],
        "not": {"required": ["from_at_ms", "from_offset"]},
    }

    from_at_ms: AtMs | UnsetType = UNSET
    from_offset: Offset | UnsetType = UNSET


class PauseIn(In):
    enqueue: bool | UnsetType = UNSET
    lease: bool | UnsetType = UNSET


class PublishedFields(Struct):
    """A message of a topic as its producer writes it; each field absent by default."""

    extra_schema: ClassVar[dict[str, Any]] = {
        "allOf": [
            {"not": {"required": ["body", "body_base64"]}},
            {"not": {"required": ["delay_ms", "deliver_at_ms"]}},
        ],
        "dependentRequired": {"idempotency_window_ms": ["idempotency_key"]},
        "properties": {
            "priority": {"default": Draft().priority},
            "delay_ms": {"default": Draft().delay_ms},
        },
    }

    body: Any = UNSET
    body_base64: Annotated[str, said(contentEncoding="base64")] | UnsetType = UNSET
    content_type: Annotated[str, said(minLength=1, maxLength=limits.CONTENT_TYPE_BYTES_MAX)] | UnsetType = (
        UNSET
    )
    headers: Annotated[dict[str, str], said(maxProperties=limits.HEADERS_MAX)] | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    delay_ms: DelayMs | UnsetType = UNSET
    deliver_at_ms: AtMs | UnsetType = UNSET
    ttl_ms: TtlMs | UnsetType = UNSET
    group: Id = UNSET
    idempotency_key: Id = UNSET
    idempotency_window_ms: RetentionMs | UnsetType = UNSET
    run_id: Id = UNSET
    step_id: Id = UNSET
    parent_step_id: Id = UNSET
    tenant_id: Id = UNSET
    user_id: Id = UNSET
    traceparent: Id = UNSET
    max_attempts: Attempts | UnsetType = UNSET
    backoff: BackoffIn | UnsetType = UNSET
    lease_ms: LeaseMs | UnsetType = UNSET
    retention_ms: RetentionMs | UnsetType = UNSET


class MessageFields(PublishedFields):
    """A message as its producer writes it; each field absent by default."""

    extra_schema: ClassVar[dict[str, Any]] = {
        **PublishedFields.extra_schema,
        "properties": {
            **PublishedFields.extra_schema["properties"],
            "on_dependency_failure": {"default": Extras().on_dependency_failure},
        },
    }

    depends_on: Annotated[list[str], at_most(limits.DEPENDS_ON_MAX)] | UnsetType = UNSET
    on_dependency_failure: Annotated[str, words("fail", "run")] | UnsetType = UNSET


class MessageIn(MessageFields, forbid_unknown_fields=True):
    """One message of a batch."""


class MessageToIn(MessageFields, kw_only=True, forbid_unknown_fields=True):
    """One message of an ack-with-enqueue."""

    queue: QueueName


class EnqueueIn(MessageFields, forbid_unknown_fields=True):
    """One message, or `messages` (then none of a message's own fields beside it)."""

    messages: Annotated[list[MessageIn], at_most(limits.ENQUEUE_BATCH_MAX, 1)] | UnsetType = UNSET
    request_id: Id = UNSET


class EnqueueOutlineIn(Struct):
    """What a big enqueue is made of, without taking it apart; all else is looked at later."""

    body: Raw | UnsetType = UNSET
    messages: list[Raw] | UnsetType = UNSET


class EnqueuePartsIn(MessageFields, forbid_unknown_fields=True):
    """`EnqueueIn` whose messages are still whole."""

    messages: list[Raw] | UnsetType = UNSET
    request_id: Id = UNSET


class PublishOneIn(PublishedFields, forbid_unknown_fields=True):
    """One message of a publish."""


class PublishIn(PublishedFields, forbid_unknown_fields=True):
    """One message, or `messages` (then none of a message's own fields beside it)."""

    messages: Annotated[list[PublishOneIn], at_most(limits.ENQUEUE_BATCH_MAX, 1)] | UnsetType = UNSET
    request_id: Id = UNSET


class PublishPartsIn(PublishedFields, forbid_unknown_fields=True):
    """`PublishIn` whose messages are still whole."""

    messages: list[Raw] | UnsetType = UNSET
    request_id: Id = UNSET


class LeaseIn(In, kw_only=True):
    consumer: Text
    max_messages: Annotated[int, Meta(ge=1, le=limits.LEASE_BATCH_MAX)] = 1
    lease_ms: LeaseMs | UnsetType = UNSET
    wait_ms: Annotated[int, Meta(ge=0, le=limits.WAIT_MS_MAX)] = 0
    max_bytes: Annotated[int, Meta(ge=1, le=limits.ANSWER_BYTES_MAX)] = limits.ANSWER_BYTES_MAX


class LeaseManyIn(LeaseIn, kw_only=True):
    queues: Annotated[
        list[AnyQueueName], said(minItems=1, maxItems=limits.LEASE_QUEUES_MAX, uniqueItems=True)
    ]


class AckEffectIn(Struct, kw_only=True, forbid_unknown_fields=True):
    effect_id: Text
    effect_token: str | UnsetType = UNSET
    result: Any = UNSET


class AckItemIn(Struct, kw_only=True, forbid_unknown_fields=True):
    lease_token: str
    result: Any = UNSET
    effects: Annotated[list[AckEffectIn], at_most(limits.ACK_EFFECTS_MAX)] | UnsetType = UNSET


class AckIn(In, kw_only=True):
    acks: Annotated[list[AckItemIn], at_most(limits.SETTLE_BATCH_MAX, 1)]
    enqueue: Annotated[list[MessageToIn], at_most(limits.ENQUEUE_BATCH_MAX)] | UnsetType = UNSET


class NackItemIn(Struct, kw_only=True, forbid_unknown_fields=True):
    lease_token: str
    error: str | UnsetType | None = UNSET
    delay_ms: DelayMs | UnsetType = UNSET
    dead_letter: bool = False


class NackIn(In, kw_only=True):
    nacks: Annotated[list[NackItemIn], at_most(limits.SETTLE_BATCH_MAX, 1)]


class ExtendItemIn(Struct, kw_only=True, forbid_unknown_fields=True):
    lease_token: str
    lease_ms: LeaseMs | UnsetType = UNSET


class ExtendIn(In, kw_only=True):
    extensions: Annotated[list[ExtendItemIn], at_most(limits.SETTLE_BATCH_MAX, 1)]


class ReleaseItemIn(Struct, kw_only=True, forbid_unknown_fields=True):
    lease_token: str


class ReleaseIn(In, kw_only=True):
    leases: Annotated[list[ReleaseItemIn], at_most(limits.SETTLE_BATCH_MAX, 1)]


class ProgressIn(In, kw_only=True):
    lease_token: str
    percent: Annotated[int, Meta(ge=0, le=100)] | UnsetType = UNSET
    note: Annotated[str, said(maxLength=limits.NOTE_BYTES_MAX)] | UnsetType = UNSET


class MessagePatchIn(In):
    extra_schema: ClassVar = {"anyOf": [{"required": ["priority"]}, {"required": ["deliver_at_ms"]}]}

    priority: Priority | UnsetType = UNSET
    deliver_at_ms: AtMs | UnsetType = UNSET


class RunEventIn(Struct, kw_only=True, forbid_unknown_fields=True):
    type: Text
    data: Any = UNSET
    event_id: Id = UNSET


class AppendEventsIn(In, kw_only=True):
    events: Annotated[list[RunEventIn], at_most(limits.RUN_APPEND_MAX, 1)]


class ReplayRunIn(In):
    step_id: Id = UNSET


class RedriveIn(In):
    ids: Annotated[list[str], at_most(limits.REDRIVE_BATCH_MAX)] | UnsetType = UNSET
    reason: Annotated[str, words(*DEAD_REASONS)] | UnsetType = UNSET
    limit: Count | UnsetType = UNSET
    to: AnyQueueName | UnsetType = UNSET
    dry_run: bool = False


class EffectBeginIn(In, kw_only=True):
    effect_id: Text
    owner: Text
    lease_token: str | UnsetType = UNSET
    ttl_ms: Annotated[EffectTtlMs, said(default=limits.EFFECT_TTL_MS_DEFAULT)] | UnsetType = UNSET


class EffectCommitIn(In, kw_only=True):
    effect_token: str
    result: Any = UNSET


class EffectAbortIn(In, kw_only=True):
    effect_token: str


NOT_OF_A_COMPENSATION = (
    "run_id",
    "step_id",
    "depends_on",
    "on_dependency_failure",
    "idempotency_key",
    "idempotency_window_ms",
)


class CompensationIn(MessageFields, kw_only=True, forbid_unknown_fields=True):
    """What undoes a step: enqueued when a later step of the flow fails, with the step's result in `parents`."""

    extra_schema: ClassVar = {
        **MessageFields.extra_schema,
        "allOf": [
            *MessageFields.extra_schema["allOf"],
            {"not": {"anyOf": [{"required": [name]} for name in NOT_OF_A_COMPENSATION]}},
        ],
    }

    queue: QueueName


class FlowStepIn(MessageFields, kw_only=True, forbid_unknown_fields=True):
    """One step of a flow."""

    extra_schema: ClassVar = {
        **MessageFields.extra_schema,
        "allOf": [*MessageFields.extra_schema["allOf"], {"not": {"required": ["run_id"]}}],
        "properties": {
            **MessageFields.extra_schema["properties"],
            "depends_on": {"examples": [[]]},  # step ids of the same flow
        },
    }

    step_id: Text
    queue: QueueName
    compensate: CompensationIn | UnsetType = UNSET


class FlowIn(In, kw_only=True):
    run_id: Id = UNSET
    steps: Annotated[list[FlowStepIn], at_most(limits.FLOW_STEPS_MAX, 1)]


class FlowPartsIn(In, kw_only=True):
    """`FlowIn` whose steps are still whole."""

    run_id: Id = UNSET
    steps: list[Raw]


class FlowBodyOutlineIn(Struct):
    body: Raw | UnsetType = UNSET


class FlowStepOutlineIn(Struct):
    """The heavy parts of a big step, without taking them apart."""

    body: Raw | UnsetType = UNSET
    compensate: FlowBodyOutlineIn | UnsetType = UNSET


class TransferIn(In):
    to: Id = UNSET
