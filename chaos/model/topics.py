"""The model's topics, as far as drills use them: every group from the start, everything kept, no limits (R28)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from chaos.model.flows import Flows
from chaos.model.intake import fingerprint, plain_backoff
from chaos.model.records import CONFIG, Message, Queue, Refused

WINDOW_MS = 3_600_000


@dataclass
class Topic:
    next_offset: int = 0
    keys: dict[str, tuple[int, bytes, int]] = field(
        default_factory=dict
    )  # key → offset, print, end of its window
    groups: list[Queue] = field(default_factory=list)


class Topics(Flows):
    def __init__(self) -> None:
        super().__init__()
        self.topics: dict[str, Topic] = {}

    def do_PutTopic(self, c: Any) -> Any:
        self.topics.setdefault(c.name, Topic())
        return ("topic", c.name)

    def do_PutGroup(self: Any, c: Any) -> Any:
        if c.topic not in self.topics:
            raise Refused("topic_not_found")
        name = f"{c.topic}:{c.group}"
        self.check_revision(name, c.if_revision)
        config = {field: getattr(c.config, field) for field in CONFIG}
        config["backoff"] = plain_backoff(c.config.backoff)
        if name in self.queues:
            return self.configure(self.queues[name], config)
        queue = self.new_queue(name, config)
        self.topics[c.topic].groups.append(queue)
        return ("queue", name, True, queue.revision)

    def do_Publish(self, c: Any) -> Any:
        """("published", offsets, which of them are duplicates, group → messages of the others)."""
        topic = self.topics.get(c.topic)
        if topic is None:
            raise Refused("topic_not_found")
        offsets: list[int] = []
        new: list[tuple[int, Any]] = []
        firsts: dict[str, int] = {}
        for draft in c.drafts:
            offset, print = self.known_offset(topic, draft, firsts, new)
            if offset is None:
                offset = topic.next_offset + len(new)
                firsts[draft.key] = len(new)
                new.append((offset, draft))
            elif print != fingerprint(draft):
                raise Refused("idempotency_conflict")
            offsets.append(offset)
        for offset, draft in new:
            if draft.key is not None:
                window = WINDOW_MS if draft.key_window_ms is None else draft.key_window_ms
                topic.keys[draft.key] = (offset, fingerprint(draft), self.clock + window)
        topic.next_offset += len(new)
        made: dict[str, list[Message]] = {}
        for queue in topic.groups if new else ():
            made[queue.name.partition(":")[2]] = [
                self.create(queue, replace(draft, key=None), {}) for _, draft in new
            ]
        fresh = {offset for offset, _ in new}
        duplicates = [offset not in fresh or offset in offsets[:at] for at, offset in enumerate(offsets)]
        return ("published", offsets, duplicates, made)

    def known_offset(
        self, topic: Topic, draft: Any, firsts: dict[str, int], new: list[tuple[int, Any]]
    ) -> tuple[int | None, bytes]:
        if draft.key is None:
            return None, b""
        known = topic.keys.get(draft.key)
        if known is not None and known[2] > self.clock:
            return known[0], known[1]
        if draft.key in firsts:
            offset, first = new[firsts[draft.key]]
            return offset, fingerprint(first)
        return None, b""
