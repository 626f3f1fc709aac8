"""Messages: enqueue, lease, settle, one message, browsing."""

from __future__ import annotations

from typing import Any, NamedTuple

from msgspec import UNSET, UnsetType

from trivet.errors import TrivetError, invalid
from trivet.http import build, bulk, content, render, shapes
from trivet.http import schema as s
from trivet.http.call import Call, Plain, Reply
from trivet.http.codec import BIG_BYTES, MSGPACK, Codec
from trivet.http.describing import AFTER_MESSAGE, LIMIT, MAX_BYTES, WAIT_MS, Choice, operation
from trivet.http.queues import after_message, name_of, own_name_of
from trivet.limits import LEASE_QUEUES_MAX
from trivet.machine import views
from trivet.machine.commands import Cancel, Command, Draft, Enqueue, Lease, PatchMessage, Progress
from trivet.machine.ids import decode_token, message_id
from trivet.machine.replies import Enqueued, Leased, MessageChanged, SettledAll
from trivet.node.broker import Committed
from trivet.node.waiters import Ask, queue_not_found

STATE = Choice(
    "state",
    "only those in this state",
    ("blocked", "delayed", "ready", "leased", "done", "dead", "cancelled"),
)
ENQUEUE_PROBLEMS = (
    "queue_not_found",
    "message_not_found",
    "queue_paused",
    "idempotency_conflict",
    "batch_too_large",
    "queue_full",
    "too_many_queues",
    "memory_pressure",
    "disk_full",
)


class Kinds(NamedTuple):
    """How the messages of a request are read: as a whole, in parts, and one of the parts."""

    whole: Codec[Any]
    parts: Codec[Any]
    one: Codec[Any]


_ENQUEUE = Kinds(Codec(s.EnqueueIn), Codec(s.EnqueuePartsIn), Codec(s.MessageIn))
_OUTLINE = Codec(s.EnqueueOutlineIn)
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
    quick = plain_drafts(call)
    if quick is None:
        return None
    drafts, own = quick
    command = Enqueue(own_name_of(call), drafts, call.services.broker.auto_create_queues)
    return call.plain(command, lambda committed: _enqueued(call, committed), own)


def plain_drafts(call: Call) -> tuple[tuple[Draft, ...], str] | None:
    """The messages of a request that are nothing but bodies, and what an error's field is to lose; or None."""
    own = "/messages/0"
    quick = bulk.one_draft(call.body, call.media)
    if quick is None:
        own = ""
        quick = bulk.drafts(call.body, call.media)
        if quick is None:
            return None
    drafts, request_id = quick
    call.take_key(request_id)
    return drafts, own


@operation(
    "Enqueue one message, or up to 1000 in one log entry",
    note="All or nothing. A queue that does not exist is created with the defaults.",
    takes=s.EnqueueIn,
    gives={201: shapes.Enqueued},
    problems=ENQUEUE_PROBLEMS,
    example={
        "messages": [{"body": {"to": "ada"}, "idempotency_key": "mail-1"}, {"body": 2, "delay_ms": 60_000}]
    },
)
async def enqueue(call: Call) -> Reply:
    name = own_name_of(call)
    plain = plain_enqueue(call)
    if plain is not None:
        return await call.finish(plain)
    drafts, own = await read_drafts(call, _ENQUEUE)
    auto_create = call.services.broker.auto_create_queues
    return _enqueued(call, await submit_drafts(call, Enqueue(name, drafts, auto_create), own))


async def read_drafts(call: Call, kinds: Kinds) -> tuple[tuple[Draft, ...], str]:
    """The messages of a request of any size, and what an error's field is to lose."""
    if len(call.body) > BIG_BYTES:
        given, drafts = await _in_parts(call, kinds)
    else:
        given = call.decode(kinds.whole)
        drafts = build.drafts(given, typed=call.typed, now_ms=call.services.broker.now_ms)
    return drafts, "/messages/0" if given.messages is UNSET else ""


async def submit_drafts(call: Call, command: Command, own: str) -> Committed:
    """A single message is the request itself, though the command holds it as the first of a list."""
    try:
        return await call.submit(command)
    except TrivetError as error:
        if error.field is not None:
            error.field = error.field.removeprefix(own)
        raise


