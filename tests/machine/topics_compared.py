"""Topics of a machine beside those of the model; and the numbers of messages that are made along the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from trivet.machine import topic_views
from trivet.machine.core import Machine
from trivet.machine.replies import GroupSaved, Published, Replayed, Reply, TopicSaved
from trivet.machine.state import Message
from trivet.machine.tables import NumberTable


class Recording(NumberTable[Message]):
    """A table of messages that keeps in mind which ones came into groups: a reply does not tell of all."""

    __slots__ = ()
    into_groups: ClassVar[list[int]] = []

    def __setitem__(self, key: int, record: Message) -> None:
        super().__setitem__(key, record)
        if ":" in record.queue.name:
            Recording.into_groups.append(key)

    def add_many(self, keys: Sequence[int], records: Sequence[Message]) -> None:
        super().add_many(keys, records)
        if ":" in records[0].queue.name:
            Recording.into_groups += keys


def watch_births(machine: Machine) -> None:
    """From now on, and from nothing."""
    machine.messages.__class__ = Recording
    Recording.into_groups = []


def plain_of_topics(reply: Reply) -> tuple[Any, ...] | None:
    match reply:
        case TopicSaved():
            return ("topic", reply.name, reply.created)
        case GroupSaved():
            return ("group", reply.name, reply.created, reply.revision, reply.replayed)
        case Published():
            numbers = [list(each) for each in reply.numbers]
            return ("published", list(reply.offsets), list(reply.duplicates), list(reply.groups), numbers)
        case Replayed():
            return ("replayed_group", reply.count, reply.from_offset, reply.more)
    return None


def compare_topics(machine: Machine, model: Any) -> None:
    listed, following = topic_views.topics(machine, 1000)
    assert following is None
    assert [each["topic"] for each in listed] == sorted(model.topics)
    for view in listed:
        topic = model.topics[view["topic"]]
        kept = topic["kept"]
        assert view == {
            "topic": topic["name"],
            "retention_ms": topic["ms"],
            "retention_messages": topic["count"],
            "first_offset": topic["next"] - len(kept),
            "next_offset": topic["next"],
            "groups": [{"group": n.partition(":")[2], "queue": n} for n in sorted(topic["groups"])],
        }
        shown, _ = topic_views.entries(machine, topic["name"], 0, 1000) or ([], None)
        said = [(each["offset"], each["published_at_ms"], each["body"].data) for each in shown]
        assert said == [(each["offset"], each["at"], each["draft"].body) for each in kept]
    behind = {machine.by_uid[uid].name: s.cursor + 1 for uid, s in machine.catching_up.items()}
    assert behind == {owed["group"]: owed["at"] for owed in model.owing}
