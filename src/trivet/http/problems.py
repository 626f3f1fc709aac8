"""Errors as problem details (RFC 9457). The code is the API, the text is not."""

from __future__ import annotations

from typing import Any

import msgspec

from trivet.errors import TrivetError

PROBLEM = "application/problem+json"
_encode = msgspec.json.Encoder().encode


def body(error: TrivetError) -> bytes:
    """The JSON of an error; `limit`, `field` and `retry_after_ms` only where they apply."""
    told: dict[str, Any] = {
        "type": f"urn:trivet:error:{error.code}",
        "title": error.kind.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "retry": str(error.retry),
    }
    if error.field is not None:
        told["field"] = error.field
    if error.limit is not None:
        told["limit"] = error.limit
    wait_ms = retry_after_ms(error)
    if wait_ms is not None:
        told["retry_after_ms"] = wait_ms
    told.update(error.extra)
    return _encode(told)


def retry_after_ms(error: TrivetError) -> int | None:
    """When to come back. 429 and `no_leader` always say so (api.md, Manners)."""
    if error.retry_after_ms is not None:
        return error.retry_after_ms
    return 1000 if error.status == 429 or error.code == "no_leader" else None


def headers(error: TrivetError) -> dict[str, str]:
    """`Retry-After` is in whole seconds, never 0."""
    wait_ms = retry_after_ms(error)
    return {} if wait_ms is None else {"Retry-After": str(max(1, -(-wait_ms // 1000)))}
