"""Queues: configuration, counts, pause, purge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from trivet.errors import TrivetError
from trivet.http import build, content, shapes
from trivet.http import schema as s
from trivet.http.call import Call, Reply
from trivet.http.codec import Codec
from trivet.http.describing import LIMIT, Query, operation
from trivet.machine import views
from trivet.machine.commands import (
    Command,
    DeleteQueue,
    PatchQueue,
    PauseQueue,
    PurgeQueue,
    PutQueue,
)
from trivet.machine.replies import Answer, Done, QueueSaved
from trivet.node.waiters import queue_not_found

if TYPE_CHECKING:
    from trivet.machine.core import Machine

_QUEUE = Codec(s.QueueIn, null_is_absent=False)
_QUEUE_PATCH = Codec(s.QueuePatchIn, null_is_absent=False)
_PAUSE = Codec(s.PauseIn)
_NOTHING = Codec(s.In)


def name_of(call: Call) -> str:
    """Of a queue, also of a consumer group's."""
    return content.any_queue_name(call.params[0], "/queue")


def own_name_of(call: Call) -> str:
    """Of a queue that no topic has: to make or delete it, or to enqueue to it."""
    return content.queue_name(call.params[0], "/queue")


@operation(
    "Create a queue, or replace its configuration",
    note="What is not given has its default. 201 if the queue is new.",
    takes=s.QueueIn,
    optional=True,
    gives={200: shapes.Queue, 201: shapes.Queue},
    problems=("revision_changed", "too_many_queues"),
    headers=("If-Match",),
    example={"lease_ms": 60_000, "max_attempts": 3, "backoff": {"type": "fixed", "base_ms": 5000}},
)
async def put(call: Call) -> Reply:
    name = own_name_of(call)
    config = build.queue_config(call.decode(_QUEUE, optional=True))
    return await _saved(call, name, PutQueue(name, config, call.if_match()))


@operation(
    "Change only the fields given of a queue's configuration",
    takes=s.QueuePatchIn,
    optional=True,
    gives=shapes.Queue,
    problems=("queue_not_found", "revision_changed"),
    headers=("If-Match",),
    example={"max_leased": 20},
)
async def patch(call: Call) -> Reply:
    name = name_of(call)
    changes = build.queue_changes(call.decode(_QUEUE_PATCH, optional=True))
    return await _saved(call, name, PatchQueue(name, changes, call.if_match()))


@operation(
    "Pause leasing, enqueueing or both",
    note="With neither field: leasing. A field that is absent beside a given one stays as it is.",
    takes=s.PauseIn,
    optional=True,
    gives=shapes.Queue,
    problems=("queue_not_found",),
    example={"lease": True},
)
async def pause(call: Call) -> Reply:
    name = name_of(call)
    given = call.decode(_PAUSE, optional=True)
    if given.enqueue is UNSET and given.lease is UNSET:
        command = PauseQueue(name, None, True)  # the default: lease only
    else:
        command = PauseQueue(
            name,
            None if given.enqueue is UNSET else given.enqueue,
            None if given.lease is UNSET else given.lease,
        )
    return await _saved(call, name, command)


@operation("End both pauses", takes=s.In, optional=True, gives=shapes.Queue, problems=("queue_not_found",))
async def resume(call: Call) -> Reply:
    name = name_of(call)
    call.decode(_NOTHING, optional=True)
    return await _saved(call, name, PauseQueue(name, False, False))


async def _saved(call: Call, name: str, command: Command) -> Reply:
    """A change of a queue answers with the queue as it is after its entry."""
    committed = await call.submit(command, lambda machine, _: shown(call, machine, name))
    reply = committed.answer.reply
    status = 201 if isinstance(reply, QueueSaved) and reply.created else 200
    told = committed.shown or {"queue": name}  # a repeat of a request whose queue is gone since
    if isinstance(reply, QueueSaved):
        told["revision"] = reply.revision  # of a repeat: the one its first made (R12), so If-Match stays safe
    return call.written(committed, told, status, etag(told))


@operation("Configuration and counts of a queue", gives=shapes.Queue, problems=("queue_not_found",))
async def get(call: Call) -> Reply:
    name = name_of(call)
    as_of, told = await call.look(lambda m: (m.applied_index, shown(call, m, name)))
    if told is None:
        raise queue_not_found(name)
    return call.seen(as_of, told, etag(told))


@operation(
    "List queues with their counts, by name",
    gives=shapes.Queues,
    query=(LIMIT, Query("after", "go on after this name: the `next` of the answer before")),
)
async def get_all(call: Call) -> Reply:
    limit = LIMIT.read(call.query)
    after = call.query.get("after")
    now_ms = call.services.broker.now_ms
    as_of, (found, following) = await call.look(
        lambda m: (m.applied_index, views.queues(m, limit, after, now_ms))
    )
    return call.seen(as_of, {"queues": found, "next": following})


@operation(
    "Delete a queue with its messages",
    note="Its leases and its waits end.",
    takes=s.In,
    optional=True,
    gives=shapes.Removed,
    problems=("queue_not_found", "revision_changed"),
    headers=("If-Match",),
)
async def delete(call: Call) -> Reply:
    name = own_name_of(call)
    call.decode(_NOTHING, optional=True)
    committed = await call.submit(DeleteQueue(name, call.if_match()))
    return call.written(committed, {"removed": removed(committed.answer)})


@operation(
    "Remove all messages that are not leased",
    takes=s.In,
    optional=True,
    gives=shapes.Removed,
    problems=("queue_not_found",),
)
async def purge(call: Call) -> Reply:
    name = name_of(call)
    call.decode(_NOTHING, optional=True)
    committed = await call.submit(PurgeQueue(name))
    return call.written(committed, {"removed": removed(committed.answer)})


def removed(answer: Answer) -> int:
    assert isinstance(answer.reply, Done)
    return answer.reply.count


def shown(call: Call, machine: Machine, name: str) -> dict[str, Any] | None:
    told = views.queue(machine, name, call.services.broker.now_ms)
    if told is None:
        return None
    told["backoff"] = {key: number(value) for key, value in told["backoff"].items()}
    told["rate_limit"] = None
    told["breaker"] = None
    return told


def number(value: Any) -> Any:
    """Thousandths as the number they stand for: 2, 0.5 (R30)."""
    if not isinstance(value, views.Milli):
        return value
    whole, rest = divmod(value.thousandths, 1000)
    return value.thousandths / 1000 if rest else whole


def etag(told: dict[str, Any]) -> dict[str, str]:
    return {"ETag": f'"{told["revision"]}"'} if "revision" in told else {}


def after_message(call: Call) -> int:
    """The `after` of a message list: the last id seen; 0 from the start."""
    text = call.query.get("after")
    if text is None:
        return 0
    try:
        return build.message_number(text, "/after")
    except TrivetError:
        raise TrivetError("invalid_argument", "after is no message id", field="/after") from None
