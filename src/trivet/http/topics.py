"""Topics and their consumer groups: a group's queue is worked on under `/v1/queues`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET, UnsetType

from trivet.errors import TrivetError, invalid
from trivet.http import build, content, render, shapes
from trivet.http import schema as s
from trivet.http.call import Call, Plain, Reply
from trivet.http.codec import Codec
from trivet.http.describing import LIMIT, MAX_BYTES, Query, Whole, operation
from trivet.http.messages import Kinds, plain_drafts, read_drafts, submit_drafts
from trivet.http.queues import etag, removed, shown
from trivet.limits import INT64_MAX, TOPIC_MESSAGES_DEFAULT, TOPIC_RETENTION_MS_DEFAULT
from trivet.machine import topic_views
from trivet.machine.commands import DeleteGroup, DeleteTopic, Publish, PutGroup, PutTopic, ReplayGroup
from trivet.machine.replies import GroupSaved, Published, Replayed, TopicSaved
from trivet.machine.topics import queue_name
from trivet.node.broker import Committed

if TYPE_CHECKING:
    from trivet.machine.core import Machine

AFTER = Query("after", "go on after this topic: the `next` of the answer before")
FROM_OFFSET = Whole("from_offset", "from this offset on", 0, INT64_MAX, 0)

_TOPIC = Codec(s.TopicIn, null_is_absent=False)
_GROUP = Codec(s.GroupIn, null_is_absent=False)
_REPLAY = Codec(s.ReplayGroupIn)
_NOTHING = Codec(s.In)
_PUBLISH = Kinds(Codec(s.PublishIn), Codec(s.PublishPartsIn), Codec(s.PublishOneIn))


def topic_of(call: Call) -> str:
    return content.queue_name(call.params[0], "/topic", "a topic's")


def group_of(call: Call) -> str:
    return content.queue_name(call.params[1], "/group", "a consumer group's")


def topic_not_found(name: str) -> TrivetError:
    return TrivetError("topic_not_found", f'there is no topic "{name}"')


# --- topics -------------------------------------------------------------------------------------------


@operation(
    "Create a topic, or replace how much it keeps",
    note="What is not given has its default. 201 if the topic is new.",
    takes=s.TopicIn,
    optional=True,
    gives={200: shapes.Topic, 201: shapes.Topic},
    problems=("too_many_topics",),
    example={"retention_ms": 3_600_000, "retention_messages": 10_000},
)
async def put(call: Call) -> Reply:
    name = topic_of(call)
    given = call.decode(_TOPIC, optional=True)
    retention_ms = TOPIC_RETENTION_MS_DEFAULT if given.retention_ms is UNSET else given.retention_ms
    messages = TOPIC_MESSAGES_DEFAULT if given.retention_messages is UNSET else given.retention_messages
    command = PutTopic(name, retention_ms, messages)
    committed = await call.submit(command, lambda machine, _: topic_views.topic(machine, name))
    reply = committed.answer.reply
    assert isinstance(reply, TopicSaved)
    told = committed.shown or {"topic": name}  # a repeat of a request whose topic is gone since
    return call.written(committed, told, 201 if reply.created else 200)


@operation(
    "A topic: what it keeps, and its consumer groups", gives=shapes.Topic, problems=("topic_not_found",)
)
async def get(call: Call) -> Reply:
    name = topic_of(call)
    as_of, told = await call.look(lambda m: (m.applied_index, topic_views.topic(m, name)))
    if told is None:
        raise topic_not_found(name)
    return call.seen(as_of, told)


@operation("Topics by name", gives=shapes.Topics, query=(LIMIT, AFTER))
async def get_all(call: Call) -> Reply:
    limit, after = LIMIT.read(call.query), call.query.get("after")
    as_of, (found, following) = await call.look(
        lambda m: (m.applied_index, topic_views.topics(m, limit, after))
    )
    return call.seen(as_of, {"topics": found, "next": following})


@operation(
    "Delete a topic with its consumer groups, their messages and leases",
    takes=s.In,
    optional=True,
    gives=shapes.Removed,
    problems=("topic_not_found",),
)
async def delete(call: Call) -> Reply:
    name = topic_of(call)
    call.decode(_NOTHING, optional=True)
    committed = await call.submit(DeleteTopic(name))
    return call.written(committed, {"removed": removed(committed.answer)})


# --- publishing ---------------------------------------------------------------------------------------


def plain_publish(call: Call) -> Plain | None:
    """Of messages that are nothing but bodies."""
    quick = plain_drafts(call)
    if quick is None:
        return None
    drafts, own = quick
    return call.plain(Publish(topic_of(call), drafts), lambda committed: _published(call, committed), own)


@operation(
    "Publish one message, or up to 1000 in one log entry, to every consumer group",
    note="All or nothing. It never fails because a group is full: that one's longest ready message becomes a dead "
    "letter (`queue_full`). A batch times the groups is at most 4096.",
    takes=s.PublishIn,
    gives={201: shapes.Published},
    problems=(
        *("topic_not_found", "idempotency_conflict", "batch_too_large", "queue_full"),
        *("memory_pressure", "disk_full"),
    ),
    example={"messages": [{"body": {"order": 17}, "idempotency_key": "order-17"}, {"body": 2}]},
)
async def publish(call: Call) -> Reply:
    name = topic_of(call)
    plain = plain_publish(call)
    if plain is not None:
        return await call.finish(plain)
    drafts, own = await read_drafts(call, _PUBLISH)
    return _published(call, await submit_drafts(call, Publish(name, drafts), own))


def _published(call: Call, committed: Committed) -> Reply:
    reply = committed.answer.reply
    assert isinstance(reply, Published)
    return call.written(committed, {"messages": topic_views.published(reply)}, 201)


@operation(
    "Look at what a topic keeps, in the order of the offsets",
    gives=shapes.TopicMessages,
    query=(FROM_OFFSET, LIMIT, MAX_BYTES),
    problems=("topic_not_found",),
)
async def browse(call: Call) -> Reply:
    name = topic_of(call)
    start, limit = FROM_OFFSET.read(call.query), LIMIT.read(call.query)
    max_bytes = MAX_BYTES.read(call.query)
    as_of, page = await call.look(
        lambda m: (m.applied_index, topic_views.entries(m, name, start, limit, max_bytes))
    )
    if page is None:
        raise topic_not_found(name)
    return call.seen(as_of, {"messages": render.messages(page[0], call.accept), "next": page[1]})


# --- groups -------------------------------------------------------------------------------------------


@operation(
    "Create a consumer group, or replace the configuration of its queue",
    note="201 if the group is new: then it starts at the end, unless `from_at_ms` or `from_offset` says from which of "
    "the messages kept. An existing one is not moved. Its queue is `{topic}:{group}`.",
    takes=s.GroupIn,
    optional=True,
    gives={200: shapes.Group, 201: shapes.Group},
    problems=(
        "topic_not_found",
        "revision_changed",
        "too_many_groups",
        "too_many_queues",
        "memory_pressure",
        "disk_full",
    ),
    headers=("If-Match",),
    example={"from_offset": 0, "max_attempts": 10},
)
async def put_group(call: Call) -> Reply:
    topic, group = topic_of(call), group_of(call)
    given = call.decode(_GROUP, optional=True)
    at_ms, offset = _start(given)
    command = PutGroup(topic, group, build.queue_config(given), call.if_match(), at_ms, offset)
    committed = await call.submit(command, lambda machine, _: _group(call, machine, topic, group))
    reply = committed.answer.reply
    assert isinstance(reply, GroupSaved)
    told: dict[str, Any] = committed.shown or {"topic": topic, "group": group, "queue": reply.name}
    told["revision"] = reply.revision
    if reply.created:
        told["replayed"] = reply.replayed
    return call.written(committed, told, 201 if reply.created else 200, etag(told))


def _start(given: s.GroupIn | s.ReplayGroupIn) -> tuple[int | None, int | None]:
    at_ms, offset = _or_none(given.from_at_ms), _or_none(given.from_offset)
    if at_ms is not None and offset is not None:
        raise invalid("either from_at_ms or from_offset", "/from_offset")
    return at_ms, offset


def _or_none(value: int | UnsetType) -> int | None:
    return None if value is UNSET else value


def _group(call: Call, machine: Machine, topic: str, group: str) -> dict[str, Any] | None:
    told = shown(call, machine, queue_name(topic, group))
    return None if told is None else {"topic": topic, "group": group, **told}


@operation(
    "A consumer group: the configuration and counts of its queue",
    gives=shapes.Group,
    problems=("topic_not_found", "group_not_found"),
)
async def get_group(call: Call) -> Reply:
    topic, group = topic_of(call), group_of(call)
    as_of, known, told = await call.look(
        lambda m: (m.applied_index, topic in m.topics, _group(call, m, topic, group))
    )
    if told is None:
        if not known:
            raise topic_not_found(topic)
        raise TrivetError("group_not_found", f'topic "{topic}" has no group "{group}"')
    return call.seen(as_of, told, etag(told))


@operation(
    "Delete a consumer group with its messages and leases",
    takes=s.In,
    optional=True,
    gives=shapes.Removed,
    problems=("topic_not_found", "group_not_found", "revision_changed"),
    headers=("If-Match",),
)
async def delete_group(call: Call) -> Reply:
    topic, group = topic_of(call), group_of(call)
    call.decode(_NOTHING, optional=True)
    committed = await call.submit(DeleteGroup(topic, group, call.if_match()))
    return call.written(committed, {"removed": removed(committed.answer)})


@operation(
    "Give a consumer group again what its topic keeps, from a place on",
    note="Up to 1000 messages come at once, the rest in the next moments, in the order of their offsets; what is "
    "published meanwhile comes after them. Their origin says that they are replayed.",
    takes=s.ReplayGroupIn,
    gives=shapes.Replayed,
    problems=("topic_not_found", "group_not_found", "memory_pressure", "disk_full"),
    example={"from_offset": 0},
)
async def replay(call: Call) -> Reply:
    topic, group = topic_of(call), group_of(call)
    at_ms, offset = _start(call.decode(_REPLAY))
    if at_ms is None and offset is None:
        raise invalid("from_at_ms or from_offset is needed", "/from_offset")
    committed = await call.submit(ReplayGroup(topic, group, at_ms, offset))
    reply = committed.answer.reply
    assert isinstance(reply, Replayed)
    told = {"replayed": reply.count, "from_offset": reply.from_offset, "more": reply.more}
    return call.written(committed, told)
