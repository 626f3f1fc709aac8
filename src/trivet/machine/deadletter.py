"""Dead letters: redrive by cursor, purge by mark (R23, R25)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trivet.machine import flow_steps, keys, runs, sweeps, transitions
from trivet.machine.admin import of_a_topic
from trivet.machine.commands import PurgeDead, Redrive
from trivet.machine.replies import Done, Redriven, Refusal
from trivet.machine.state import BLOCKED, DEAD, LEASED, READY, SWEEP_DEAD, Message, Queue, extras_of, is_gone

if TYPE_CHECKING:
    from trivet.machine.core import Machine

SCAN_MAX = 10_000  # dead messages looked at in one command, whether or not they match


def redrive(m: Machine, command: Redrive) -> Redriven | Refusal:
    """Give dead messages another life, lowest id first: attempts and ttl start again (R23).

    Refuses `queue_not_found`, and `queue_full` when there is room for none. Stops early at `limit`, at
    `SCAN_MAX` or when the queue is full; then `next` goes on. Ids that are not dead here are passed over.
    """
    queue = m.queues.get(command.queue)
    if queue is None:
        return Refusal("queue_not_found", f"no queue {command.queue!r}")
    to = queue
    if command.to is not None:
        found = m.queues.get(command.to)
        if found is None:
            return Refusal("queue_not_found", f"no queue {command.to!r}", "/to")
        if found.topic is not None and found is not queue:
            return of_a_topic(found.name, "/to")
        to = found
    upto = m.next_place - 1 if command.upto is None else command.upto
    redriven: list[int] = []
    last = command.after
    candidates = _candidates(m, queue, command)
    for message in candidates:
        if len(redriven) == command.limit:
            return Redriven(tuple(redriven), last, upto)
        if _wanted(message, command, upto):
            refusal = full(to, message)
            if refusal is not None:
                return Redriven(tuple(redriven), last, upto) if redriven else refusal
            redriven.append(message.number)
            revive(m, message, to)
        last = message.number
    more = command.ids is None and len(candidates) > SCAN_MAX
    return Redriven(tuple(redriven), last if more else None, upto)


def _candidates(m: Machine, queue: Queue, command: Redrive) -> list[Message]:
    if command.ids is None:
        return queue.dead.slice_after(command.after, SCAN_MAX + 1)
    chosen: list[Message] = []
    for number in sorted(dict.fromkeys(command.ids)):
        message = m.find(number)
        if number > command.after and message is not None and message.queue is queue:
            chosen.append(message)
    return chosen


def _wanted(message: Message, command: Redrive, upto: int) -> bool:
    if (
        message.state != DEAD
        or message.place > upto
        or is_gone(message)
        or not flow_steps.may_redrive(message)
    ):
        return False
    return command.reason is None or message.dead_reason == command.reason


def full(to: Queue, message: Message) -> Refusal | None:
    """Why the queue cannot take this message in, None if it can."""
    config = to.config
    if config.max_messages is not None and to.live >= config.max_messages:
        return Refusal("queue_full", f"queue {to.name!r} is full", None, config.max_messages, 1000)
    if config.max_bytes is not None and to.bytes + message.size > config.max_bytes:
        return Refusal("queue_full", f"queue {to.name!r} is full", None, config.max_bytes, 1000)
    return None


def revive(m: Machine, message: Message, to: Queue) -> None:
    """Dead → ready in `to`, at the end of its group (R21); blocked if a dependency is again unfinished."""
    origin = message.queue
    m.touch(message)
    m.touch(origin)
    m.touch(to)
    transitions.check_move(message, READY)
    transitions.leave(m, message)
    origin.totals.redriven += 1
    if to is not origin:
        origin.totals.moved_out += 1
        to.totals.moved_in += 1
        origin.index.discard(message.number)
        to.index.add(message.number, message)
        message.queue = to
    now = m.clock_ms
    ttl = to.config.ttl_ms if message.draft.ttl_ms is None else message.draft.ttl_ms
    message.attempt = 0
    message.expires_at_ms = 0 if ttl is None else now + ttl
    message.due_at_ms = now
    message.finished_at_ms = 0
    message.dead_reason = None
    message.progress = None
    if runs.replay_of(message) is None:  # a replay stays the replay of its message
        message.origin = ("redrive", origin.name)
    message.place = m.new_place()
    message.ready_at_ms = now
    if message.draft.group is not None:
        message.group_order = m.new_place()
    # Whoever redrives has decided about failed dependencies; only unfinished ones are waited for again.
    known = [m.find(number) for number in dict.fromkeys(extras_of(message.draft).depends_on)]
    message.pending = tuple(other.number for other in known if other is not None and other.state <= LEASED)
    message.state = BLOCKED if message.pending else READY
    transitions.enter(m, message)
    flow_steps.revived(m, message)
    keys.redriven(m, message, origin)
    if runs.run_id_of(message) is not None:
        runs.moved(m, message, DEAD, None, "redriven")


def purge_dead(m: Machine, command: PurgeDead) -> Done | Refusal:
    """Remove all dead messages of the queue: at once for everybody, from memory piece by piece."""
    queue = m.queues.get(command.queue)
    if queue is None:
        return Refusal("queue_not_found", f"no queue {command.queue!r}")
    removed = queue.counts[DEAD]
    if removed:
        m.touch(queue)
        queue.totals.dead_dropped += removed
        queue.dead_epoch += 1
        queue.counts[DEAD] = 0
        m.trash.extend(queue.dead_order.take_storage())
        sweeps.start(m, SWEEP_DEAD, queue)
    return Done(removed)
