"""Answers per item: what an ack, nack, extension or release of many leases came to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trivet.client.errors import ApiError, NotFound, StaleLease, error_of

GOOD = frozenset({"acked", "nacked", "dead", "extended", "released"})


def item_error(result: dict[str, Any], results: Sequence[dict[str, Any]]) -> ApiError | None:
    """The exception for one item's answer, None if it is good."""
    status = str(result.get("status"))
    if status in GOOD:
        return None
    extra = {"results": list(results)}
    if status == "stale_lease":
        return StaleLease("stale_lease", "the lease is not live; nothing was changed by it", extra=extra)
    if status == "not_found":
        return NotFound("not_found", "no such lease (unknown, or settled long ago)", extra=extra)
    return error_of(status, str(result.get("detail") or "the item was refused"), extra=extra)


def raise_refused(results: Sequence[dict[str, Any]]) -> None:
    """R35: a per-item refusal inside a 200 raises. A stale lease outranks the other reasons."""
    refused = [one for one in results if one.get("status") not in GOOD]
    if not refused:
        return
    errors = [error for one in refused if (error := item_error(one, results)) is not None]
    first = next((one for one in errors if isinstance(one, StaleLease)), errors[0])
    if len(results) > 1:
        first.detail = f"{first.detail} ({len(errors)} of {len(results)} items refused)"
        first.args = (f"{first.code}: {first.detail}",)
    raise first
