"""Messages of a snapshot into a machine, many at once.

Nearly all of a big backlog is plain (ready, without key, group, ttl or history): those are gathered while they
follow each other in one queue, and take their places with one step for each structure. Everything else goes
through `Machine.load_message`, one by one. What comes of it is the same: the invariants, and the digests of a
machine loaded with and without this, are compared by a test.
"""

from __future__ import annotations

from trivet.machine.core import Machine
from trivet.machine.persistent import MessageData
from trivet.machine.state import READY, Message, Queue, ready_order, stored_bytes
from trivet.machine.topics import shared

RUN = 64
"""Messages that take their places at once: far below a slice (R9)."""


class Loader:
    """Feeds one machine. Call `flush` before anything but messages is loaded, and at the end."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._queue: Queue | None = None
        self._run: list[Message] = []
        self._at_ms = 0  # the last instant seen: messages of one batch share the object

    def add(self, data: MessageData) -> None:
        """Take one message of a loaded queue. Raises `KeyError` for an unknown queue."""
        queue = self._machine.by_uid[data.queue]
        draft = data.draft
        if (
            data.state != READY
            or draft.group is not None
            or draft.key is not None
            or (draft.extras is not None and draft.extras.run_id is not None)
            or data.expires_at_ms
            or data.history
            or data.epoch != queue.epoch
            or queue.deleted
        ):
            self.flush()
            self._machine.load_message(data)
            return
        if queue is not self._queue or len(self._run) >= RUN:
            self.flush()
            self._queue = queue
        at_ms = data.enqueued_at_ms
        if at_ms == self._at_ms:
            at_ms = self._at_ms
        else:
            self._at_ms = at_ms
        if queue.topic is not None:
            draft = shared(queue.topic, draft)
        place = data.place
        self._run.append(
            Message(
                data.number,
                queue,
                draft,
                READY,
                data.priority,
                at_ms,
                data.epoch,
                0,
                place,
                data.group_order,
                at_ms if data.due_at_ms == at_ms else data.due_at_ms,
                0,
                at_ms if data.ready_at_ms == at_ms else data.ready_at_ms,
                data.attempt,
                data.pending,
                data.lease,
                (),
                data.progress,
                data.result,
                data.finished_at_ms,
                data.dead_reason,
                data.origin,
                len(draft.body) if draft.headers is None else stored_bytes(draft),
                ready_order(data.priority, place),
                place,
            )
        )

    def flush(self) -> None:
        """What was gathered takes its places."""
        made, queue, self._run = self._run, self._queue, []
        if not made or queue is None:
            return
        m = self._machine
        numbers = [message.number for message in made]
        m.messages.add_many(numbers, made)
        queue.index.add_many(numbers, made)
        size = sum(message.size for message in made)
        queue.counts[READY] += len(made)
        queue.waiting_bytes += size
        queue.ready_bytes += size
        places = [message.place for message in made]
        keys = [message.ready_key for message in made]
        for heap, wanted in ((queue.ages, places), (queue.ready, keys)):
            if wanted == sorted(wanted):  # they are unique
                heap.push_run(wanted, made)
            else:
                for key, message in zip(wanted, made, strict=True):
                    heap.push(key, message)
