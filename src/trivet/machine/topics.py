"""Topics and their consumer groups (R28): made, changed, deleted; what a topic keeps, and for how long.

A group is the queue `{topic}:{group}` and is worked on like any other; only its life and what comes into it
belong to the topic (`publishing.py`). A topic keeps its newest `retention_messages` entries no longer than
`retention_ms`. What is over goes with the publish that pushes it out, or with `Expire` at its time, a bounded
piece at once (R25).

A group that is *catching up* (`Machine.catching_up`) still has to get entries that are kept: while there is
one, its topic drops nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trivet.limits import GROUPS_PER_TOPIC_MAX, QUEUES_MAX, TOPICS_MAX
from trivet.machine import admin, publishing
from trivet.machine.commands import DeleteGroup, DeleteTopic, Draft, PutGroup, PutTopic, ReplayGroup
from trivet.machine.replies import Done, GroupSaved, Refusal, Replayed, TopicSaved
from trivet.machine.state import SWEEP_TOPIC, WAKE_TOPIC, Queue, Sweep, stored_bytes, wake_at_ms
from trivet.machine.topic_records import Topic, TopicData, TopicEntry, TopicEntryData, TopicKey, TopicKeyData

if TYPE_CHECKING:
    from trivet.machine.core import Machine


TRIM_INLINE = 1000  # entries that leave with the command that lowers their retention; the rest with `Expire`


def queue_name(topic: str, group: str) -> str:
    """The queue of a consumer group. No other name contains a colon."""
    return f"{topic}:{group}"


def unknown(name: str) -> Refusal:
    return Refusal("topic_not_found", f"no topic {name!r}")


# --- topics -------------------------------------------------------------------------------------------


def put_topic(m: Machine, command: PutTopic) -> TopicSaved | Refusal:
    """Create, or replace how much is kept for how long."""
    topic = m.topics.get(command.name)
    if topic is None:
        if len(m.topics) >= TOPICS_MAX:
            return Refusal("too_many_topics", "no room for another topic", None, TOPICS_MAX)
        number = m.new_number()
        topic = Topic(number, command.name, command.retention_ms, command.retention_messages, 0, m.walk_mark)
        m.topics[command.name] = m.topics_by_number[number] = topic
        return TopicSaved(command.name, True)
    m.touch(topic)
    topic.retention_ms = command.retention_ms
    topic.retention_messages = command.retention_messages
    trim(m, topic, TRIM_INLINE)
    arm(m, topic)
    return TopicSaved(command.name, False)


def delete_topic(m: Machine, command: DeleteTopic) -> Done | Refusal:
    """The topic, its groups with their messages and leases, and what it kept. Its name is free at once."""
    topic = m.topics.pop(command.name, None)
    if topic is None:
        return unknown(command.name)
    m.touch(topic)
    topic.deleted = True
    m.disarm(topic)
    removed = sum(_remove_group(m, topic, queue) for queue in tuple(topic.groups))
    number = m.new_number()
    m.sweeps.add(number, Sweep(number, SWEEP_TOPIC, topic.number, 0, 0, m.walk_mark))
    return Done(removed)


def remove_some(m: Machine, topic: Topic, budget: int) -> int:
    """The sweep of a deleted topic; fewer than `budget` means that nothing is left."""
    entries = topic.entries.slice_after(-1, budget)
    _drop(m, topic, entries)
    keys = topic.key_index.slice_after(0, budget - len(entries))
    for record in keys:
        drop_key(m, record)
    done = len(entries) + len(keys)
    if done < budget:
        m.touch(topic)
        del m.topics_by_number[topic.number]
    return done


def drop_key(m: Machine, record: TopicKey) -> None:
    """Its window is over: the key is free again."""
    m.touch(record)
    m.disarm(record)
    del record.topic.keys[record.key]
    record.topic.key_index.discard(record.number)


# --- groups -------------------------------------------------------------------------------------------


def _group(m: Machine, topic: str, group: str) -> tuple[Topic, Queue] | Refusal:
    found = m.topics.get(topic)
    if found is None:
        return unknown(topic)
    queue = m.queues.get(queue_name(topic, group))
    if queue is None:
        return Refusal("group_not_found", f"topic {topic!r} has no group {group!r}")
    return found, queue


def put_group(m: Machine, command: PutGroup) -> GroupSaved | Refusal:
    """Create at its start, or replace the configuration: where a group once started is not looked at again."""
    topic = m.topics.get(command.topic)
    if topic is None:
        return unknown(command.topic)
    name = queue_name(command.topic, command.group)
    queue = m.queues.get(name)
    refusal = admin.wrong_revision(queue, command.if_revision)
    if refusal is not None:
        return refusal
    if queue is not None:
        return GroupSaved(name, False, admin.configure(m, queue, command.config).revision)
    if len(topic.groups) >= GROUPS_PER_TOPIC_MAX:
        return Refusal("too_many_groups", "no room for another group", None, GROUPS_PER_TOPIC_MAX)
    if len(m.queues) >= QUEUES_MAX:
        return Refusal("too_many_queues", "no room for another queue", None, QUEUES_MAX)
    start = _start(topic, command.from_at_ms, command.from_offset)
    if isinstance(start, Refusal):
        return start
    queue = admin.create(m, name, command.config)
    queue.topic = topic
    topic.groups.append(queue)
    publishing.start_catch_up(m, topic, queue, start, -1, command.inline)
    return GroupSaved(name, True, queue.revision, topic.next_offset - start)


def delete_group(m: Machine, command: DeleteGroup) -> Done | Refusal:
    """As a queue is deleted, with its messages, leases and dead letters; the topic keeps what it keeps."""
    found = _group(m, command.topic, command.group)
    if isinstance(found, Refusal):
        return found
    topic, queue = found
    refusal = admin.wrong_revision(queue, command.if_revision)
    if refusal is not None:
        return refusal
    removed = _remove_group(m, topic, queue)
    arm(m, topic)
    return Done(removed)


def _remove_group(m: Machine, topic: Topic, queue: Queue) -> int:
    sweep = m.catching_up.pop(queue.uid, None)
    if sweep is not None:
        m.touch(sweep)
        m.sweeps.discard(sweep.number)
    removed = admin.remove(m, queue)
    topic.groups.remove(queue)
    queue.topic = None
    return removed


def replay_group(m: Machine, command: ReplayGroup) -> Replayed | Refusal:
    """What is kept from a place on comes into the group again."""
    found = _group(m, command.topic, command.group)
    if isinstance(found, Refusal):
        return found
    topic, queue = found
    start = _start(topic, command.from_at_ms, command.from_offset)
    if isinstance(start, Refusal):
        return start
    publishing.start_catch_up(m, topic, queue, start, topic.next_offset - 1, command.inline)
    return Replayed(topic.next_offset - start, start, queue.uid in m.catching_up)


def _start(topic: Topic, at_ms: int | None, offset: int | None) -> int | Refusal:
    """The first offset asked for that is kept."""
    if at_ms is not None:
        return _first_since(topic, at_ms)
    if offset is None:
        return topic.next_offset
    if offset > topic.next_offset:
        return Refusal(
            "invalid_argument", "the topic has not come that far", "/from_offset", topic.next_offset
        )
    return max(offset, topic.first_offset)


def _first_since(topic: Topic, at_ms: int) -> int:
    """Of the entries kept the first published at `at_ms` or later: their instants never fall."""
    low, high = topic.first_offset, topic.next_offset
    while low < high:
        middle = (low + high) // 2
        entry = topic.entry(middle)
        assert entry is not None
        if entry.at_ms < at_ms:
            low = middle + 1
        else:
            high = middle
    return low


# --- retention ----------------------------------------------------------------------------------------


def is_pinned(m: Machine, topic: Topic) -> bool:
    """A group of it is catching up."""
    return bool(m.catching_up) and any(queue.uid in m.catching_up for queue in topic.groups)


def trim(m: Machine, topic: Topic, most: int) -> int:
    """Drop at most `most` of the oldest entries that need not be kept; answers how many."""
    excess = topic.entries.live - topic.retention_messages
    horizon = m.clock_ms - topic.retention_ms
    if (excess <= 0 and topic.oldest_at_ms > horizon) or is_pinned(m, topic):
        return 0
    oldest = topic.entries.slice_after(-1, most + 1)
    count = 0
    while count < min(most, len(oldest)) and (count < excess or oldest[count].at_ms <= horizon):
        count += 1
    _drop(m, topic, oldest[:count])
    if count < len(oldest):
        topic.oldest_at_ms = oldest[count].at_ms
    return count


def _drop(m: Machine, topic: Topic, entries: list[TopicEntry]) -> None:
    for entry in entries:
        m.touch(entry)
        topic.bytes -= entry.size
    topic.entries.discard_many([entry.offset for entry in entries])


def arm(m: Machine, topic: Topic) -> None:
    """Its deadline: when its oldest entry is over, at once if there are too many; none while it is pinned."""
    if not topic.entries.live or is_pinned(m, topic):
        m.disarm(topic)
        return
    at_ms = topic.oldest_at_ms
    if topic.entries.live <= topic.retention_messages:
        at_ms += topic.retention_ms
    if not topic.wake_key or wake_at_ms(topic.wake_key) != at_ms:
        m.disarm(topic)
        m.arm(topic, at_ms, WAKE_TOPIC)


def wake(m: Machine, record: Topic | TopicKey, budget: int) -> int:
    """A deadline has come; answers how much was done."""
    if isinstance(record, TopicKey):
        drop_key(m, record)
        return 1
    done = trim(m, record, budget)
    arm(m, record)
    return done


# --- snapshots ----------------------------------------------------------------------------------------


def load_topic(m: Machine, data: TopicData) -> None:
    """A topic, before its groups' queues, its entries and its keys."""
    topic = Topic(
        data.number,
        data.name,
        data.retention_ms,
        data.retention_messages,
        data.next_offset,
        0,
        data.deleted,
    )
    m.topics_by_number[topic.number] = topic
    if not topic.deleted:
        m.topics[topic.name] = topic


