"""Publishing (R28): one command appends to the topic and makes one message in each of its groups.

It never fails because of a group. A group that is at its limit gives up its longest ready message to the dead
letters (`queue_full`), whatever its `on_full` says; where nothing is ready (all is leased, or waits for its
time) the new message itself is what goes there. A pause of a group's enqueue does not hold a publish up.

Catching up gives a group what the topic keeps from some offset on, in the order of the offsets: the first
entries within the command, the rest with `Expire`. Meanwhile a publish leaves that group out, because
its entries come in their turn; so what a group gets is always in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from trivet.limits import FAN_OUT_MAX, KEYS_PER_QUEUE_MAX
from trivet.machine import bulk, intake, keys, topics, transitions
from trivet.machine.commands import Draft, Extras, Publish, QueueConfig
from trivet.machine.replies import Published, Refusal
from trivet.machine.state import DEAD, READY, SWEEP_CATCH_UP, WAKE_TOPIC, Queue, Sweep, stored_bytes
from trivet.machine.topic_records import Topic, TopicEntry, TopicKey

if TYPE_CHECKING:
    from trivet.machine.core import Machine

REPLAYED = "topic_replay"  # the origin of a message whose entry its group has had before

TRIM_FACTOR = 2  # entries that may leave for each that comes, so that a lowered retention is reached at last
_DEFAULT_WINDOW_MS = QueueConfig().idempotency_window_ms


# --- publish ------------------------------------------------------------------------------------------


def publish(m: Machine, command: Publish) -> Published | Refusal:
    """All drafts or none. Refuses `topic_not_found`, `idempotency_conflict`, `batch_too_large`, `queue_full`
    (the topic remembers its most keys), `invalid_argument` (`depends_on`)."""
    topic = m.topics.get(command.topic)
    if topic is None:
        return topics.unknown(command.topic)
    drafts = command.drafts
    known = _known(m, topic, drafts)
    if isinstance(known, Refusal):
        return known
    refusal = _check(m, topic, drafts, known)
    if refusal is not None:
        return refusal
    groups: tuple[str, ...] = ()
    numbers: tuple[tuple[int, ...], ...] = ()
    first = topic.next_offset
    if len(known) < len(drafts):
        fresh = [draft for at, draft in enumerate(drafts) if at not in known] if known else drafts
        entries = _append(m, topic, fresh)
        reached = [queue for queue in topic.groups if queue.uid not in m.catching_up]
        room = _Room()
        numbers = tuple([_deliver(m, queue, entries, room) for queue in reached])
        groups = tuple([queue.name[len(topic.name) + 1 :] for queue in reached])
        topics.trim(m, topic, TRIM_FACTOR * len(entries))
        topics.arm(m, topic)
    if not known:
        return Published(tuple(range(first, topic.next_offset)), (), groups, numbers)
    return Published(_offsets(drafts, known, first), tuple(known), groups, numbers)


def is_repeat(m: Machine, command: Publish) -> bool:
    """Every message has a key that came before: the node's own refusals are not for it (R12)."""
    topic = m.topics.get(command.topic)
    if topic is None:
        return False
    records = [None if draft.key is None else topic.keys.get(draft.key) for draft in command.drafts]
    return all(record is not None and record.expires_at_ms > m.clock_ms for record in records)


def _known(m: Machine, topic: Topic, drafts: Sequence[Draft]) -> dict[int, int] | Refusal:
    """Position → offset of the entry that had the key before; ``-1 - position`` of the first of this batch."""
    found: dict[int, int] = {}
    seen: dict[str, int] = {}
    for at, draft in enumerate(drafts):
        if draft.key is None:
            continue
        record = topic.keys.get(draft.key)
        first = seen.get(draft.key)
        if record is not None and record.expires_at_ms > m.clock_ms:
            same = record.fingerprint == keys.fingerprint(draft)
            found[at] = record.offset
        elif first is not None:
            same = keys.fingerprint(drafts[first]) == keys.fingerprint(draft)
            found[at] = -1 - first
        else:
            seen[draft.key] = at
            continue
        if not same:
            field = f"/messages/{at}/idempotency_key"
            return Refusal("idempotency_conflict", "this key came with another body before", field)
    return found


