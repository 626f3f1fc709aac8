"""The common case of enqueue, lease and ack, many messages at once: one step for each structure and not for
each message.

Nothing here decides anything of its own. Each function takes the part of a command that is *plain* (nothing can
refuse it, no group, no key that is known, no ttl that is over, no retention of its own), leaves the state as the general code
would, field by field, and answers how far it came; the rest goes through the general code. A test applies
random logs with and without this module and compares the digests of chain and state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trivet.limits import KEYS_PER_QUEUE_MAX
from trivet.machine import keys as message_keys
from trivet.machine.commands import AckItem, Draft, Lease
from trivet.machine.persistent import Attempt, LeaseInfo
from trivet.machine.replies import ACKED
from trivet.machine.state import (
    DONE,
    LEASED,
    READY,
    WAKE_BITS,
    WAKE_LEASE,
    WAKE_MESSAGE,
    Message,
    Queue,
    ready_order,
    stored_bytes,
    wake_key,
)

if TYPE_CHECKING:
    from trivet.machine.core import Machine

FEWEST = 1
"""Fewer messages than this go through the general code alone (a test sets it out of reach)."""


def enqueue(m: Machine, queue: Queue, drafts: Sequence[Draft], *, fan_out: bool = False) -> int | None:
    """All drafts, where nothing can refuse one and all are ready at once: answers the number of the first, the others
    follow it. None: not that plain, nothing done.

    `fan_out`: of a topic, whose the keys are, and none has a run or dependencies. (What a group catches up with gets
    now as the instant it was due at, where the general code gives the publication's: of a ready message nobody reads it.)
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
    keyed: dict[str, Message] = {}
    size_sum = 0
    numbers = list(range(first, first + len(drafts)))
    places = list(range(first_place, first_place + len(drafts)))
    # Without a priority the very same objects: what a message holds and what the containers hold of it is one.
    keys = [ready_order(priority, each) for each in places] if priority else places
    for draft, number, place, key in zip(drafts, numbers, places, keys, strict=True):
        if (
            (draft.extras is not None and not fan_out)
            or draft.group is not None
            or draft.delay_ms
            or draft.priority != priority
            or draft.ttl_ms is not None
            or draft.deliver_at_ms is not None
        ):
            return None
        size = len(draft.body) if draft.headers is None else stored_bytes(draft)
        size_sum += size
        message = Message(
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
        made.append(message)
        if draft.key is not None and not fan_out:
            if draft.key in keyed or draft.key in queue.keys:
                return None
            keyed[draft.key] = message
    if keyed and len(queue.keys) + len(keyed) > KEYS_PER_QUEUE_MAX:
        return None
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
    if keyed:
        message_keys.add_new(m, queue, list(keyed.values()))
    m.hints.ready[queue.name] = None
    return first


def lease(
    m: Machine, queue: Queue, command: Lease, leased: list[Message], bytes_left: int, wanted: int
) -> tuple[int, int]:
    """Lease what is plain at the front of the queue, at most `wanted`, into `leased`; answers how many are still
    wanted and the bytes left, 0 once the next one did not fit."""
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
        if size > bytes_left and (taken or leased):
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
        _start_leases(m, queue, command, taken, size_sum)
        leased += taken
    return wanted, 0 if full else bytes_left


def _start_leases(m: Machine, queue: Queue, command: Lease, taken: list[Message], size_sum: int) -> None:
    now, consumer, own_ms, default_ms = m.clock_ms, command.consumer, command.lease_ms, queue.config.lease_ms
    if m.walk_mark:
        m.touch(queue)
        for message in taken:
            m.touch(message)
    count = len(taken)
    fences = list(range(m.next_fence, m.next_fence + count))
    m.next_fence += count
    keys: list[int] = []
    timed = 0  # had a ttl to wake for
    length = expires_at = first_key = -1  # equal for most: one object of each
    for message, fence in zip(taken, fences, strict=True):
        extras = message.draft.extras
        wanted = own_ms or (extras is not None and extras.lease_ms) or default_ms
        if wanted != length:
            length, expires_at = wanted, now + wanted
            first_key = wake_key(expires_at, WAKE_LEASE, 0)
        message.attempt += 1
        message.lease = LeaseInfo(fence, consumer, now, expires_at, length)
        message.state = LEASED
        message.ready_key = message.age_key = 0
        if message.wake_key:
            timed += 1
        message.wake_key = key = first_key | message.number << WAKE_BITS
        keys.append(key)
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
    m.leases.add_many(fences, taken)
    m.lease_deadlines.push_many(keys, taken)


def ack(m: Machine, found: Sequence[Message | None], start: int, items: Sequence[AckItem] = ()) -> int:
    """Ack the leases from `start` on that are plain and of one queue; answers how many. The answer of each is
    `ACKED`. `found`: what the fences of the command leased at its start. `items`: their results, without effects."""
    if len(found) - start < FEWEST:
        return 0
    first = found[start]
    if first is None:
        return 0
    queue = first.queue
    if queue.deleted:
        return 0
    now, walk_mark, dependents, bound = m.clock_ms, m.walk_mark, len(m.dependents), len(m.lease_effects)
    own_ms = queue.config.retention_ms
    with_result_ms = max(own_ms, queue.config.result_retention_ms)
    acked: list[Message] = []
    gone: list[int] = []
    kept: list[Message] = []
    fences: list[int] = []
    size_sum = 0
    result: bytes | None = None
    for at, message in enumerate(found[start:] if start else found, start):
        if message is None or message.queue is not queue or message.history:
            break
        lease = message.lease
        if lease is None:
            break  # ended by this very command: its fence comes twice
        fence = lease.fence
        draft = message.draft
        if draft.group is not None or (draft.extras is not None and _is_kept(draft)):
            break
        if (dependents and message.number in m.dependents) or (bound and fence in m.lease_effects):
            break
        if walk_mark:
            m.touch(queue)
            m.touch(message)
        if items:
            message.result = result = items[at].result
        key = None if draft.key is None else message_keys.own(message)
        readable = result is not None or (key is not None and key.expires_at_ms > now)
        keep_ms = with_result_ms if readable else own_ms
        if keep_ms:
            _keep(m, message, lease, keep_ms)
            kept.append(message)
        else:
            message.wake_key = 0
            gone.append(message.number)
        message.lease = None
        message.state = DONE
        if key is not None:
            message_keys.finished(m, message, DONE)
            if not keep_ms:
                message_keys.forgotten(m, message)
        acked.append(message)
        fences.append(fence)
        size_sum += message.size
    count = len(acked)
    if not count:
        return 0
    numbers = [message.number for message in acked]
    m.hints.finished.update(zip(numbers, acked, strict=True))
    queue.totals.done += count
    queue.counts[LEASED] -= count
    queue.leased_bytes -= size_sum
    m.lease_deadlines.drop(count)
    m.leases.remove_many(fences)
    if gone:
        m.messages.remove_many(gone)
        queue.index.discard_many(gone)
    if kept:
        _file_kept(m, queue, kept)
    if queue.config.max_leased is not None:
        m.hints.ready[queue.name] = None
    m.remember_settled(fences, numbers, ACKED)
    return count


def _keep(m: Machine, message: Message, lease: LeaseInfo, keep_ms: int) -> None:
    """It stays readable for so long (R24)."""
    now = m.clock_ms
    message.history = (
        Attempt(message.attempt, lease.consumer, lease.started_at_ms, now, "acked", None, lease.fence),
    )
    message.finished_at_ms = now
    message.due_at_ms = now + keep_ms
    message.dead_reason = None
    message.place = message.end_key = m.new_place()
    message.wake_key = wake_key(message.due_at_ms, WAKE_MESSAGE, message.number)


def _file_kept(m: Machine, queue: Queue, kept: list[Message]) -> None:
    queue.counts[DONE] += len(kept)
    m.retained.push_run([message.end_key for message in kept], kept)
    m.retained_bytes += sum(m.retained_size(message) for message in kept)
    m.deadlines.push_many([message.wake_key for message in kept], kept)


def _is_kept(draft: Draft) -> bool:
    """How long a finished message of this draft stays readable is its own (R24)."""
    extras = draft.extras
    return extras is not None and (extras.run_id is not None or extras.retention_ms is not None)
