"""Enqueue: the whole request is checked, then all of it is done (R15, R16, contract 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trivet.limits import ANSWER_BYTES_MAX, KEYS_PER_QUEUE_MAX, QUEUES_MAX
from trivet.machine import admin, bulk, keys, runs, transitions
from trivet.machine.commands import Draft, Enqueue
from trivet.machine.replies import Enqueued, EnqueuedOne, Refusal, enqueued
from trivet.machine.state import (
    BLOCKED,
    CANCELLED,
    DEAD,
    DELAYED,
    DONE,
    READY,
    STATE_NAMES,
    KeyRecord,
    Message,
    Queue,
    extras_of,
    stored_bytes,
)

if TYPE_CHECKING:
    from trivet.machine.core import Machine

Entry = tuple[str, Draft]

DISPLACE_MAX = 4096  # messages one enqueue may dead-letter to make room


class Plan:
    """What an enqueue is going to do, after nothing refused it.

    `duplicates`: position → the key record that holds the first message, or the position of the first in
    this batch. `displaced`: ready messages that make room (`dead_letter_oldest`). `acking`: messages that
    the same request acks before.
    """

    __slots__ = ("acking", "displaced", "duplicates", "entries")

    def __init__(self, entries: Sequence[Entry], acking: dict[int, Message]) -> None:
        self.entries = entries
        self.acking = acking
        self.duplicates: dict[int, KeyRecord | int] = {}
        self.displaced: list[Message] = []


class _Demand:
    """What one queue is asked to take in."""

    __slots__ = ("bytes", "count", "keys")

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self.keys = 0


def enqueue(m: Machine, command: Enqueue) -> Enqueued | Refusal:
    """All drafts or none. Refuses `queue_not_found`, `too_many_queues`, `queue_paused`, `queue_full`,
    `idempotency_conflict`, `message_not_found` (a dependency)."""
    queue = m.queues.get(command.queue)
    if queue is not None and queue.topic is not None:
        return admin.of_a_topic(command.queue)
    first = None if queue is None else bulk.enqueue(m, queue, command.drafts)
    if first is not None:
        return Enqueued(first=first, count=len(command.drafts))
    if queue is not None and _is_plain(queue, command.drafts):
        return enqueued([create(m, queue, draft) for draft in command.drafts])
    entries = [(command.queue, draft) for draft in command.drafts]
    planned = plan(m, entries, command.auto_create, "/messages", {})
    if isinstance(planned, Refusal):
        return planned
    return enqueued(carry_out(m, planned))


def _is_plain(queue: Queue, drafts: Sequence[Draft]) -> bool:
    """Nothing can refuse these drafts."""
    config = queue.config
    if queue.paused_enqueue or config.max_messages is not None or config.max_bytes is not None:
        return False
    for draft in drafts:
        if draft.key is not None or (draft.extras is not None and draft.extras.depends_on):
            return False
    return True


# --- checking -----------------------------------------------------------------------------------------


def plan(
    m: Machine, entries: Sequence[Entry], auto_create: bool, prefix: str, acking: dict[int, Message]
) -> Plan | Refusal:
    """Check everything, change nothing. Keys are looked at before any other refusal (R12)."""
    planned = Plan(entries, acking)
    refusal = _find_duplicates(m, planned, prefix)
    if refusal is None:
        demands: dict[str, _Demand] = {}
        refusal = _check_new(m, planned, auto_create, prefix, demands)
    if refusal is None:
        refusal = _check_room(m, planned, demands)
    return planned if refusal is None else refusal


def _find_duplicates(m: Machine, planned: Plan, prefix: str) -> Refusal | None:
    seen: dict[Entry | tuple[str, str], int] = {}
    for at, (name, draft) in enumerate(planned.entries):
        if draft.key is None:
            continue
        queue = m.queues.get(name)
        record = None if queue is None else keys.lookup(m, queue, draft.key)
        first = seen.get((name, draft.key))
        if record is not None:
            same = record.fingerprint == keys.fingerprint(draft)
            planned.duplicates[at] = record
        elif first is not None:
            same = keys.fingerprint(planned.entries[first][1]) == keys.fingerprint(draft)
            planned.duplicates[at] = first
        else:
            seen[(name, draft.key)] = at
            continue
        if not same:
            field = f"{prefix}/{at}/idempotency_key"
            return Refusal("idempotency_conflict", "this key came with another body before", field)
    return None


def _check_new(
    m: Machine, planned: Plan, auto_create: bool, prefix: str, demands: dict[str, _Demand]
) -> Refusal | None:
    new_queues = 0
    for at, (name, draft) in enumerate(planned.entries):
        if at in planned.duplicates:
            continue
        queue = m.queues.get(name)
        demand = demands.get(name)
        if demand is None:
            demand = demands[name] = _Demand()
            if ":" in name:
                return admin.of_a_topic(name, f"{prefix}/{at}/queue")
            if queue is None:
                if not auto_create:
                    return Refusal("queue_not_found", f"no queue {name!r}", f"{prefix}/{at}/queue")
                new_queues += 1
                if len(m.queues) + new_queues > QUEUES_MAX:
                    return Refusal("too_many_queues", "no room for another queue", None, QUEUES_MAX)
            elif queue.paused_enqueue:
                return Refusal("queue_paused", f"enqueue to {name!r} is paused", f"{prefix}/{at}/queue")
        demand.count += 1
        demand.bytes += stored_bytes(draft)
        for which, number in enumerate(extras_of(draft).depends_on):
            if m.find(number) is None:
                field = f"{prefix}/{at}/depends_on/{which}"
                return Refusal("message_not_found", "a dependency is unknown", field)
        if draft.key is not None:
            held = None if queue is None else queue.keys.get(draft.key)
            demand.keys += held is None
            if queue is not None and len(queue.keys) + demand.keys > KEYS_PER_QUEUE_MAX:
                field = f"{prefix}/{at}/idempotency_key"
                return Refusal("queue_full", "the queue remembers its most keys", field, KEYS_PER_QUEUE_MAX)
    return None


def _check_room(m: Machine, planned: Plan, demands: dict[str, _Demand]) -> Refusal | None:
    for name, demand in demands.items():
        queue = m.queues.get(name)
        if queue is None:
            continue
        config = queue.config
        if config.max_messages is None and config.max_bytes is None:
            continue
        freed = [message for message in planned.acking.values() if message.queue is queue]
        over = over_bytes = 0
        if config.max_messages is not None:
            over = queue.live - len(freed) + demand.count - config.max_messages
        if config.max_bytes is not None:
            freed_bytes = sum(message.size for message in freed)
            over_bytes = queue.bytes - freed_bytes + demand.bytes - config.max_bytes
        if over <= 0 and over_bytes <= 0:
            continue
        displaced = None
        if config.on_full == "dead_letter_oldest":
            displaced = _oldest(queue, over, over_bytes)
        if displaced is None:
            limit = config.max_messages if over > 0 else config.max_bytes
            return Refusal("queue_full", f"queue {name!r} is full", None, limit, 1000)
        planned.displaced += displaced
    return None


def _oldest(queue: Queue, count: int, size: int) -> list[Message] | None:
    """The longest ready messages that together make `count` messages and `size` bytes of room; None if
    the ready ones do not (waiting for a time, a dependency or an ack cannot be hurried)."""
    if count > min(queue.counts[READY], DISPLACE_MAX) or size > queue.ready_bytes:
        return None
    found: list[Message] = []
    while (count > 0 or size > 0) and len(found) < DISPLACE_MAX:
        entry = queue.ages.peek()
        assert entry is not None
        message = entry[1]
        found.append(message)
        count -= 1
        size -= message.size
        message.age_key = 0  # passed over in the heap while we look, put back below
        queue.ages.drop()
    for message in found:
        message.age_key = message.place
        queue.ages.push(message.place, message)
    return found if count <= 0 and size <= 0 else None


# --- doing --------------------------------------------------------------------------------------------


def carry_out(m: Machine, planned: Plan) -> tuple[EnqueuedOne, ...]:
    """Do what was planned, in the same command."""
    for message in planned.displaced:
        transitions.finish(m, message, DEAD, reason="queue_full")
    answers: list[EnqueuedOne] = []
    result_bytes_left = ANSWER_BYTES_MAX
    for at, (name, draft) in enumerate(planned.entries):
        first = planned.duplicates.get(at)
        if first is None:
            queue = m.queues.get(name)
            if queue is None:
                queue = admin.create(m, name)
            answers.append(create(m, queue, draft, planned.acking))
        elif isinstance(first, int):
            m.touch(m.queues[name])
            m.queues[name].totals.duplicates += 1
            answers.append(EnqueuedOne(answers[first].message, answers[first].state, duplicate=True))
        else:
            m.touch(first.queue)
            first.queue.totals.duplicates += 1
            state, result = keys.state_of(m, first)
            if result is not None:
                result_bytes_left -= len(result)
                if result_bytes_left < 0:
                    result = None  # an answer has its limit (R25); the message itself still shows it
            answers.append(EnqueuedOne(first.number, state, True, result))
    return tuple(answers)


_NOTHING: dict[int, Message] = {}


def create(
    m: Machine,
    queue: Queue,
    draft: Draft,
    acking: dict[int, Message] = _NOTHING,
    origin: tuple[str, str] | None = None,
    since_ms: int | None = None,
) -> EnqueuedOne:
    """Make one message, ready, delayed or blocked; dead at once if a dependency failed already.

    `since_ms`: when it was published to the queue's topic; its delay counts from then.
    """
    now = m.clock_ms
    config = queue.config
    number = m.new_number()
    m.touch(queue)
    queue.totals.enqueued += 1
    due_at = draft.deliver_at_ms
    if due_at is None:
        due_at = (now if since_ms is None else since_ms) + draft.delay_ms
    ttl = config.ttl_ms if draft.ttl_ms is None else draft.ttl_ms
    state = DELAYED if due_at > now else READY
    message = Message(number, queue, draft, state, draft.priority, now, queue.epoch, m.walk_mark)
    message.due_at_ms = due_at
    message.size = stored_bytes(draft)
    message.origin = origin
    if ttl is not None:
        message.expires_at_ms = now + ttl
    if draft.group is not None:
        message.group_order = m.new_place()
    m.messages[number] = message
    queue.index.add(number, message)
    if draft.key is not None and queue.topic is None:
        keys.add(m, message, now + keys.window_ms(queue, draft))
    failed = False
    if draft.extras is not None and draft.extras.depends_on:
        failed = bind_dependencies(m, message, acking)
        if message.pending or failed:
            message.state = state = BLOCKED
    if state == READY:
        message.place = m.new_place()
        message.ready_at_ms = now
    transitions.enter(m, message)
    if draft.extras is not None and draft.extras.run_id is not None:
        runs.born(m, message)
    if failed:
        transitions.finish(m, message, DEAD, reason="dependency_failed")
    return EnqueuedOne(number, STATE_NAMES[message.state])


def bind_dependencies(m: Machine, message: Message, acking: dict[int, Message]) -> bool:
    """Set `pending` to the dependencies that have not ended; answers whether one failed that matters."""
    extras = extras_of(message.draft)
    pending: dict[int, None] = {}
    failed = False
    for number in extras.depends_on:
        dependency = m.find(number)
        if dependency is None:
            # Known when this was checked: acked by the same request, or displaced to make room.
            failed = failed or number not in acking
        elif dependency.state in (DEAD, CANCELLED):
            failed = True
        elif dependency.state != DONE:
            pending[number] = None
    if extras.on_dependency_failure == "run":
        failed = False
    message.pending = () if failed else tuple(pending)
    return failed
