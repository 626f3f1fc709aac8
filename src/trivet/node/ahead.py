"""What an enqueue will make leasable, known before it is applied: its leases go into the same entry (ADR 0017)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trivet.machine.commands import Draft, Enqueue, Request

if TYPE_CHECKING:
    from trivet.machine.core import Machine
    from trivet.machine.state import Queue


def coming(machine: Machine, request: Request) -> tuple[str, int] | None:
    """The queue and how many of the request's messages can surely be leased right after it.

    None where anything but the messages themselves decides: limits, pauses, known keys, groups, delays, dependencies.
    A lease that finds nothing harms nobody, but it is written for nothing.
    """
    command = request.command
    if type(command) is not Enqueue:
        return None
    queue = machine.queues.get(command.queue)
    if queue is None or queue.topic is not None or queue.paused_enqueue or queue.paused_lease:
        return None
    config = queue.config
    if config.max_messages is not None or config.max_bytes is not None or config.max_leased is not None:
        return None
    if request.request_id is not None and machine.replies.get(request.request_id) is not None:
        return None
    sure = [draft.key for draft in command.drafts if _is_sure(queue, draft)]
    count = sure.count(None) + len(set(sure) - {None})  # of one key in one request the first counts
    return (command.queue, count) if count else None


def _is_sure(queue: Queue, draft: Draft) -> bool:
    """A key that the queue does not know makes a message, unless an entry on its way brings that key, too."""
    return (
        draft.group is None
        and not draft.delay_ms
        and draft.deliver_at_ms is None
        and draft.extras is None
        and (draft.key is None or draft.key not in queue.keys)
    )
