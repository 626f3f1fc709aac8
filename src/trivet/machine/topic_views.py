"""Reads of topics for the HTTP layer, in the shapes of api.md (`views.py` has the rest)."""

from __future__ import annotations

from heapq import nsmallest
from typing import TYPE_CHECKING, Any

from trivet.limits import ANSWER_BYTES_MAX
from trivet.machine.ids import message_id
from trivet.machine.replies import Published
from trivet.machine.topic_records import Topic, TopicEntry
from trivet.machine.views import Body, add_optional, envelope

if TYPE_CHECKING:
    from trivet.machine.core import Machine


def topic(m: Machine, name: str) -> dict[str, Any] | None:
    """What it keeps and its groups by name; None if there is no such topic."""
    found = m.topics.get(name)
    return None if found is None else _shown(found)


def topics(m: Machine, limit: int, after: str | None = None) -> tuple[list[dict[str, Any]], str | None]:
    """At most `limit` topics by name, after the name `after`; and the name to go on after, None at the end."""
    names = nsmallest(limit + 1, (name for name in m.topics if after is None or name > after))
    shown = names[:limit]
    return [_shown(m.topics[name]) for name in shown], shown[-1] if len(names) > limit else None


def _shown(found: Topic) -> dict[str, Any]:
    queues = sorted(queue.name for queue in found.groups)
    return {
        "topic": found.name,
        "retention_ms": found.retention_ms,
        "retention_messages": found.retention_messages,
        "first_offset": found.first_offset,
        "next_offset": found.next_offset,
        "groups": [{"group": name.partition(":")[2], "queue": name} for name in queues],
    }


def entries(
    m: Machine, name: str, from_offset: int, limit: int, max_bytes: int = ANSWER_BYTES_MAX
) -> tuple[list[dict[str, Any]], int | None] | None:
    """What a topic keeps, from an offset on, and the offset to go on from, None at the end. None: no such topic.

    At least one entry whatever its size; stops at `limit` or `max_bytes`.
    """
    found = m.topics.get(name)
    if found is None:
        return None
    shown: list[dict[str, Any]] = []
    size = 0
    for entry in found.entries.slice_after(from_offset - 1, limit + 1):
        size += entry.size
        if shown and (len(shown) == limit or size > max_bytes):
            return shown, entry.offset
        shown.append(_entry(entry))
    return shown, None


def _entry(entry: TopicEntry) -> dict[str, Any]:
    draft = entry.draft
    shown: dict[str, Any] = {
        **envelope(draft),
        "body": Body(draft.body, draft.codec, draft.content_type),
        "priority": draft.priority,
        "published_at_ms": entry.at_ms,
    }
    add_optional(shown, draft)
    return shown


def published(reply: Published) -> list[dict[str, Any]]:
    """Each message of a publish with its offset, and the id it got in each group. A duplicate got none now."""
    duplicates = set(reply.duplicates)
    shown: list[dict[str, Any]] = []
    fresh = 0
    for at, offset in enumerate(reply.offsets):
        duplicate = at in duplicates
        ids: dict[str, str] = {}
        if not duplicate:
            ids = {g: message_id(n[fresh]) for g, n in zip(reply.groups, reply.numbers, strict=True)}
            fresh += 1
        shown.append({"offset": offset, "duplicate": duplicate, "ids": ids})
    return shown
