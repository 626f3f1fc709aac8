"""Groups (R21): order in a group is log order, and only its head may be leased.

A group offers at most one message at a time to its queue's ready heap: the head of its waiting messages,
if that is ready and the group has fewer leases than `max_leased_per_group`. What is offered is a pure
function of the messages; `refresh` makes it true again after any change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trivet.machine.state import READY, Group, Message, Queue, ready_order

if TYPE_CHECKING:
    from trivet.machine.core import Machine


def current(m: Machine, queue: Queue, group: Group) -> Group:
    """The group after any purge of its queue: a purge empties all groups at once by raising the epoch."""
    if group.epoch != queue.epoch:
        group.epoch = queue.epoch
        m.trash.extend(group.waiting.take_storage())
        group.offered = None
    return group


def of_message(m: Machine, message: Message) -> Group | None:
    """The group of a message, made if it has none yet; None for a message without a group."""
    if message.group is not None:
        return current(m, message.queue, message.group)
    name = message.draft.group
    if name is None:
        return None
    queue = message.queue
    group = queue.groups.get(name)
    if group is None:
        group = queue.groups[name] = Group(name, queue.epoch)
    message.group = group
    return current(m, queue, group)


def refresh(m: Machine, queue: Queue, group: Group) -> None:
    """Offer what may be leased now, take back what may not."""
    head: Message | None = None
    if group.leased < queue.config.max_leased_per_group:
        entry = group.waiting.peek()
        if entry is not None and entry[1].state == READY:
            head = entry[1]
    offered = group.offered
    if head is offered:
        return
    if offered is not None:
        offered.ready_key = 0
        queue.ready.drop()
    group.offered = head
    if head is not None:
        head.ready_key = ready_order(head.priority, head.place)
        queue.ready.push(head.ready_key, head)
        m.hints.ready[queue.name] = None


def refresh_busy(m: Machine, queue: Queue) -> None:
    """`max_leased_per_group` changed: only groups with a lease can be concerned."""
    for group in queue.busy.values():
        refresh(m, queue, current(m, queue, group))


def tidy(queue: Queue, group: Group) -> None:
    """Forget a group without messages. Call after `refresh`."""
    if group.waiting.live == 0 and group.leased == 0 and queue.groups.get(group.name) is group:
        del queue.groups[group.name]