def _enqueued(call: Call, committed: Committed) -> Reply:
    reply = committed.answer.reply
    assert isinstance(reply, Enqueued)
    return call.written(committed, {"messages": bulk.enqueued(reply, call.accept)}, 201)


async def _in_parts(call: Call, kinds: Kinds) -> tuple[Any, tuple[Draft, ...]]:
    """As for a small one, a message at a time."""
    now_ms, typed = call.services.broker.now_ms, call.typed
    outline = _OUTLINE.decode(call.body, call.media)
    if outline.messages is not UNSET:
        build.check_batch(outline.messages)
    if outline.body is not UNSET:
        content.check_weight(bytes(outline.body), "/body", typed=typed)
    given = call.decode(kinds.parts)
    if given.messages is UNSET:
        return given, (build.draft(given, "", typed=typed, now_ms=now_ms),)
    build.only_messages(given)
    made = await build.part_by_part(
        given.messages,
        lambda raw, at: _draft_of(raw, kinds.one, f"/messages/{at}", call.media, now_ms),
    )
    drafts = tuple(made)
    build.bounded_batch(drafts, "/messages")
    return given, drafts


def _draft_of(raw: bytes, one: Codec[Any], at: str, media: str, now_ms: int) -> Draft:
    typed = media == MSGPACK
    try:
        if len(raw) > BIG_BYTES:
            outline = _OUTLINE.decode(raw, media)
            if outline.body is not UNSET:
                content.check_weight(bytes(outline.body), "/body", typed=typed)
        given = one.decode(raw, media)
    except TrivetError as error:
        error.field = at + (error.field or "")
        raise
    return build.draft(given, at, typed=typed, now_ms=now_ms)


# --- leasing ------------------------------------------------------------------------------------------


@operation(
    "Lease messages of a queue, waiting for them if there are none",
    note="The same request id repeats the same leases; an empty answer writes nothing to the log.",
    takes=s.LeaseIn,
    gives=shapes.Leased,
    problems=("queue_not_found",),
    example={"consumer": "worker-1", "max_messages": 10, "wait_ms": 20_000},
)
async def lease(call: Call) -> Reply:
    name = name_of(call)
    return await _lease(call, call.decode(_LEASE), (name,))


@operation(
    "Lease messages of several queues, in the order given",
    takes=s.LeaseManyIn,
    gives=shapes.Leased,
    problems=("queue_not_found",),
    example={"consumer": "worker-1", "queues": ["urgent", "mail"], "wait_ms": 20_000},
)
async def lease_many(call: Call) -> Reply:
    given = call.decode(_LEASE_MANY)
    if not 1 <= len(given.queues) <= LEASE_QUEUES_MAX:
        raise invalid(f"must name 1 … {LEASE_QUEUES_MAX} queues", "/queues", LEASE_QUEUES_MAX)
    names = tuple(content.any_queue_name(name, f"/queues/{at}") for at, name in enumerate(given.queues))
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
    command, request_id = quick
    call.take_key(request_id)
    return call.plain(command, lambda committed: _settled(call, committed))


@operation(
    "Finish leased messages, with results, effects and what is to be enqueued",
    note="One log entry. With `enqueue` the whole request is all or nothing.",
    takes=s.AckIn,
    gives=shapes.AckedAll,
    problems=(*ENQUEUE_PROBLEMS, "stale_lease", "stale_effect", "effect_held", "effect_not_found"),
    example={"acks": [{"lease_token": "AAAAAAAAAAfUG0cOzB6m6UcpCxNSvX6s", "result": {"sent": True}}]},
)
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


@operation(
    "Say that leased messages failed: they come again after their backoff, or are dead",
    takes=s.NackIn,
    gives=shapes.NackedAll,
    problems=("batch_too_large",),
    example={"nacks": [{"lease_token": "AAAAAAAAAAfUG0cOzB6m6UcpCxNSvX6s", "error": "timed out"}]},
)
async def nack(call: Call) -> Reply:
    return await _settle(call, build.nack(call.decode(_NACK)))


