"""The life cycle of a message: one table, and the only code that moves a message through it.

``move(m, message, to)`` takes the message out of every set of its old state and puts it into those of the
new one, so that counts, byte sums, heaps and deadlines are right after each call. Fields that the new
state is made of (place, due time, lease) are set by the caller before: the named functions below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trivet.limits import ATTEMPTS_KEPT
from trivet.machine import dependencies, flow_steps, grouping, keys, ledger, runs
from trivet.machine.backoff import delay_ms
from trivet.machine.persistent import Attempt, LeaseInfo
from trivet.machine.state import (
    BLOCKED,
    CANCELLED,
    DEAD,
    DELAYED,
    DONE,
    LEASED,
    READY,
    STATE_NAMES,
    WAITING_MAX,
    WAKE_MESSAGE,
    Message,
    Queue,
    backoff_of,
    is_gone,
    max_attempts_of,
    ready_order,
)

if TYPE_CHECKING:
    from trivet.machine.core import Machine


class BrokenInvariant(AssertionError):
    """The machine found itself in a state that cannot be. It ends the node (contract 1)."""


LIFE_CYCLE: dict[int, tuple[int, ...]] = {
    BLOCKED: (DELAYED, READY, DEAD, CANCELLED),
    DELAYED: (READY, DEAD, CANCELLED),
    READY: (LEASED, DELAYED, DEAD, CANCELLED),
    LEASED: (READY, DELAYED, DONE, DEAD, CANCELLED),
    DONE: (),
    DEAD: (READY, BLOCKED),  # redrive
    CANCELLED: (),
}
BIRTH = (BLOCKED, DELAYED, READY)

_ALLOWED = tuple(
    tuple(to in LIFE_CYCLE[origin] for to in range(len(STATE_NAMES))) for origin in range(len(STATE_NAMES))
)


def check_move(message: Message, to: int) -> None:
    """Raises `BrokenInvariant` if the life cycle does not lead from the message's state to `to`."""
    if not _ALLOWED[message.state][to]:
        raise BrokenInvariant(
            f"message {message.number}: {STATE_NAMES[message.state]} → {STATE_NAMES[to]} is not in the life cycle"
        )


def move(m: Machine, message: Message, to: int) -> None:
    """One step of the life cycle, with everything that is counted or indexed by state."""
    if not _ALLOWED[message.state][to]:
        check_move(message, to)
    if m.walk_mark:
        m.touch(message)
        m.touch(message.queue)
    origin = message.state
    lease = message.lease if origin == LEASED else None
    leave(m, message)
    message.state = to
    enter(m, message)
    if message.draft.extras is not None and message.draft.extras.run_id is not None:
        runs.moved(m, message, origin, lease)


def leave(m: Machine, message: Message) -> None:
    """Take a message out of every set of its state."""
    queue = message.queue
    state = message.state
    queue.counts[state] -= 1
    if state == LEASED:
        _leave_lease(m, message)
        return
    if message.wake_key:
        message.wake_key = 0
        m.deadlines.drop()
    if state <= WAITING_MAX:
        queue.waiting_bytes -= message.size
        if state == READY:
            queue.ready_bytes -= message.size
            message.age_key = 0
            queue.ages.drop()
            if message.ready_key:
                message.ready_key = 0
                queue.ready.drop()
        elif state == BLOCKED:
            dependencies.unwatch(m, message)
        if message.group is not None:
            _leave_group(m, message)
    else:
        message.end_key = 0
        if state == DEAD:
            queue.dead.discard(message.number)
            queue.dead_order.drop()
        elif message.due_at_ms:
            m.retained.drop()
            m.retained_bytes -= m.retained_size(message)


def _leave_lease(m: Machine, message: Message) -> None:
    queue, lease = message.queue, message.lease
    assert lease is not None
    queue.leased_bytes -= message.size
    del m.leases[lease.fence]
    message.lease = None
    message.wake_key = 0
    m.lease_deadlines.drop()
    if queue.config.max_leased is not None:
        m.hints.ready[queue.name] = None
    group = grouping.of_message(m, message)
    if group is not None:
        group.leased -= 1
        if not group.leased:
            del queue.busy[group.name]
        grouping.refresh(m, queue, group)
        grouping.tidy(queue, group)
        message.group = None


def _leave_group(m: Machine, message: Message) -> None:
    queue = message.queue
    group = grouping.of_message(m, message)
    assert group is not None
    message.wait_key = 0
    group.waiting.drop()
    if group.offered is message:
        group.offered = None
    grouping.refresh(m, queue, group)
    grouping.tidy(queue, group)
    message.group = None


