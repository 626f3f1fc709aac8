"""What a producer writes."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType


class Message(Struct, kw_only=True, omit_defaults=True):
    """A message to enqueue: api.md, Messages. What is not set is not sent."""

    body: Any = UNSET
    content_type: str | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    delay_ms: int | UnsetType = UNSET
    deliver_at_ms: int | UnsetType = UNSET
    ttl_ms: int | UnsetType = UNSET
    group: str | UnsetType = UNSET
    idempotency_key: str | UnsetType = UNSET
    idempotency_window_ms: int | UnsetType = UNSET
    run_id: str | UnsetType = UNSET
    step_id: str | UnsetType = UNSET
    parent_step_id: str | UnsetType = UNSET
    tenant_id: str | UnsetType = UNSET
    user_id: str | UnsetType = UNSET
    traceparent: str | UnsetType = UNSET
    max_attempts: int | UnsetType = UNSET
    backoff: dict[str, Any] | UnsetType = UNSET
    lease_ms: int | UnsetType = UNSET
    depends_on: list[str] | UnsetType = UNSET
    on_dependency_failure: str | UnsetType = UNSET
    retention_ms: int | UnsetType = UNSET
