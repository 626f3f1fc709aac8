"""Lease, extend, progress: giving messages to consumers and keeping them there (R13, R18–R20)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trivet.limits import EXPIRE_BATCH_MAX
from trivet.machine import bulk, flow_steps, transitions
from trivet.machine.commands import Extend, Lease, Progress
from trivet.machine.persistent import LeaseInfo, ProgressNote
from trivet.machine.replies import Leased, MessageChanged, Refusal, Settled, SettledAll
from trivet.machine.settle import answer_ended
from trivet.machine.state import (
    DEAD,
    LEASED,
    STATE_NAMES,
    Message,
    Queue,
    extras_of,
)
from trivet.machine.tokens import fence_of, live_message

if TYPE_CHECKING:
    from trivet.machine.core import Machine


def lease(m: Machine, command: Lease) -> Leased | Refusal:
    """Lease the best messages of the queues, in the order given, up to `max_messages` and `max_bytes`.

    Refuses `queue_not_found`. The first message is given whatever its size (R25).
    """
    queues: list[Queue] = []
    for at, name in enumerate(command.queues):
        queue = m.queues.get(name)
        if queue is None:
            return Refusal("queue_not_found", f"no queue {name!r}", f"/queues/{at}")
        queues.append(queue)
    leased: list[Message] = []
    bytes_left = command.max_bytes
    for queue in queues:
        bytes_left = _lease_from(m, queue, command, leased, bytes_left)
        if bytes_left <= 0 or len(leased) >= command.max_messages:
            break
    return _told(m, leased)


def _lease_from(m: Machine, queue: Queue, command: Lease, leased: list[Message], bytes_left: int) -> int:
    """Add to `leased` from one queue; answers the bytes left, 0 once the next one did not fit."""
    if queue.paused_lease:
        return bytes_left
    now = m.clock_ms
    config = queue.config
    ready = queue.ready
    wanted = command.max_messages - len(leased)
    if config.max_leased is not None:
        wanted = min(wanted, config.max_leased - queue.counts[LEASED])
    wanted, bytes_left = bulk.lease(m, queue, command, leased, bytes_left, wanted)
    if bytes_left <= 0:
        return 0
    ends_left = EXPIRE_BATCH_MAX
    while wanted > 0:
        entry = ready.peek()
        if entry is None:
            break
        message = entry[1]
        overdue = 0 < message.expires_at_ms <= now  # past its ttl and not yet expired: never delivered (R19)
        of_run = extras_of(message.draft).run_id is not None  # perhaps of a flow
        if overdue or (of_run and flow_steps.stopped(m, message)):
            if not ends_left:
                break
            ends_left -= 1
            if overdue:
                transitions.finish(m, message, DEAD, reason="expired")
            else:
                flow_steps.stop(m, message)
            continue
        size = message.size + (flow_steps.parents_bytes(m, message) if of_run else 0)
        if leased and size > bytes_left:
            return 0
        bytes_left -= size
        wanted -= 1
        length = command.lease_ms or extras_of(message.draft).lease_ms or config.lease_ms
        lease = LeaseInfo(m.new_fence(), command.consumer, now, now + length, length)
        transitions.start_lease(m, message, lease)
        leased.append(message)
        if bytes_left <= 0:
            return 0
    return bytes_left


def repeat(m: Machine, first: Leased) -> Leased:
    """The answer to a repeated lease request: the leases still live, nothing new (R18)."""
    found = [m.live_lease(fence) for fence in first.fences]
    live = [message for message in found if message is not None]
    return _told(m, live, len(found) - len(live))


def _told(m: Machine, leased: list[Message], lost: int = 0) -> Leased:
    leases = [message.lease for message in leased if message.lease is not None]
    return Leased(
        tuple([message.number for message in leased]),
        tuple([lease.fence for lease in leases]),
        tuple([lease.expires_at_ms for lease in leases]),
        tuple([message.attempt for message in leased]),
        m.clock_ms,
        lost,
    )


def _renew(m: Machine, message: Message, length_ms: int) -> int:
    """Set the rest of a lease from now; answers its end."""
    lease = message.lease
    assert lease is not None
    m.touch(message)
    m.lease_deadlines.drop()
    lease.length_ms = length_ms
    lease.expires_at_ms = m.clock_ms + length_ms
    m.arm_lease(message, lease.expires_at_ms)
    return lease.expires_at_ms


def extend(m: Machine, command: Extend) -> SettledAll:
    """Set the rest of each lease from now; it may get shorter. A marked one says `cancelled` (R22)."""
    results: list[Settled] = []
    for item in command.items:
        fence = fence_of(m, item.token)
        message = m.live_lease(fence)
        if message is None or message.lease is None:
            results.append(answer_ended(m, fence, "extend"))
            continue
        length = item.lease_ms or extras_of(message.draft).lease_ms or message.queue.config.lease_ms
        expires_at = _renew(m, message, length)
        results.append(Settled("extended", lease_expires_at_ms=expires_at, cancelled=message.lease.cancelled))
    return SettledAll(tuple(results))


def progress(m: Machine, command: Progress) -> MessageChanged | Refusal:
    """Note how far a leased message is; its lease gets its full length again.

    Refuses `message_not_found`, and `stale_lease` when the token is not this message's live lease.
    """
    message = m.find(command.message)
    if message is None:
        return Refusal("message_not_found", "no such message")
    if live_message(m, command.token) is not message or message.lease is None:
        return Refusal("stale_lease", "this lease is not live", "/lease_token")
    m.touch(message)
    message.progress = ProgressNote(command.percent, command.note, m.clock_ms)
    expires_at = _renew(m, message, message.lease.length_ms)
    return MessageChanged(message.number, STATE_NAMES[LEASED], message.lease.cancelled, expires_at)