def enter(m: Machine, message: Message) -> None:
    """Put a message into every set of its state. Also what loading a snapshot does with each message."""
    queue = message.queue
    state = message.state
    queue.counts[state] += 1
    if state == LEASED:
        _enter_lease(m, message)
        return
    if state <= WAITING_MAX:
        message.epoch = queue.epoch
        queue.waiting_bytes += message.size
        wake_at = message.expires_at_ms
        if state == READY:
            place = message.place
            queue.ready_bytes += message.size
            message.age_key = place
            queue.ages.push(place, message)
            if message.draft.group is None:
                message.ready_key = key = ready_order(message.priority, place)
                queue.ready.push(key, message)
                m.hints.ready[queue.name] = None
        elif state == DELAYED:
            if not wake_at or message.due_at_ms < wake_at:
                wake_at = message.due_at_ms
        else:
            dependencies.watch(m, message)
        if wake_at:
            m.arm(message, wake_at, WAKE_MESSAGE)
        if message.draft.group is not None:
            _enter_group(m, message)
        return
    if state == DEAD:
        message.epoch = queue.dead_epoch
        message.end_key = message.place
        queue.dead.add(message.number, message)
        queue.dead_order.push(message.place, message)
    if message.due_at_ms:  # else its flow keeps it
        _enter_kept(m, message)


def _enter_kept(m: Machine, message: Message) -> None:
    if message.state != DEAD:
        message.end_key = message.place
        m.retained.push(message.place, message)
        m.retained_bytes += m.retained_size(message)
    m.arm(message, message.due_at_ms, WAKE_MESSAGE)


def load(m: Machine, message: Message) -> None:
    """Put a message of a snapshot where it was. What a sweep still has to remove is in fewer sets."""
    runs.loaded(m, message)
    state = message.state
    if not is_gone(message) or state in (LEASED, DONE, CANCELLED):
        enter(m, message)
        return
    if state == DEAD:
        message.queue.dead.add(message.number, message)
    elif state == BLOCKED:
        dependencies.watch(m, message)
    wake_at = message.expires_at_ms
    if state == DEAD or (state == DELAYED and (not wake_at or message.due_at_ms < wake_at)):
        wake_at = message.due_at_ms
    if wake_at:
        m.arm(message, wake_at, WAKE_MESSAGE)


def _enter_lease(m: Machine, message: Message) -> None:
    queue, lease = message.queue, message.lease
    assert lease is not None
    queue.leased_bytes += message.size
    m.leases[lease.fence] = message
    m.arm_lease(message, lease.expires_at_ms)
    if message.draft.group is not None:
        group = grouping.of_message(m, message)
        assert group is not None
        group.leased += 1
        queue.busy[group.name] = group
        grouping.refresh(m, queue, group)


def _enter_group(m: Machine, message: Message) -> None:
    group = grouping.of_message(m, message)
    assert group is not None
    message.wait_key = message.group_order
    group.waiting.push(message.group_order, message)
    grouping.refresh(m, message.queue, group)


# --- waiting ------------------------------------------------------------------------------------------


def make_ready(m: Machine, message: Message, place: int | None = None) -> None:
    """To ready: at the tail of its priority, or at the place it had (release)."""
    if place is None:
        m.touch(message)
        message.place = m.new_place()
        message.ready_at_ms = m.clock_ms
    move(m, message, READY)


def make_waiting(m: Machine, message: Message, due_at_ms: int) -> None:
    """To ready if `due_at_ms` has come, else to delayed until then."""
    m.touch(message)
    message.due_at_ms = due_at_ms
    if due_at_ms > m.clock_ms:
        move(m, message, DELAYED)
    else:
        make_ready(m, message)


# --- leases -------------------------------------------------------------------------------------------


def start_lease(m: Machine, message: Message, lease: LeaseInfo) -> None:
    """Ready → leased. The attempt counts from here (R20)."""
    if m.walk_mark:
        m.touch(message)
        m.touch(message.queue)
    message.attempt += 1
    message.lease = lease
    message.queue.totals.leased += 1
    move(m, message, LEASED)


def end_lease(m: Machine, message: Message, outcome: str, error: str | None = None) -> None:
    """Write the delivery into the history and tell the ledger; the caller then moves the message on."""
    lease = message.lease
    assert lease is not None
    m.touch(message)
    if outcome == "expired":
        m.expired[lease.fence] = message
    if len(message.history) >= ATTEMPTS_KEPT:
        m.expired.pop(message.history[0].fence, None)
    ended = Attempt(
        message.attempt, lease.consumer, lease.started_at_ms, m.clock_ms, outcome, error, lease.fence
    )
    message.history = (*message.history[1 - ATTEMPTS_KEPT :], ended)
    ledger.on_lease_ended(m, message)


