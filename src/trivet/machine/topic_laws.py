"""The laws of topics, recounted: part of `invariants.check`, which shares no code with the transitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from trivet.limits import GROUPS_PER_TOPIC_MAX

if TYPE_CHECKING:
    from trivet.machine.core import Machine
    from trivet.machine.topic_records import Topic, TopicEntry


class Report(Protocol):
    def law(self, holds: bool, what: str) -> None: ...

    def equal(self, found: Any, expected: Any, what: str) -> None: ...


def check(m: Machine, report: Report) -> None:
    topics = m.topics_by_number.values()
    report.equal([t.name for t in topics if not t.deleted], list(m.topics), "topics by name")
    for number, topic in m.topics_by_number.items():
        report.equal(topic.number, number, f"topic {topic.name} is filed under its number")
        _check_entries(m, topic, report)
        _check_keys(topic, report)
        _check_groups(m, topic, report)
    _check_catching_up(m, report)
    sweeps = [sweep.queue for sweep in m.sweeps.after(0) if sweep.kind == "topic"]
    report.equal(sorted(sweeps), sorted(t.number for t in topics if t.deleted), "deleted topics are swept")


def _entries(topic: Topic) -> list[TopicEntry]:
    return list(topic.entries.after(-1))


def _check_entries(m: Machine, topic: Topic, report: Report) -> None:
    name = f"topic {topic.name}"
    entries = _entries(topic)
    offsets = [entry.offset for entry in entries]
    if not topic.deleted:
        dense = list(range(topic.next_offset - len(entries), topic.next_offset))
        report.equal(offsets, dense, f"{name}: what is kept is the newest, without a gap")
    report.equal(topic.entries.live, len(entries), f"{name} count")
    size = 0
    for entry in entries:
        draft, headers = entry.draft, entry.draft.headers or {}
        own = len(draft.body) + sum(len(k.encode()) + len(v.encode()) for k, v in headers.items())
        report.equal(entry.size, own, f"{name}: size of {entry.offset}")
        size += own
        said = (None, None) if draft.extras is None else (draft.extras.topic, draft.extras.offset)
        report.equal(said, (topic.name, entry.offset), f"{name}: what {entry.offset} says of itself")
        report.law(entry.topic is topic, f"{name}: an entry of another topic")
    report.equal(topic.bytes, size, f"{name} bytes")
    instants = [entry.at_ms for entry in entries]
    report.equal(instants, sorted(instants), f"{name}: time never falls")
    report.law(not instants or instants[-1] <= m.clock_ms, f"{name}: published later than now")


def _check_keys(topic: Topic, report: Report) -> None:
    records = list(topic.keys.values())
    numbers = sorted(record.number for record in records)
    report.equal([each.number for each in topic.key_index.after(0)], numbers, f"topic {topic.name} key index")
    offsets = [record.offset for record in records]
    report.equal(len(set(offsets)), len(offsets), f"topic {topic.name}: one entry, one key")
    for text, record in topic.keys.items():
        report.law(record.key == text and record.topic is topic, f"topic key {text} is filed wrongly")
        report.law(record.offset < topic.next_offset, f"topic key {text} is of the future")


def _check_groups(m: Machine, topic: Topic, report: Report) -> None:
    name = f"topic {topic.name}"
    queues = [] if topic.deleted else [q for q in m.queues.values() if q.name.startswith(topic.name + ":")]
    expected = sorted(queue.uid for queue in queues)
    report.equal([queue.uid for queue in topic.groups], expected, f"{name} groups")
    report.law(len(expected) <= GROUPS_PER_TOPIC_MAX, f"{name}: too many groups")
    for queue in queues:
        report.law(queue.topic is topic, f"{queue.name} does not know its topic")
        report.law(not len(queue.keys), f"{queue.name} has keys of its own")


def _check_catching_up(m: Machine, report: Report) -> None:
    found = {sweep.queue: sweep.number for sweep in m.sweeps.after(0) if sweep.kind == "catch_up"}
    report.equal({uid: s.number for uid, s in m.catching_up.items()}, found, "groups that catch up")
    for sweep in m.catching_up.values():
        queue = m.by_uid.get(sweep.queue)
        topic = None if queue is None else queue.topic
        owed = None if topic is None else {entry.offset for entry in _entries(topic)}
        report.law(
            topic is not None
            and sweep.cursor + 1 < topic.next_offset
            and owed is not None
            and owed.issuperset(range(sweep.cursor + 1, topic.next_offset)),
            f"sweep {sweep.number} owes entries that are not kept",
        )
    for queue in (*m.queues.values(), *m.dying.values()):
        group = ":" in queue.name and not queue.deleted
        report.law((queue.topic is not None) == group, f"{queue.name}: a group exactly by its name")


def deadlines(m: Machine) -> list[tuple[int, Any]]:
    """When time does something to a topic: its oldest entry is over, at once if there are too many."""
    found: list[tuple[int, Any]] = []
    for topic in m.topics_by_number.values():
        found += [(record.expires_at_ms, record) for record in topic.keys.values()]
        entries = _entries(topic)
        pinned = any(queue.uid in m.catching_up for queue in topic.groups)
        if entries and not pinned and not topic.deleted:
            too_many = len(entries) > topic.retention_messages
            found.append((entries[0].at_ms + (0 if too_many else topic.retention_ms), topic))
    return found


def numbers(m: Machine) -> list[int]:
    """Given to topics and their keys."""
    topics = m.topics_by_number
    return [*topics, *(record.number for t in topics.values() for record in t.keys.values())]
