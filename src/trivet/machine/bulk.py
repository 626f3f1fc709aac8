"""The common case of enqueue, lease and ack, many messages at once: one step for each structure and not for
each message.

Nothing here decides anything of its own. Each function takes the part of a command that is *plain* (nothing can
refuse it, no group, no key, no ttl that is over, nothing to be kept), leaves the state as the general code
would, field by field, and answers how far it came; the rest goes through the general code. A test applies
random logs with and without this module and compares the digests of chain and state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trivet.machine import ids
from trivet.machine.commands import AckItem, Draft, Lease
from trivet.machine.persistent import LeaseInfo, SettledToken
from trivet.machine.replies import EnqueuedOne, Grant, Settled
from trivet.machine.state import (
    DONE,
    LEASED,
    READY,
    STATE_NAMES,
    WAKE_BITS,
    WAKE_LEASE,
    Message,
    Queue,
    ready_order,
    stored_bytes,
)

if TYPE_CHECKING:
    from trivet.machine.core import Machine

FEWEST = 1
"""Fewer messages than this go through the general code alone (a test sets it out of reach)."""


def enqueue(
    m: Machine, queue: Queue, drafts: Sequence[Draft], *, fan_out: bool = False
) -> tuple[EnqueuedOne, ...] | None:
    """All drafts, where nothing can refuse one and all are ready at once; None: not that plain, nothing done.

    `fan_out`: of a topic, whose the keys are, and none has a run or dependencies.
    """
    config = queue.config
    if (
        queue.paused_enqueue
        or config.max_messages is not None
        or config.max_bytes is not None
        or config.ttl_ms is not None
        or len(drafts) < FEWEST
    ):
        return None
    now, epoch, mark, ready = m.clock_ms, queue.epoch, m.walk_mark, READY
    first, first_place = m.next_number, m.next_place
    priority = drafts[0].priority
    made: list[Message] = []
    size_sum = 0
    numbers = list(range(first, first + len(drafts)))
    places = list(range(first_place, first_place + len(drafts)))
    # Without a priority the very same objects: what a message holds and what the containers hold of it is one.
    keys = [ready_order(priority, each) for each in places] if priority else places
    for draft, number, place, key in zip(drafts, numbers, places, keys, strict=True):
        if (
            ((draft.key is not None or draft.extras is not None) and not fan_out)
            or draft.group is not None
            or draft.delay_ms
            or draft.priority != priority
            or draft.ttl_ms is not None
            or draft.deliver_at_ms is not None
        ):
            return None
        size = len(draft.body) if draft.headers is None else stored_bytes(draft)
        size_sum += size
        made.append(
            Message(
                number,
                queue,
                draft,
                ready,
                priority,
                now,
                epoch,
                mark,
                place,
                0,
                now,
                0,
                now,
                0,
                (),
                None,
                (),
                None,
                None,
                0,
                None,
                None,
                size,
                key,
                place,
            )
        )
    count = len(made)
    if mark:
        m.touch(queue)
    m.next_number, m.next_place = first + count, first_place + count
    queue.totals.enqueued += count
    queue.counts[READY] += count
    queue.waiting_bytes += size_sum
    queue.ready_bytes += size_sum
    m.messages.add_many(numbers, made)
    queue.index.add_run(first, made)
    queue.ready.push_run(keys, made)
    queue.ages.push_run(places, made)
    m.hints.ready[queue.name] = None
    state = STATE_NAMES[READY]
    return tuple([EnqueuedOne(each, state) for each in numbers])


def lease(
    m: Machine, queue: Queue, command: Lease, grants: list[Grant], bytes_left: int, wanted: int
) -> tuple[int, int]:
    """Lease what is plain at the front of the queue, at most `wanted`; answers how many are still wanted
    and the bytes left, 0 once the next one did not fit."""
    if wanted < FEWEST or not queue.ready.only_run:
        return wanted, bytes_left
    now = m.clock_ms
    run_keys, run = queue.ready.run_keys, queue.ready.run
    taken: list[Message] = []
    size_sum = 0
    full = False
    while run and wanted:
        message = run[0]
        if message.ready_key != run_keys[0]:
            run_keys.popleft()
            run.popleft()
            continue
        draft = message.draft
        if draft.group is not None or 0 < message.expires_at_ms <= now:
            break
        if draft.extras is not None and draft.extras.run_id is not None:
            break  # a step of a flow may not start, and what it is given has a size
        size = message.size
        if size > bytes_left and (taken or grants):
            full = True
            break
        run_keys.popleft()
        run.popleft()
        taken.append(message)
        wanted -= 1
        size_sum += size
        bytes_left -= size
        if bytes_left <= 0:
            full = True
            break
    if taken:
        _start_leases(m, queue, command, taken, size_sum, grants)
    return wanted, 0 if full else bytes_left


def _start_leases(
    m: Machine, queue: Queue, command: Lease, taken: list[Message], size_sum: int, grants: list[Grant]
) -> None:
    now, consumer, default_ms = m.clock_ms, command.consumer, queue.config.lease_ms
    first = fence = m.next_fence
    macs = ids.lease_macs(m.secret, first, [message.number for message in taken])
    if m.walk_mark:
        m.touch(queue)
        for message in taken:
            m.touch(message)
    keys: list[int] = []
    timed = 0  # had a ttl to wake for
    for message, mac in zip(taken, macs, strict=True):
        number = message.number
        extras = message.draft.extras
        length = command.lease_ms or (extras is not None and extras.lease_ms) or default_ms
        expires_at = now + length
        message.attempt = attempt = message.attempt + 1
        message.lease = LeaseInfo(fence, mac, consumer, now, expires_at, length)
        message.state = LEASED
        message.ready_key = message.age_key = 0
        if message.wake_key:
            timed += 1
        message.wake_key = key = expires_at << 64 | number << WAKE_BITS | WAKE_LEASE
        keys.append(key)
        grants.append(Grant(number, fence, mac, expires_at, attempt))
        fence += 1
    count = len(taken)
    m.next_fence = fence
    queue.totals.leased += count
    queue.counts[READY] -= count
    queue.counts[LEASED] += count
    queue.waiting_bytes -= size_sum
    queue.ready_bytes -= size_sum
    queue.leased_bytes += size_sum
    queue.ready.drop(count)
    queue.ages.drop(count)
    if timed:
        m.deadlines.drop(timed)
    m.leases.add_many(range(first, fence), taken)
    if sorted(keys) == keys:
        m.lease_deadlines.push_run(keys, taken)
    else:
        for key, message in zip(keys, taken, strict=True):
            m.lease_deadlines.push(key, message)


def ack(m: Machine, items: Sequence[AckItem], start: int, answer: Settled) -> int:
    """Ack the items from `start` on that are plain and of one queue; answers how many. Each gets `answer`."""
    token = items[start].token
    first = None if token is None else m.leases.get(token.fence)
    if first is None or len(items) - start < FEWEST:
        return 0
    queue = first.queue
    if queue.deleted or queue.config.retention_ms:
        return 0
    now, get, finished = m.clock_ms, m.leases.get, m.hints.finished
    walk_mark, dependents, bound = m.walk_mark, len(m.dependents), len(m.lease_effects)
    fences: list[int] = []
    numbers: list[int] = []
    settled: list[SettledToken] = []
    size_sum = 0
    for item in items[start:] if start else items:
        token = item.token
        if token is None or item.result is not None or item.effects:
            break
        fence = token.fence
        message = get(fence)
        if message is None or message.queue is not queue:
            break
        lease, draft = message.lease, message.draft
        if lease is None or lease.mac != token.mac or message.history:
            break
        if (draft.key is not None or draft.group is not None) or (
            draft.extras is not None and _is_kept(draft)
        ):
            break
        number = message.number
        if (dependents and number in m.dependents) or (bound and fence in m.lease_effects):
            break
        if walk_mark:
            m.touch(queue)
            m.touch(message)
        message.lease = None
        message.wake_key = 0
        message.state = DONE
        finished[number] = message
        fences.append(fence)
        numbers.append(number)
        settled.append(SettledToken(fence, number, now, answer))
        size_sum += message.size
    count = len(fences)
    if not count:
        return 0
    queue.totals.done += count
    queue.counts[LEASED] -= count
    queue.leased_bytes -= size_sum
    m.lease_deadlines.drop(count)
    m.leases.remove_many(fences)
    m.messages.remove_many(numbers)
    queue.index.discard_many(numbers)
    if queue.config.max_leased is not None:
        m.hints.ready[queue.name] = None
    m.remember_settled(fences, settled)
    return count


def _is_kept(draft: Draft) -> bool:
    """A finished message of this draft may stay readable for a time (R24)."""
    extras = draft.extras
    return extras is not None and (extras.run_id is not None or extras.retention_ms is not None)