def fail(m: Machine, message: Message, delay: int | None) -> None:
    """A delivery failed (nack, expiry): cancelled if it was marked, dead past its ttl or at its last
    attempt, else waiting for `delay` or its backoff. Looked at in this order (R19, R20, R22)."""
    assert message.lease is not None
    if message.lease.cancelled:
        finish(m, message, CANCELLED)
    elif 0 < message.expires_at_ms <= m.clock_ms:
        finish(m, message, DEAD, reason="expired")
    elif 0 < max_attempts_of(message) <= message.attempt:
        finish(m, message, DEAD, reason="max_attempts")
    elif flow_steps.stopped(m, message):
        finish(m, message, CANCELLED)
    else:
        if delay is None:
            delay = delay_ms(backoff_of(message), message.number, message.attempt, m.secret)
        make_waiting(m, message, m.clock_ms + delay)


# --- ends ---------------------------------------------------------------------------------------------


def retention_ms(m: Machine, message: Message, to: int) -> int:
    """How long the finished message stays readable (R23, R24)."""
    config = message.queue.config
    extras = message.draft.extras
    if to == DEAD:
        keep = config.dead_retention_ms
    elif extras is None or extras.retention_ms is None:
        keep = config.retention_ms
    else:
        keep = extras.retention_ms
    if keep < config.result_retention_ms and (
        message.result is not None
        or (extras is not None and extras.run_id is not None)
        or message.number in m.dependents
        or (message.draft.key is not None and keys.is_live(m, message))
    ):
        return config.result_retention_ms
    return keep


def finish(m: Machine, message: Message, to: int, *, reason: str | None = None) -> None:
    """To done, dead or cancelled; without anything to keep it for, the message leaves the tables."""
    check_move(message, to)
    queue = message.queue
    number = message.number
    if m.walk_mark:
        m.touch(message)
        m.touch(queue)
    keep = retention_ms(m, message, to)
    if to == DONE:
        queue.totals.done += 1
    elif to == DEAD:
        queue.totals.died += 1
    else:
        queue.totals.cancelled += 1
    m.hints.finished[number] = message
    if number in m.dependents:
        dependencies.ended(m, number, failed=to != DONE)
    if message.draft.key is not None:
        keys.finished(m, message, to)
    held = number in m.flow_steps  # until its flow ends, for those that wait for its result
    if keep or to == DEAD or held:
        message.finished_at_ms = m.clock_ms
        message.due_at_ms = 0 if held else m.clock_ms + keep
        message.dead_reason = reason
        message.place = m.new_place()
        move(m, message, to)
        if held:
            flow_steps.ended(m, message, to)
        if to == DEAD and queue.counts[DEAD] > queue.config.max_dead:
            drop_oldest_dead(m, queue)
    else:
        origin, lease = message.state, message.lease
        leave(m, message)
        message.state = to
        if runs.run_id_of(message) is not None:
            runs.moved(m, message, origin, lease)
        forget(m, message)


def give_back(m: Machine, message: Message) -> None:
    """The flow of a finished message ended: it is kept as if it had finished now."""
    m.touch(message)
    keep = retention_ms(m, message, message.state)
    if keep or message.state == DEAD:
        message.due_at_ms = m.clock_ms + keep
        _enter_kept(m, message)
    else:
        leave(m, message)
        forget(m, message)


def drop_oldest_dead(m: Machine, queue: Queue) -> None:
    """More dead than `max_dead`: the oldest leaves (R23)."""
    entry = queue.dead_order.peek()
    assert entry is not None
    m.dead_forgotten += 1
    remove_finished(m, entry[1])


def remove_finished(m: Machine, message: Message) -> None:
    """A kept message leaves: its retention ended, or there are too many."""
    m.touch(message)
    if message.state == DEAD:
        m.touch(message.queue)
        message.queue.totals.dead_dropped += 1
    leave(m, message)
    forget(m, message)


def forget(m: Machine, message: Message) -> None:
    """The message, in no set any more, leaves the tables."""
    del m.messages[message.number]
    message.queue.index.discard(message.number)
    if message.history:
        for attempt in message.history:
            if attempt.outcome == "expired":
                m.expired.pop(attempt.fence, None)
    if message.draft.key is not None:
        keys.forgotten(m, message)
    if runs.run_id_of(message) is not None:
        runs.left(m, message)


# --- changes inside a state ---------------------------------------------------------------------------


def set_priority(m: Machine, message: Message, priority: int) -> None:
    """A new priority; the place inside it stays. The caller has touched the message."""
    message.priority = priority
    if message.ready_key:
        queue = message.queue
        queue.ready.drop()
        message.ready_key = ready_order(priority, message.place)
        queue.ready.push(message.ready_key, message)


def set_due(m: Machine, message: Message, due_at_ms: int) -> None:
    """A delayed message stays delayed, until another time. The caller has touched it."""
    message.due_at_ms = due_at_ms
    m.disarm(message)
    wake_at = message.expires_at_ms
    m.arm(message, min(due_at_ms, wake_at) if wake_at else due_at_ms, WAKE_MESSAGE)
