"""Queues: configuration, counts, pause, purge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from trivet.errors import TrivetError
from trivet.http import build, content
from trivet.http import schema as s
from trivet.http.call import Call, Reply
from trivet.http.codec import Codec
from trivet.http.routing import query_int
from trivet.limits import LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX
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
_PAUSE = Codec(s.PauseIn)
_NOTHING = Codec(s.In)


def name_of(call: Call) -> str:
    return content.queue_name(call.params[0], "/queue")


async def put(call: Call) -> Reply:
    name = name_of(call)
    config = build.queue_config(call.decode(_QUEUE, optional=True))
    return await _saved(call, name, PutQueue(name, config, call.if_match()))


async def patch(call: Call) -> Reply:
    name = name_of(call)
    changes = build.queue_changes(call.decode(_QUEUE, optional=True))
    return await _saved(call, name, PatchQueue(name, changes, call.if_match()))


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


async def resume(call: Call) -> Reply:
    name = name_of(call)
    call.decode(_NOTHING, optional=True)
    return await _saved(call, name, PauseQueue(name, False, False))


async def _saved(call: Call, name: str, command: Command) -> Reply:
    """A change of a queue answers with the queue as it is after its entry."""
    committed = await call.submit(command, lambda machine, _: _shown(call, machine, name))
    reply = committed.answer.reply
    status = 201 if isinstance(reply, QueueSaved) and reply.created else 200
    told = committed.shown or {"queue": name}  # a repeat of a request whose queue is gone since
    if isinstance(reply, QueueSaved):
        told["revision"] = reply.revision  # of a repeat: the one its first made (R12), so If-Match stays safe
    return call.written(committed, told, status, _etag(told))


async def get(call: Call) -> Reply:
    name = name_of(call)
    as_of, told = await call.look(lambda m: (m.applied_index, _shown(call, m, name)))
    if told is None:
        raise queue_not_found(name)
    return call.seen(as_of, told, _etag(told))


async def get_all(call: Call) -> Reply:
    limit = query_int(call.query, "limit", LIST_LIMIT_DEFAULT, 1, LIST_LIMIT_MAX)
    after = call.query.get("after")
    now_ms = call.services.broker.now_ms
    as_of, (found, following) = await call.look(
        lambda m: (m.applied_index, views.queues(m, limit, after, now_ms))
    )
    return call.seen(as_of, {"queues": found, "next": following})


async def delete(call: Call) -> Reply:
    name = name_of(call)
    call.decode(_NOTHING, optional=True)
    committed = await call.submit(DeleteQueue(name, call.if_match()))
    return call.written(committed, {"removed": removed(committed.answer)})


async def purge(call: Call) -> Reply:
    name = name_of(call)
    call.decode(_NOTHING, optional=True)
    committed = await call.submit(PurgeQueue(name))
    return call.written(committed, {"removed": removed(committed.answer)})


def removed(answer: Answer) -> int:
    assert isinstance(answer.reply, Done)
    return answer.reply.count


def _shown(call: Call, machine: Machine, name: str) -> dict[str, Any] | None:
    told = views.queue(machine, name, call.services.broker.now_ms)
    if told is None:
        return None
    told["backoff"] = {key: _number(value) for key, value in told["backoff"].items()}
    told["rate_limit"] = None
    told["breaker"] = None
    return told


def _number(value: Any) -> Any:
    """Thousandths as the number they stand for: 2, 0.5 (R30)."""
    if not isinstance(value, views.Milli):
        return value
    whole, rest = divmod(value.thousandths, 1000)
    return value.thousandths / 1000 if rest else whole


def _etag(told: dict[str, Any]) -> dict[str, str]:
    return {"ETag": f'"{told["revision"]}"'} if "revision" in told else {}


def list_limit(call: Call) -> int:
    limit: int = query_int(call.query, "limit", LIST_LIMIT_DEFAULT, 1, LIST_LIMIT_MAX)
    return limit


def after_message(call: Call) -> int:
    """The `after` of a message list: the last id seen; 0 from the start."""
    text = call.query.get("after")
    if text is None:
        return 0
    try:
        return build.message_number(text, "/after")
    except TrivetError:
        raise TrivetError("invalid_argument", "after is no message id", field="/after") from None
