"""Idempotency keys of messages (R16).

A key lives its window from the first enqueue, and never less than its message is unfinished. So a key
needs no deadline while its message is unfinished; when the message ends, the key goes at once if its
window is over, else it is armed for the rest of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from trivet.limits import KEYS_PER_QUEUE_MAX
from trivet.machine.commands import Draft
from trivet.machine.state import (
    CANCELLED,
    DEAD,
    LEASED,
    STATE_NAMES,
    WAKE_KEY,
    KeyRecord,
    Message,
    Queue,
    is_gone,
)

if TYPE_CHECKING:
    from trivet.machine.core import Machine


def fingerprint(draft: Draft) -> bytes:
    """What must be equal for two messages of one key to be the same: the stored body and content type."""
    kind = b"" if draft.content_type is None else b"\x01" + draft.content_type.encode()
    head = bytes((draft.codec,)) + len(kind).to_bytes(4, "big") + kind
    return blake2b(head + draft.body, digest_size=16).digest()


def lookup(m: Machine, queue: Queue, key: str) -> KeyRecord | None:
    """The key if it still counts at this instant."""
    record = queue.keys.get(key)
    if record is None or record.expires_at_ms > m.clock_ms or _unfinished(m, record):
        return record
    return None


def _unfinished(m: Machine, record: KeyRecord) -> bool:
    message = m.messages.get(record.number)
    return (
        message is not None
        and message.queue is record.queue
        and message.state <= LEASED
        and not is_gone(message)
    )


def state_of(m: Machine, record: KeyRecord) -> tuple[str, bytes | None]:
    """The state of a key's message now, and its result if there is one to read."""
    message = m.find(record.number)
    if message is not None:
        return STATE_NAMES[message.state], message.result
    if record.final >= 0:
        return STATE_NAMES[record.final], None
    left = m.messages.get(record.number)  # purged, and no sweep has come by yet: as it will be after that
    dead = left is not None and left.queue is record.queue and left.state == DEAD
    return STATE_NAMES[DEAD if dead else CANCELLED], None


def add(m: Machine, message: Message, expires_at_ms: int) -> None:
    """Bind the message's key to it; a key of that name that no longer counts is replaced."""
    queue, key = message.queue, message.draft.key
    assert key is not None
    old = queue.keys.get(key)
    if old is not None:
        drop(m, old)
    record = _bind(m, message, key, expires_at_ms)
    queue.key_index.add(record.number, record)


def _bind(m: Machine, message: Message, key: str, expires_at_ms: int) -> KeyRecord:
    queue = message.queue
    record = KeyRecord(message.number, queue, key, fingerprint(message.draft), expires_at_ms, m.walk_mark)
    queue.keys[key] = record
    return record


def window_ms(queue: Queue, draft: Draft) -> int:
    """How long the key of a new message counts."""
    return queue.config.idempotency_window_ms if draft.key_window_ms is None else draft.key_window_ms


def add_new(m: Machine, queue: Queue, messages: Sequence[Message]) -> None:
    """Bind the keys of these new messages, of which the queue knows none, for the window of each."""
    records: list[KeyRecord] = []
    for message in messages:
        key = message.draft.key
        assert key is not None
        records.append(_bind(m, message, key, m.clock_ms + window_ms(queue, message.draft)))
    queue.key_index.add_many([record.number for record in records], records)


def own(message: Message) -> KeyRecord | None:
    """The key record of this message in its queue, if it has one and it is still there."""
    if message.draft.key is None:
        return None
    record = message.queue.keys.get(message.draft.key)
    return record if record is not None and record.number == message.number else None


def is_live(m: Machine, message: Message) -> bool:
    """The message has a key whose window is not over (R24)."""
    record = own(message)
    return record is not None and record.expires_at_ms > m.clock_ms


def finished(m: Machine, message: Message, state: int) -> None:
    """The message ends in `state`: from now on only the window keeps its key."""
    record = own(message)
    if record is None:
        return
    if record.expires_at_ms <= m.clock_ms:
        drop(m, record)
        record.final = state  # for the enqueue that found the key, and displaced its message
    else:
        m.arm(record, record.expires_at_ms, WAKE_KEY)


def forgotten(m: Machine, message: Message) -> None:
    """The message leaves the tables; its key remembers how it ended."""
    record = own(message)
    if record is not None:
        m.touch(record)
        record.final = message.state


def drop(m: Machine, record: KeyRecord) -> None:
    """The key is free again."""
    m.touch(record)
    if record.wake_key:
        m.disarm(record)
    del record.queue.keys[record.key]
    record.queue.key_index.discard(record.number)


def redriven(m: Machine, message: Message, origin: Queue) -> None:
    """A dead message lives again, in `message.queue`: its key must last as long as it does.

    The key stays known to the queue it came from until its window ends. In the new queue it is bound
    if nobody else holds it there.
    """
    key = message.draft.key
    queue = message.queue
    if key is None or queue.topic is not None:  # a topic's message: the key is the topic's
        return
    old = origin.keys.get(key)
    if old is not None and old.number != message.number:
        old = None
    if old is not None and queue is not origin:
        m.touch(old)
        old.final = DEAD
    there = queue.keys.get(key)
    if there is not None and there.number == message.number:
        m.touch(there)
        m.disarm(there)
        there.final = -1
    elif lookup(m, queue, key) is None and (there is not None or len(queue.keys) < KEYS_PER_QUEUE_MAX):
        add(m, message, m.clock_ms if old is None else old.expires_at_ms)