@operation(
    "Set how long leases last from now",
    note="It may shorten them. `lease_ms` absent: the message's, else the queue's.",
    takes=s.ExtendIn,
    gives=shapes.ExtendedAll,
    problems=("batch_too_large",),
    example={"extensions": [{"lease_token": "AAAAAAAAAAfUG0cOzB6m6UcpCxNSvX6s", "lease_ms": 60_000}]},
)
async def extend(call: Call) -> Reply:
    return await _settle(call, build.extend(call.decode(_EXTEND)))


@operation(
    "Give leased messages back to their place, the attempt not counted",
    takes=s.ReleaseIn,
    gives=shapes.ReleasedAll,
    problems=("batch_too_large",),
    example={"leases": [{"lease_token": "AAAAAAAAAAfUG0cOzB6m6UcpCxNSvX6s"}]},
)
async def release(call: Call) -> Reply:
    return await _settle(call, build.release(call.decode(_RELEASE)))


async def _settle(call: Call, command: Command) -> Reply:
    return _settled(call, await call.submit(command))


def _settled(call: Call, committed: Committed) -> Reply:
    reply = committed.answer.reply
    assert isinstance(reply, SettledAll)
    told: dict[str, Any] = {"results": bulk.settled(reply, call.accept)}
    if reply.messages is not None:
        told["messages"] = bulk.enqueued_each(reply.messages, call.accept)
    return call.written(committed, told)


# --- one message --------------------------------------------------------------------------------------


@operation(
    "A message with its attempts and result",
    gives=shapes.Message,
    query=(WAIT_MS,),
    problems=("message_not_found", "overloaded"),
)
async def get(call: Call) -> Reply:
    number = build.message_number(call.params[0])
    wait_ms = WAIT_MS.read(call.query)
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


@operation(
    "Cancel a message",
    note="A leased one is marked: its holder hears of it when it extends, and an ack still makes it done.",
    takes=s.In,
    optional=True,
    gives=shapes.MessageChanged,
    problems=("message_not_found", "message_finished"),
)
async def cancel(call: Call) -> Reply:
    number = build.message_number(call.params[0])
    call.decode(_NOTHING, optional=True)
    return await _changed(call, Cancel(number))


@operation(
    "Change a message's priority or when it is due",
    takes=s.MessagePatchIn,
    gives=shapes.MessageChanged,
    problems=("message_not_found", "message_finished"),
    example={"priority": 10},
)
async def patch(call: Call) -> Reply:
    number = build.message_number(call.params[0])
    given = call.decode(_PATCH)
    if given.priority is UNSET and given.deliver_at_ms is UNSET:
        raise invalid("give priority or deliver_at_ms", "")
    if given.deliver_at_ms is not UNSET:
        build.check_deliver_at(given.deliver_at_ms, call.services.broker.now_ms, "/deliver_at_ms")
    return await _changed(call, PatchMessage(number, _or_none(given.priority), _or_none(given.deliver_at_ms)))


@operation(
    "Tell how far the work is; counts as a heartbeat",
    takes=s.ProgressIn,
    gives=shapes.MessageChanged,
    problems=("message_not_found", "stale_lease"),
    example={"lease_token": "AAAAAAAAAAfUG0cOzB6m6UcpCxNSvX6s", "percent": 40, "note": "page 4 of 10"},
)
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


@operation(
    "Look at a queue's messages without leasing them, oldest first",
    gives=shapes.Messages,
    query=(STATE, LIMIT, AFTER_MESSAGE, MAX_BYTES),
    problems=("queue_not_found",),
)
async def browse(call: Call) -> Reply:
    name = name_of(call)
    state, limit = STATE.read(call.query), LIMIT.read(call.query)
    after, max_bytes = after_message(call), MAX_BYTES.read(call.query)
    as_of, page = await call.look(
        lambda m: (m.applied_index, views.messages(m, name, state, limit, after, max_bytes))
    )
    return listed(call, name, as_of, page)


def listed(call: Call, name: str, as_of: int, page: tuple[list[dict[str, Any]], str | None] | None) -> Reply:
    if page is None:
        raise queue_not_found(name)
    found, following = page
    return call.seen(as_of, {"messages": render.messages(found, call.accept), "next": following})