def load_group(m: Machine, queue: Queue) -> None:
    """The queue is a group: what has a colon in its name and is not deleted."""
    topic = m.topics[queue.name.partition(":")[0]]
    queue.topic = topic
    topic.groups.append(queue)
    topic.groups.sort(key=lambda group: group.uid)


def load_entry(m: Machine, data: TopicEntryData) -> None:
    """An entry of a loaded topic, in any order."""
    topic = m.topics_by_number[data.topic]
    entry = TopicEntry(topic, data.offset, data.draft, data.at_ms, 0, stored_bytes(data.draft))
    topic.entries.add(entry.offset, entry)
    topic.bytes += entry.size


def load_key(m: Machine, data: TopicKeyData) -> None:
    """A key of a loaded topic."""
    topic = m.topics_by_number[data.topic]
    record = TopicKey(data.number, topic, data.key, data.fingerprint, data.offset, data.expires_at_ms, 0)
    topic.keys[record.key] = record
    topic.key_index.add(record.number, record)
    m.arm(record, record.expires_at_ms, WAKE_TOPIC)


def finish_load(m: Machine, topic: Topic) -> None:
    """All records are here."""
    oldest = topic.entries.first()
    if oldest is not None and not topic.deleted:
        topic.oldest_at_ms = oldest.at_ms
        arm(m, topic)


def shared(topic: Topic, draft: Draft) -> Draft:
    """The very draft of the topic's entry, where a message of a snapshot has an equal one."""
    offset = None if draft.extras is None else draft.extras.offset
    entry = None if offset is None else topic.entry(offset)
    return entry.draft if entry is not None and entry.draft == draft else draft
