"""What each call takes, as structs: msgspec checks types, ranges and unknown fields while it decodes.

`UNSET` is absent; null is allowed only where it means something ("Absent and null are different from
zero"). Texts are checked by bytes in the builders below, which turn a request into a machine command.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from trivet import limits

Id = str | UnsetType
Priority = Annotated[int, Meta(ge=limits.PRIORITY_MIN, le=limits.PRIORITY_MAX)]
DelayMs = Annotated[int, Meta(ge=0, le=limits.DELAY_MS_MAX)]
AtMs = Annotated[int, Meta(ge=0, le=limits.INT64_MAX)]
TtlMs = Annotated[int, Meta(ge=1, le=limits.TTL_MS_MAX)]
LeaseMs = Annotated[int, Meta(ge=limits.LEASE_MS_MIN, le=limits.LEASE_MS_MAX)]
Attempts = Annotated[int, Meta(ge=0, le=limits.MAX_ATTEMPTS_MAX)]
RetentionMs = Annotated[int, Meta(ge=0, le=limits.RETENTION_MS_MAX)]
Count = Annotated[int, Meta(ge=1, le=limits.INT64_MAX)]
EffectTtlMs = Annotated[int, Meta(ge=1, le=limits.EFFECT_TTL_MS_MAX)]


class In(Struct, forbid_unknown_fields=True):
    """Every write's body may hold its request id (R12)."""

    request_id: Id = UNSET


class BackoffIn(Struct, forbid_unknown_fields=True):
    type: str | UnsetType = UNSET
    base_ms: DelayMs | UnsetType = UNSET
    factor: float | UnsetType = UNSET
    max_ms: DelayMs | UnsetType = UNSET
    jitter: float | UnsetType = UNSET
    delays_ms: list[DelayMs] | UnsetType = UNSET


class QueueIn(In):
    lease_ms: LeaseMs | UnsetType = UNSET
    max_attempts: Attempts | UnsetType = UNSET
    backoff: BackoffIn | UnsetType = UNSET
    ttl_ms: TtlMs | UnsetType | None = UNSET
    dead_retention_ms: RetentionMs | UnsetType = UNSET
    max_dead: Annotated[int, Meta(ge=0, le=limits.MAX_DEAD_MAX)] | UnsetType = UNSET
    idempotency_window_ms: RetentionMs | UnsetType = UNSET
    retention_ms: RetentionMs | UnsetType = UNSET
    result_retention_ms: RetentionMs | UnsetType = UNSET
    max_messages: Count | UnsetType | None = UNSET
    max_bytes: Count | UnsetType | None = UNSET
    on_full: str | UnsetType = UNSET
    max_leased: Count | UnsetType | None = UNSET
    max_leased_per_group: Count | UnsetType = UNSET
    rate_limit: Any = UNSET
    breaker: Any = UNSET


class PauseIn(In):
    enqueue: bool | UnsetType = UNSET
    lease: bool | UnsetType = UNSET


class MessageFields(Struct):
    """A message as its producer writes it; each field absent by default."""

    body: Any = UNSET
    body_base64: str | UnsetType = UNSET
    content_type: str | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET
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
    depends_on: list[str] | UnsetType = UNSET
    on_dependency_failure: str | UnsetType = UNSET
    retention_ms: RetentionMs | UnsetType = UNSET


class MessageIn(MessageFields, forbid_unknown_fields=True):
    pass


class MessageToIn(MessageFields, kw_only=True, forbid_unknown_fields=True):
    """One message of an ack-with-enqueue."""

    queue: str


class EnqueueIn(MessageFields, forbid_unknown_fields=True):
    """One message, or `messages`."""

    messages: list[MessageIn] | UnsetType = UNSET
    request_id: Id = UNSET


class EnqueueOutlineIn(Struct):
    """What a big enqueue is made of, without taking it apart; all else is looked at later."""

    body: Raw | UnsetType = UNSET
    messages: list[Raw] | UnsetType = UNSET


class EnqueuePartsIn(MessageFields, forbid_unknown_fields=True):
    """`EnqueueIn` whose messages are still whole."""

    messages: list[Raw] | UnsetType = UNSET
    request_id: Id = UNSET


class LeaseIn(In, kw_only=True):
    consumer: str
    max_messages: Annotated[int, Meta(ge=1, le=limits.LEASE_BATCH_MAX)] = 1
    lease_ms: LeaseMs | UnsetType = UNSET
    wait_ms: Annotated[int, Meta(ge=0, le=limits.WAIT_MS_MAX)] = 0
    max_bytes: Annotated[int, Meta(ge=1, le=limits.ANSWER_BYTES_MAX)] = limits.ANSWER_BYTES_MAX


class LeaseManyIn(LeaseIn, kw_only=True):
    queues: list[str]


class AckEffectIn(Struct, kw_only=True, forbid_unknown_fields=True):
    effect_id: str
    effect_token: str | UnsetType = UNSET
    result: Any = UNSET


class AckItemIn(Struct, kw_only=True, forbid_unknown_fields=True):
    lease_token: str
    result: Any = UNSET
    effects: list[AckEffectIn] | UnsetType = UNSET


class AckIn(In, kw_only=True):
    acks: list[AckItemIn]
    enqueue: list[MessageToIn] | UnsetType = UNSET


class NackItemIn(Struct, kw_only=True, forbid_unknown_fields=True):
    lease_token: str
    error: str | UnsetType | None = UNSET
    delay_ms: DelayMs | UnsetType = UNSET
    dead_letter: bool = False


class NackIn(In, kw_only=True):
    nacks: list[NackItemIn]


class ExtendItemIn(Struct, kw_only=True, forbid_unknown_fields=True):
    lease_token: str
    lease_ms: LeaseMs | UnsetType = UNSET


class ExtendIn(In, kw_only=True):
    extensions: list[ExtendItemIn]


class ReleaseItemIn(Struct, kw_only=True, forbid_unknown_fields=True):
    lease_token: str


class ReleaseIn(In, kw_only=True):
    leases: list[ReleaseItemIn]


class ProgressIn(In, kw_only=True):
    lease_token: str
    percent: Annotated[int, Meta(ge=0, le=100)] | UnsetType = UNSET
    note: str | UnsetType = UNSET


class MessagePatchIn(In):
    priority: Priority | UnsetType = UNSET
    deliver_at_ms: AtMs | UnsetType = UNSET


class RedriveIn(In):
    ids: list[str] | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    limit: Count | UnsetType = UNSET
    to: str | UnsetType = UNSET
    dry_run: bool = False


class EffectBeginIn(In, kw_only=True):
    effect_id: str
    owner: str
    lease_token: str | UnsetType = UNSET
    ttl_ms: EffectTtlMs | UnsetType = UNSET


class EffectCommitIn(In, kw_only=True):
    effect_token: str
    result: Any = UNSET


class EffectAbortIn(In, kw_only=True):
    effect_token: str


class TransferIn(In):
    to: str | UnsetType = UNSET