def _check(m: Machine, topic: Topic, drafts: Sequence[Draft], known: dict[int, int]) -> Refusal | None:
    new_keys = 0
    for at, draft in enumerate(drafts):
        if draft.extras is not None and draft.extras.depends_on:
            detail = "a topic's message becomes one in each group: it cannot depend on messages"
            return Refusal("invalid_argument", detail, f"/messages/{at}/depends_on")
        if draft.key is not None and at not in known:
            new_keys += draft.key not in topic.keys
            if len(topic.keys) + new_keys > KEYS_PER_QUEUE_MAX:
                field = f"/messages/{at}/idempotency_key"
                return Refusal("queue_full", "the topic remembers its most keys", field, KEYS_PER_QUEUE_MAX)
    groups = len(topic.groups)
    if (len(drafts) - len(known)) * groups > FAN_OUT_MAX:
        detail = f"at most {FAN_OUT_MAX // groups} messages at once reach the {groups} groups of this topic"
        return Refusal("batch_too_large", detail, "/messages", FAN_OUT_MAX)
    return None


def _offsets(drafts: Sequence[Draft], known: dict[int, int], first: int) -> tuple[int, ...]:
    """The offset of each draft's entry; the new ones are from `first` on."""
    found: list[int] = []
    offset = first
    for at in range(len(drafts)):
        before = known.get(at)
        if before is None:
            found.append(offset)
            offset += 1
        else:
            found.append(before if before >= 0 else found[-1 - before])
    return tuple(found)


def _append(m: Machine, topic: Topic, drafts: Sequence[Draft]) -> list[TopicEntry]:
    m.touch(topic)
    now, first = m.clock_ms, topic.next_offset
    if not topic.entries.live:
        topic.oldest_at_ms = now
    entries: list[TopicEntry] = []
    for offset, draft in enumerate(drafts, first):
        kept = _stamped(draft, topic.name, offset)
        size = stored_bytes(draft)
        topic.bytes += size
        entries.append(TopicEntry(topic, offset, kept, now, m.walk_mark, size))
        if draft.key is not None:
            _bind(m, topic, draft, offset)
    topic.entries.add_run(first, entries)
    topic.next_offset = first + len(entries)
    return entries


def _stamped(draft: Draft, topic: str, offset: int) -> Draft:
    """The draft as entry and messages have it: it says where it was published."""
    if draft.extras is None:
        extras = Extras(topic=topic, offset=offset)
    else:
        extras = replace(draft.extras, topic=topic, offset=offset)
    return replace(draft, extras=extras)


def _bind(m: Machine, topic: Topic, draft: Draft, offset: int) -> None:
    """The draft's key stands for its entry; one of that name that no longer counts is replaced."""
    assert draft.key is not None
    old = topic.keys.get(draft.key)
    if old is not None:
        topics.drop_key(m, old)
    window = _DEFAULT_WINDOW_MS if draft.key_window_ms is None else draft.key_window_ms
    number, ends_at = m.new_number(), m.clock_ms + window
    record = TopicKey(number, topic, draft.key, keys.fingerprint(draft), offset, ends_at, m.walk_mark)
    topic.keys[record.key] = record
    topic.key_index.add(number, record)
    m.arm(record, ends_at, WAKE_TOPIC)


# --- into a group -------------------------------------------------------------------------------------


