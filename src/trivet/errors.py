"""The error codes: one table binds a code to its HTTP status and its retry advice.

The code is the API, the text is not (api.md, Manners). Machine refusals, HTTP problems and SDK
exceptions all come from this table.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple


class Retry(StrEnum):
    """What a client may do after the error."""

    NEVER = "never"  # the request itself is wrong
    ELSEWHERE = "elsewhere"  # definitely not applied here; another node may take it
    LATER = "later"  # definitely not applied; the same request may succeed later
    SAME_KEY = "same_key"  # unknown whether applied: repeat with the same request id


class ErrorKind(NamedTuple):
    status: int
    retry: Retry
    title: str


CODES: dict[str, ErrorKind] = {
    "invalid_argument": ErrorKind(400, Retry.NEVER, "The request is not valid"),
    "unauthenticated": ErrorKind(401, Retry.NEVER, "No valid credentials"),
    "forbidden": ErrorKind(403, Retry.NEVER, "Not allowed"),
    "not_found": ErrorKind(404, Retry.NEVER, "No such resource"),
    "queue_not_found": ErrorKind(404, Retry.NEVER, "No such queue"),
    "message_not_found": ErrorKind(404, Retry.NEVER, "No such message"),
    "schedule_not_found": ErrorKind(404, Retry.NEVER, "No such schedule"),
    "topic_not_found": ErrorKind(404, Retry.NEVER, "No such topic"),
    "group_not_found": ErrorKind(404, Retry.NEVER, "No such consumer group"),
    "run_not_found": ErrorKind(404, Retry.NEVER, "No such run"),
    "step_not_found": ErrorKind(404, Retry.NEVER, "No such step"),
    "flow_not_found": ErrorKind(404, Retry.NEVER, "No such flow"),
    "effect_not_found": ErrorKind(404, Retry.NEVER, "No such effect"),
    "method_not_allowed": ErrorKind(405, Retry.NEVER, "This method is not allowed here"),
    "not_acceptable": ErrorKind(406, Retry.NEVER, "No acceptable media type"),
    "request_timeout": ErrorKind(408, Retry.LATER, "The request came too slowly"),
    "stale_lease": ErrorKind(409, Retry.NEVER, "The lease is not live"),
    "stale_effect": ErrorKind(409, Retry.NEVER, "The effect token was superseded"),
    "effect_held": ErrorKind(409, Retry.LATER, "Another live holder has this effect"),
    "idempotency_conflict": ErrorKind(409, Retry.NEVER, "The same key with other content"),
    "message_finished": ErrorKind(409, Retry.NEVER, "The message is finished"),
    "queue_paused": ErrorKind(409, Retry.LATER, "Enqueue is paused"),
    "no_eligible_member": ErrorKind(409, Retry.LATER, "No member can take over"),
    "revision_changed": ErrorKind(412, Retry.NEVER, "It has another revision"),
    "payload_too_large": ErrorKind(413, Retry.NEVER, "The payload is over its limit"),
    "batch_too_large": ErrorKind(413, Retry.NEVER, "The batch is over its limit"),
    "unsupported_media_type": ErrorKind(415, Retry.NEVER, "Unsupported media type"),
    "queue_full": ErrorKind(429, Retry.LATER, "The queue is full"),
    "rate_limited": ErrorKind(429, Retry.LATER, "Over the rate limit"),
    "overloaded": ErrorKind(429, Retry.LATER, "Too many requests are waiting"),
    "memory_pressure": ErrorKind(429, Retry.LATER, "The node is short of memory"),
    "too_many_schedules": ErrorKind(429, Retry.LATER, "The cluster holds its most schedules"),
    "too_many_queues": ErrorKind(429, Retry.LATER, "The cluster holds its most queues"),
    "too_many_topics": ErrorKind(429, Retry.LATER, "The cluster holds its most topics"),
    "too_many_groups": ErrorKind(429, Retry.LATER, "The topic has its most groups"),
    "internal": ErrorKind(500, Retry.SAME_KEY, "An internal error"),
    "not_implemented": ErrorKind(501, Retry.NEVER, "Not built yet"),
    "no_leader": ErrorKind(503, Retry.ELSEWHERE, "No leader is known"),
    "lost_leadership": ErrorKind(503, Retry.ELSEWHERE, "This node is no longer the leader"),
    "draining": ErrorKind(503, Retry.ELSEWHERE, "The node is draining"),
    "recovering": ErrorKind(503, Retry.ELSEWHERE, "The node is recovering"),
    "outcome_unknown": ErrorKind(504, Retry.SAME_KEY, "The write may or may not have happened"),
    "disk_full": ErrorKind(507, Retry.LATER, "The disk is full"),
}


class TrivetError(Exception):
    """An error with a code of `CODES`.

    `field` is a JSON pointer into the request, `limit` the limit that was passed.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        field: str | None = None,
        limit: int | None = None,
        retry_after_ms: int | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.field = field
        self.limit = limit
        self.retry_after_ms = retry_after_ms
        self.extra = extra or {}

    @property
    def kind(self) -> ErrorKind:
        return CODES[self.code]

    @property
    def status(self) -> int:
        return self.kind.status

    @property
    def retry(self) -> Retry:
        return self.kind.retry


def invalid(detail: str, field: str, limit: int | None = None) -> TrivetError:
    """The request is wrong at `field`: the commonest refusal, said in one line."""
    return TrivetError("invalid_argument", detail, field=field, limit=limit)
