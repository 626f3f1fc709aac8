"""Messages: enqueue, lease, settle, one message, browsing."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec import UNSET, UnsetType

from trivet.errors import TrivetError, invalid
from trivet.http import build, bulk, content, render
from trivet.http import schema as s
from trivet.http.call import Call, Plain, Reply
from trivet.http.codec import BIG_BYTES, MSGPACK, Codec
from trivet.http.queues import after_message, list_limit, name_of
from trivet.http.routing import query_int
from trivet.limits import ANSWER_BYTES_MAX, LEASE_QUEUES_MAX, WAIT_MS_MAX
from trivet.machine import views
from trivet.machine.commands import Ack, Cancel, Command, Draft, Enqueue, Lease, PatchMessage, Progress
from trivet.machine.ids import decode_token, message_id
from trivet.machine.replies import Enqueued, Leased, MessageChanged, SettledAll
from trivet.node.broker import Committed
from trivet.node.waiters import Ask, queue_not_found

STATES = ("blocked", "delayed", "ready", "leased", "done", "dead", "cancelled")

_ENQUEUE = Codec(s.EnqueueIn)
_ENQUEUE_PARTS = Codec(s.EnqueuePartsIn)
_OUTLINE = Codec(s.EnqueueOutlineIn)
_MESSAGE = Codec(s.MessageIn)
_LEASE = Codec(s.LeaseIn)
_LEASE_MANY = Codec(s.LeaseManyIn)
_ACK = Codec(s.AckIn)
_NACK = Codec(s.NackIn)
_EXTEND = Codec(s.ExtendIn)
_RELEASE = Codec(s.ReleaseIn)
_PROGRESS = Codec(s.ProgressIn)
_PATCH = Codec(s.MessagePatchIn)
_NOTHING = Codec(s.In)


def plain_enqueue(call: Call) -> Plain | None:
    """Of messages that are nothing but bodies."""
    own = "/messages/0"
    quick = bulk.one_draft(call.body, call.media)
    if quick is None:
        own = ""
        quick = bulk.drafts(call.body, call.media)
        if quick is None:
            return None
    drafts, request_id = quick
    call.take_key(request_id)
    command = Enqueue(name_of(call), drafts, call.services.broker.auto_create_queues)
    return call.plain(command, lambda committed: _enqueued(call, committed), own)


async def enqueue(call: Call) -> Reply:
    name = name_of(call)
    broker = call.services.broker
    plain = plain_enqueue(call)
    if plain is not None:
        return await call.finish(plain)
    given: s.EnqueueIn | s.EnqueuePartsIn
    if len(call.body) > BIG_BYTES:
        given, drafts = await _enqueue_in_parts(call)
    else:
        given = call.decode(_ENQUEUE)
        drafts = build.drafts(given, typed=call.typed, now_ms=broker.now_ms)
    try:
        committed = await call.submit(Enqueue(name, drafts, broker.auto_create_queues))
    except TrivetError as error:
        if given.messages is UNSET and error.field is not None:
            error.field = error.field.removeprefix("/messages/0")
        raise
    return _enqueued(call, committed)


def _enqueued(call: Call, committed: Committed) -> Reply:
    reply = committed.answer.reply
    assert isinstance(reply, Enqueued)
    return call.written(committed, {"messages": bulk.enqueued(reply.messages, call.accept)}, 201)


async def _enqueue_in_parts(call: Call) -> tuple[s.EnqueuePartsIn, tuple[Draft, ...]]:
    """As for a small one, a message at a time with a turn of the loop after each `BIG_BYTES`."""
    now_ms, typed = call.services.broker.now_ms, call.typed
    outline = _OUTLINE.decode(call.body, call.media)
    if outline.messages is not UNSET:
        build.check_batch(outline.messages)
    if outline.body is not UNSET:
        content.check_weight(bytes(outline.body), "/body", typed=typed)
    given = call.decode(_ENQUEUE_PARTS)
    if given.messages is UNSET:
        return given, (build.draft(given, "", typed=typed, now_ms=now_ms),)
    build.only_messages(given)
    made: list[Draft] = []
    taken = 0
    for at, part in enumerate(given.messages):
        raw = bytes(part)
        made.append(_draft_of(raw, f"/messages/{at}", call.media, now_ms))
        taken += len(raw)
        if taken > BIG_BYTES:
            taken = 0
            await asyncio.sleep(0)
    drafts = tuple(made)
    build.bounded_batch(drafts, "/messages")
    return given, drafts


def _draft_of(raw: bytes, at: str, media: str, now_ms: int) -> Draft:
    typed = media == MSGPACK
    try:
        if len(raw) > BIG_BYTES:
            outline = _OUTLINE.decode(raw, media)
            if outline.body is not UNSET:
                content.check_weight(bytes(outline.body), "/body", typed=typed)
        given = _MESSAGE.decode(raw, media)
    except TrivetError as error:
        error.field = at + (error.field or "")
        raise
    return build.draft(given, at, typed=typed, now_ms=now_ms)


# --- leasing ------------------------------------------------------------------------------------------


async def lease(call: Call) -> Reply:
    name = name_of(call)
    return await _lease(call, call.decode(_LEASE), (name,))


async def lease_many(call: Call) -> Reply:
    given = call.decode(_LEASE_MANY)
    if not 1 <= len(given.queues) <= LEASE_QUEUES_MAX:
        raise invalid(f"must name 1 … {LEASE_QUEUES_MAX} queues", "/queues", LEASE_QUEUES_MAX)
    names = tuple(content.queue_name(name, f"/queues/{at}") for at, name in enumerate(given.queues))
    if len(set(names)) != len(names):
        raise invalid("names a queue twice", "/queues")
    return await _lease(call, given, names)


async def _lease(call: Call, given: s.LeaseIn, names: tuple[str, ...]) -> Reply:
    content.text(given.consumer, "/consumer")
    lease_ms = None if given.lease_ms is UNSET else given.lease_ms
    whole = Lease(names, given.consumer, given.max_messages, lease_ms, given.max_bytes)
    ask = Ask(
        queues=names,
        consumer=given.consumer,
        max_messages=given.max_messages,
        lease_ms=lease_ms,
        wait_ms=given.wait_ms,
        max_bytes=given.max_bytes,
        request_id=call.key,
        fingerprint=call.fingerprint(whole) if call.key is not None else b"",
    )
    services = call.services
    committed = await services.waiters.lease(ask)
    if committed is None:
        machine = services.broker.machine
        nothing = {
            "messages": [],
            "now_ms": machine.clock_ms,
            "index": machine.applied_index,
            "seq": 0,
            "term": services.broker.consensus.term,
        }
        return call.reply(200, nothing)
    reply = committed.answer.reply
    assert isinstance(reply, Leased)
    told: dict[str, Any] = {"messages": bulk.leased(committed.shown, call.accept)}
    told["now_ms"] = reply.now_ms
    if committed.answer.repeated:
        told["lost"] = reply.lost
    transport = call.request.transport
    if transport is None or transport.is_closing():
        services.waiters.release(ask, committed)  # nobody is left to hear of these leases (R26)
    return call.written(committed, told)


# --- settling -----------------------------------------------------------------------------------------


def plain_ack(call: Call) -> Plain | None:
    """Of nothing but tokens."""
    quick = bulk.acks(call.body, call.media)
    if quick is None:
        return None
    items, request_id = quick
    call.take_key(request_id)
    command = Ack(items, (), call.services.broker.auto_create_queues)
    return call.plain(command, lambda committed: _settled(call, committed))


async def ack(call: Call) -> Reply:
    broker = call.services.broker
    plain = plain_ack(call)
    if plain is not None:
        return await call.finish(plain)
    command = build.ack(
        call.decode(_ACK),
        typed=call.typed,
        now_ms=broker.now_ms,
        auto_create=broker.auto_create_queues,
    )
    return await _settle(call, command)


async def nack(call: Call) -> Reply:
    return await _settle(call, build.nack(call.decode(_NACK)))


async def extend(call: Call) -> Reply:
    return await _settle(call, build.extend(call.decode(_EXTEND)))


async def release(call: Call) -> Reply:
    return await _settle(call, build.release(call.decode(_RELEASE)))


async def _settle(call: Call, command: Command) -> Reply:
    return _settled(call, await call.submit(command))


def _settled(call: Call, committed: Committed) -> Reply:
    reply = committed.answer.reply
    assert isinstance(reply, SettledAll)
    told: dict[str, Any] = {"results": bulk.settled(reply.results, call.accept)}
    if reply.messages is not None:
        told["messages"] = bulk.enqueued(reply.messages, call.accept)
    return call.written(committed, told)


# --- one message --------------------------------------------------------------------------------------


async def get(call: Call) -> Reply:
    number = build.message_number(call.params[0])
    wait_ms = query_int(call.query, "wait_ms", 0, 0, WAIT_MS_MAX)
    found = await call.services.waiters.message(
        number, wait_ms, lambda machine: _looked_up(machine, number), local=call.local
    )
    if found is None:
        raise TrivetError("message_not_found", f'there is no message "{message_id(number)}"')
    as_of = found.pop("as_of")
    return call.seen(as_of, render.message(found, call.accept))


def _looked_up(machine: Any, number: int) -> dict[str, Any] | None:
    found = views.message(machine, number)
    if found is not None:
        found["as_of"] = machine.applied_index
    return found


async def cancel(call: Call) -> Reply:
    number = build.message_number(call.params[0])
    call.decode(_NOTHING, optional=True)
    return await _changed(call, Cancel(number))


async def patch(call: Call) -> Reply:
    number = build.message_number(call.params[0])
    given = call.decode(_PATCH)
    if given.priority is UNSET and given.deliver_at_ms is UNSET:
        raise invalid("give priority or deliver_at_ms", "")
    if given.deliver_at_ms is not UNSET:
        build.check_deliver_at(given.deliver_at_ms, call.services.broker.now_ms, "/deliver_at_ms")
    return await _changed(call, PatchMessage(number, _or_none(given.priority), _or_none(given.deliver_at_ms)))


async def progress(call: Call) -> Reply:
    number = build.message_number(call.params[0])
    given = call.decode(_PROGRESS)
    command = Progress(
        number, decode_token(given.lease_token), _or_none(given.percent), build.note(given.note)
    )
    return await _changed(call, command)


async def _changed(call: Call, command: Command) -> Reply:
    committed = await call.submit(command)
    reply = committed.answer.reply
    assert isinstance(reply, MessageChanged)
    return call.written(committed, render.changed(reply))


def _or_none(value: int | UnsetType) -> int | None:
    return None if value is UNSET else value


# --- browsing -----------------------------------------------------------------------------------------


async def browse(call: Call) -> Reply:
    name = name_of(call)
    state = call.query.get("state")
    if state is not None:
        build.choice(state, STATES, "/state")
    limit, after, max_bytes = list_limit(call), after_message(call), list_bytes(call)
    as_of, page = await call.look(
        lambda m: (m.applied_index, views.messages(m, name, state, limit, after, max_bytes))
    )
    return listed(call, name, as_of, page)


def list_bytes(call: Call) -> int:
    most: int = query_int(call.query, "max_bytes", ANSWER_BYTES_MAX, 1, ANSWER_BYTES_MAX)
    return most


def listed(call: Call, name: str, as_of: int, page: tuple[list[dict[str, Any]], str | None] | None) -> Reply:
    if page is None:
        raise queue_not_found(name)
    found, following = page
    return call.seen(as_of, {"messages": render.messages(found, call.accept), "next": following})
