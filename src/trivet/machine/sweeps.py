"""Large removals, a bounded piece at a time (R25). What a sweep removes has counted as gone since its mark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trivet.machine import (
    dependencies,
    flow_steps,
    grouping,
    keys,
    ledger,
    publishing,
    runs,
    topics,
    transitions,
)
from trivet.machine.persistent import LeaseInfo
from trivet.machine.state import (
    BLOCKED,
    CANCELLED,
    DEAD,
    LEASED,
    SWEEP_CATCH_UP,
    SWEEP_DEAD,
    SWEEP_DELETED,
    SWEEP_EXCESS,
    SWEEP_PURGE,
    SWEEP_TOPIC,
    WAITING_MAX,
    Message,
    Queue,
    Sweep,
)

if TYPE_CHECKING:
    from trivet.machine.core import Machine


def start(m: Machine, kind: str, queue: Queue) -> None:
    """Owe the removal of everything that is in the queue now and marked."""
    number = m.new_number()
    m.sweeps.add(number, Sweep(number, kind, queue.uid, 0, number, m.walk_mark))


def run(m: Machine, budget: int) -> int:
    """Remove or look at no more than `budget` records; answers how many."""
    handled = 0
    while handled < budget:
        sweep = m.sweeps.first()
        if sweep is None:
            break
        if sweep.kind == SWEEP_CATCH_UP:
            handled += publishing.catch_up(m, sweep, budget - handled)
            continue
        queue = m.by_uid.get(sweep.queue)
        m.touch(sweep)
        if sweep.kind == SWEEP_TOPIC:
            done = topics.remove_some(m, m.topics_by_number[sweep.queue], budget - handled)
            if done < budget - handled:
                m.sweeps.discard(sweep.number)
                done += 1
            handled += done
            continue
        if queue is None or (queue.deleted and sweep.kind != SWEEP_DELETED):
            m.sweeps.discard(sweep.number)  # the queue's own deletion takes care of everything
            handled += 1
            continue
        left = budget - handled
        done = _drop_excess(m, queue, left) if sweep.kind == SWEEP_EXCESS else _remove(m, sweep, queue, left)
        if done < left:
            m.sweeps.discard(sweep.number)
            done += 1
        handled += done
    return handled


def _drop_excess(m: Machine, queue: Queue, budget: int) -> int:
    done = 0
    while done < budget and queue.counts[DEAD] > queue.config.max_dead:
        transitions.drop_oldest_dead(m, queue)
        done += 1
    return done


def _remove(m: Machine, sweep: Sweep, queue: Queue, budget: int) -> int:
    """Go on behind the cursor; fewer than `budget` means that nothing is left."""
    source = queue.dead if sweep.kind == SWEEP_DEAD else queue.index
    found = [message for message in source.slice_after(sweep.cursor, budget) if message.number <= sweep.upto]
    for message in found:
        sweep.cursor = message.number
        if sweep.kind == SWEEP_DELETED:
            remove_gone(m, message)
        elif sweep.kind == SWEEP_PURGE:
            if message.state <= WAITING_MAX and message.epoch != queue.epoch:
                _remove_waiting(m, message)
        elif message.epoch != queue.dead_epoch:
            _remove_dead(m, message)
    done = len(found)
    if done < budget and sweep.kind == SWEEP_DELETED:
        done += _remove_keys(m, queue, budget - done)
        if done < budget:
            m.touch(queue)
            del m.dying[queue.uid], m.by_uid[queue.uid]
    return done


def _remove_keys(m: Machine, queue: Queue, budget: int) -> int:
    records = queue.key_index.slice_after(0, budget)
    for record in records:
        keys.drop(m, record)
    return len(records)


def remove_gone(m: Machine, message: Message) -> None:
    """Remove a message that counts as gone (a deadline of it came before its sweep)."""
    if message.state <= WAITING_MAX:
        _remove_waiting(m, message)
    elif message.state == DEAD:
        _remove_dead(m, message)
    elif message.state == LEASED:
        m.touch(message)
        ledger.on_lease_ended(m, message)
        lease = message.lease
        assert lease is not None
        del m.leases[lease.fence]
        message.lease = None
        message.wake_key = 0
        m.lease_deadlines.drop()
        _gone(m, message, lease)
    else:
        m.touch(message)
        transitions.leave(m, message)
        transitions.forget(m, message)


def _remove_waiting(m: Machine, message: Message) -> None:
    m.touch(message)
    m.disarm(message)
    if message.state == BLOCKED:
        dependencies.unwatch(m, message)
    group = message.group
    if group is not None:
        grouping.tidy(message.queue, grouping.current(m, message.queue, group))
        message.group = None
    _gone(m, message)


def _remove_dead(m: Machine, message: Message) -> None:
    m.touch(message)
    m.disarm(message)
    message.queue.dead.discard(message.number)
    transitions.forget(m, message)


def _gone(m: Machine, message: Message, lease: LeaseInfo | None = None) -> None:
    """An unfinished message was removed: for its key, its run and its dependents it counts as cancelled."""
    origin, message.state = message.state, CANCELLED
    if runs.run_id_of(message) is not None:
        runs.moved(m, message, origin, lease, "queue_deleted" if message.queue.deleted else "purged")
    m.hints.finished[message.number] = message
    if message.number in m.dependents:
        dependencies.ended(m, message.number, failed=True)
    if message.number in m.flow_steps:
        flow_steps.ended(m, message, CANCELLED)
    keys.finished(m, message, CANCELLED)
    transitions.forget(m, message)