class _Room:
    """How many messages one command may still dead-letter to make room, in all groups together (R25)."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = intake.DISPLACE_MAX


def _deliver(
    m: Machine,
    queue: Queue,
    entries: Sequence[TopicEntry],
    room: _Room,
    origin: tuple[str, str] | None = None,
) -> tuple[int, ...]:
    """One message for each entry, in their order; answers the numbers."""
    if len(entries) == 1:
        return (_deliver_one(m, queue, entries[0], room, origin),)
    first = m.next_number
    drafts = [entry.draft for entry in entries]
    if _all_plain(drafts) and bulk.enqueue(m, queue, drafts, fan_out=True) is not None:
        made = tuple(range(first, first + len(drafts)))
        if origin is not None:
            for number in made:
                m.messages[number].origin = origin
        return made
    return tuple([_deliver_one(m, queue, entry, room, origin) for entry in entries])


def _all_plain(drafts: Sequence[Draft]) -> bool:
    """None belongs to a run: `bulk` looks at the rest."""
    return all(draft.extras is None or draft.extras.run_id is None for draft in drafts)


def _deliver_one(
    m: Machine, queue: Queue, entry: TopicEntry, room: _Room, origin: tuple[str, str] | None
) -> int:
    fits = _make_room(m, queue, entry.size, room)
    number = intake.create(m, queue, entry.draft, origin=origin, since_ms=entry.at_ms).message
    if not fits:
        transitions.finish(m, m.messages[number], DEAD, reason="queue_full")
    return number


def _make_room(m: Machine, queue: Queue, size: int, room: _Room) -> bool:
    """Whether one more message of `size` fits, after the longest ready ones went as far as needed."""
    config, counts = queue.config, queue.counts
    if config.max_messages is None and config.max_bytes is None:
        return True
    most = queue.live + 1 if config.max_messages is None else config.max_messages
    most_bytes = queue.bytes + size if config.max_bytes is None else config.max_bytes
    if queue.live - counts[READY] + 1 > most or queue.bytes - queue.ready_bytes + size > most_bytes:
        return False
    while queue.live + 1 > most or queue.bytes + size > most_bytes:
        oldest = queue.oldest_ready()
        if room.left <= 0:
            return False
        assert oldest is not None
        room.left -= 1
        transitions.finish(m, oldest, DEAD, reason="queue_full")
    return True


# --- catching up --------------------------------------------------------------------------------------


def start_catch_up(m: Machine, topic: Topic, queue: Queue, start: int, upto: int, inline: int) -> None:
    """The group gets the entries from `start` on, `inline` of them now; those up to `upto` it has had before.

    One that is catching up goes back to `start` if that is behind where it is: nothing is left out.
    """
    sweep = m.catching_up.get(queue.uid)
    if sweep is not None:
        m.touch(sweep)
        sweep.upto = max(sweep.upto, sweep.cursor)
        sweep.cursor = min(sweep.cursor, start - 1)
    elif start == topic.next_offset:
        return
    else:
        number = m.new_number()
        sweep = Sweep(number, SWEEP_CATCH_UP, queue.uid, start - 1, upto, m.walk_mark)
        m.sweeps.add(number, sweep)
        m.catching_up[queue.uid] = sweep
        topics.arm(m, topic)
    catch_up(m, sweep, inline)


def catch_up(m: Machine, sweep: Sweep, budget: int) -> int:
    """The next entries, at most `budget`; the end of it when there are no more. Answers how much was done."""
    queue = m.by_uid[sweep.queue]
    topic = queue.topic
    assert topic is not None
    m.touch(sweep)
    entries = topic.entries.slice_after(sweep.cursor, budget)
    again = [entry for entry in entries if entry.offset <= sweep.upto]
    room = _Room()
    if again:
        _deliver(m, queue, again, room, (REPLAYED, queue.name))
    if len(again) < len(entries):
        _deliver(m, queue, entries[len(again) :], room)
    sweep.cursor = entries[-1].offset  # something is owed: else the sweep would be gone
    if sweep.cursor + 1 < topic.next_offset:
        return len(entries)
    m.sweeps.discard(sweep.number)
    del m.catching_up[queue.uid]
    topics.trim(m, topic, len(entries))
    topics.arm(m, topic)
    return len(entries) + 1
