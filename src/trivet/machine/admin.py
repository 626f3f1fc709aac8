"""Queues: make, change, pause, purge, delete. And the cluster's first command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from trivet.limits import QUEUES_MAX
from trivet.machine import grouping, sweeps
from trivet.machine.commands import (
    Backoff,
    DeleteQueue,
    Genesis,
    PatchQueue,
    PauseQueue,
    PurgeQueue,
    PutQueue,
    QueueConfig,
)
from trivet.machine.replies import Done, QueueSaved, Refusal
from trivet.machine.state import (
    BLOCKED,
    DEAD,
    DELAYED,
    READY,
    SWEEP_DELETED,
    SWEEP_EXCESS,
    SWEEP_PURGE,
    Queue,
)

if TYPE_CHECKING:
    from trivet.machine.core import Machine
    from trivet.machine.schedules import Schedule

S = TypeVar("S", Backoff, QueueConfig)


def genesis(m: Machine, command: Genesis) -> Done:
    """The cluster's id and secret, once (R5, R13); a second one changes nothing and counts 0."""
    if m.cluster_id:
        return Done(0)
    m.cluster_id = command.cluster_id
    m.secret = command.secret
    m.members = command.members
    return Done(1)


def create(m: Machine, name: str, config: QueueConfig | None = None) -> Queue:
    """A new queue; the caller has checked that there is room for one."""
    uid = m.new_number()
    queue = Queue(uid, name, config or QueueConfig(), new_revision(m), m.clock_ms, m.walk_mark)
    m.queues[name] = queue
    m.by_uid[uid] = queue
    return queue


def new_revision(m: Machine) -> int:
    revision = m.next_revision
    m.next_revision = revision + 1
    return revision


def _unknown(name: str) -> Refusal:
    return Refusal("queue_not_found", f"no queue {name!r}")


def of_a_topic(name: str, field: str = "/queue") -> Refusal:
    """A consumer group's queue takes only what its topic gives it, and lives with it (R28)."""
    topic, _, group = name.partition(":")
    detail = f"{name!r} belongs to group {group!r} of topic {topic!r}: publish to the topic, manage the group there"
    return Refusal("invalid_argument", detail, field)


def wrong_revision(
    found: Queue | Schedule | None, if_revision: int | None, what: str = "queue"
) -> Refusal | None:
    """A change that was meant for another revision of it (`If-Match`)."""
    if if_revision is None or (found is not None and found.revision == if_revision):
        return None
    there = f"no such {what}" if found is None else f"revision {found.revision}"
    return Refusal("revision_changed", f"expected revision {if_revision}, found {there}")


def put_queue(m: Machine, command: PutQueue) -> QueueSaved | Refusal:
    """Create, or replace the configuration. An unchanged configuration keeps its revision."""
    if ":" in command.name:
        return of_a_topic(command.name)
    queue = m.queues.get(command.name)
    refusal = wrong_revision(queue, command.if_revision)
    if refusal is not None:
        return refusal
    if queue is not None:
        return configure(m, queue, command.config)
    if len(m.queues) >= QUEUES_MAX:
        return Refusal("too_many_queues", "no room for another queue", None, QUEUES_MAX)
    queue = create(m, command.name, command.config)
    return QueueSaved(queue.name, True, queue.revision)


def patch_queue(m: Machine, command: PatchQueue) -> QueueSaved | Refusal:
    """Change only the fields given; `backoff` likewise. Refuses `invalid_argument` what does not fit."""
    queue = m.queues.get(command.name)
    if queue is None:
        return _unknown(command.name)
    refusal = wrong_revision(queue, command.if_revision)
    if refusal is not None:
        return refusal
    changes = dict(command.changes)
    backoff = changes.pop("backoff", None)
    if backoff is not None:
        if not isinstance(backoff, dict):
            return Refusal("invalid_argument", "backoff is a map", "/backoff")
        changed = _with(queue.config.backoff, backoff, "/backoff")
        if isinstance(changed, Refusal):
            return changed
        changes["backoff"] = msgspec.to_builtins(changed)
    config = _with(queue.config, changes, "")
    return config if isinstance(config, Refusal) else configure(m, queue, config)


def _with(base: S, changes: dict[str, Any], prefix: str) -> S | Refusal:
    """The struct with some fields changed, checked against its types."""
    kind = type(base)
    fields = kind.__struct_fields__
    for name in changes:
        if name not in fields:
            return Refusal("invalid_argument", f"no such field {name!r}", f"{prefix}/{name}")
    values = [msgspec.to_builtins(changes.get(name, getattr(base, name))) for name in fields]
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        return Refusal("invalid_argument", str(error), prefix or None)


def configure(m: Machine, queue: Queue, config: QueueConfig) -> QueueSaved:
    """Changed limits take effect at once."""
    if config != queue.config:
        m.touch(queue)
        before = queue.config
        queue.config = config
        queue.revision = new_revision(m)
        if before.max_leased_per_group != config.max_leased_per_group:
            grouping.refresh_busy(m, queue)
        if queue.counts[DEAD] > config.max_dead:
            sweeps.start(m, SWEEP_EXCESS, queue)
        m.hints.ready[queue.name] = None
    return QueueSaved(queue.name, False, queue.revision)


def pause_queue(m: Machine, command: PauseQueue) -> Done | Refusal:
    """Set the flags given. What is leased stays leased."""
    queue = m.queues.get(command.name)
    if queue is None:
        return _unknown(command.name)
    m.touch(queue)
    if command.enqueue is not None:
        queue.paused_enqueue = command.enqueue
    if command.lease is not None:
        queue.paused_lease = command.lease
        if not command.lease:
            m.hints.ready[queue.name] = None
    return Done()


def purge_queue(m: Machine, command: PurgeQueue) -> Done | Refusal:
    """Remove all waiting messages: at once for everybody, from memory piece by piece (R22, R25)."""
    queue = m.queues.get(command.name)
    if queue is None:
        return _unknown(command.name)
    counts = queue.counts
    removed = counts[BLOCKED] + counts[DELAYED] + counts[READY]
    if removed:
        m.touch(queue)
        queue.totals.purged += removed
        queue.epoch += 1
        counts[BLOCKED] = counts[DELAYED] = counts[READY] = 0
        queue.waiting_bytes = queue.ready_bytes = 0
        m.trash.extend(queue.ready.take_storage())
        m.trash.extend(queue.ages.take_storage())
        sweeps.start(m, SWEEP_PURGE, queue)
    return Done(removed)


def delete_queue(m: Machine, command: DeleteQueue) -> Done | Refusal:
    """The queue with its messages, leases and keys (R22). Its name is free at once."""
    queue = m.queues.get(command.name)
    if queue is None:
        return _unknown(command.name)
    if queue.topic is not None:
        return of_a_topic(command.name)
    refusal = wrong_revision(queue, command.if_revision)
    return Done(remove(m, queue)) if refusal is None else refusal


def remove(m: Machine, queue: Queue) -> int:
    """Mark a queue as deleted; answers how many messages go with it."""
    m.touch(queue)
    queue.deleted = True
    del m.queues[queue.name]
    m.dying[queue.uid] = queue
    for heap in (queue.ready, queue.ages, queue.dead_order):
        m.trash.extend(heap.take_storage())
    sweeps.start(m, SWEEP_DELETED, queue)
    m.hints.deleted.append(queue.name)
    return queue.live + queue.counts[DEAD]
