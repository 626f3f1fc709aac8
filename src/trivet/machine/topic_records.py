"""The records of topics (`state.py` says what a record is). A consumer group is a queue and has none of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from trivet.machine.commands import Draft
from trivet.machine.order import Index
from trivet.machine.tables import TextTable

if TYPE_CHECKING:
    from trivet.machine.state import Queue


class TopicEntry(Struct, eq=False, gc=False):
    """What was published at one offset. It never changes; the groups' messages share its draft."""

    topic: Topic
    offset: int
    draft: Draft
    at_ms: int
    mark: int
    size: int  # derived: bytes of body and headers

    def to_data(self) -> list[Any]:
        return [self.topic.number, self.offset, self.draft, self.at_ms]


class TopicKey(Struct, eq=False):
    """An idempotency key of a topic: for its window it stands for the entry that it came with first."""

    number: int
    topic: Topic
    key: str
    fingerprint: bytes
    offset: int
    expires_at_ms: int
    mark: int
    wake_key: int = 0  # derived

    def to_data(self) -> list[Any]:
        return [self.number, self.topic.number, self.key, self.fingerprint, self.offset, self.expires_at_ms]


class Topic(Struct, eq=False):
    """A topic, what it keeps and its consumer groups. Offsets are dense from 0, also those of what is kept."""

    number: int
    name: str
    retention_ms: int
    retention_messages: int
    next_offset: int
    mark: int
    deleted: bool = False
    # derived
    entries: Index[TopicEntry] = field(default_factory=Index)  # by offset
    bytes: int = 0
    oldest_at_ms: int = 0  # of the oldest entry, while there is one
    keys: TextTable[TopicKey] = field(default_factory=TextTable)
    key_index: Index[TopicKey] = field(default_factory=Index)  # the same, by number
    groups: list[Queue] = field(default_factory=list)  # by uid
    wake_key: int = 0

    @property
    def first_offset(self) -> int:
        """Of the oldest entry kept; without one, of the next."""
        return self.next_offset - self.entries.live

    def entry(self, offset: int) -> TopicEntry | None:
        """The entry, while it is kept."""
        found = self.entries.slice_after(offset - 1, 1)
        return found[0] if found and found[0].offset == offset else None

    def to_data(self) -> list[Any]:
        return [
            self.number,
            self.name,
            self.retention_ms,
            self.retention_messages,
            self.next_offset,
            self.deleted,
        ]


OfTopics = Topic | TopicEntry | TopicKey


class TopicData(Struct, array_like=True):
    """`Topic.to_data` as it comes back from a snapshot."""

    number: int
    name: str
    retention_ms: int
    retention_messages: int
    next_offset: int
    deleted: bool


class TopicEntryData(Struct, array_like=True, gc=False):
    topic: int
    offset: int
    draft: Draft
    at_ms: int


class TopicKeyData(Struct, array_like=True):
    number: int
    topic: int
    key: str
    fingerprint: bytes
    offset: int
    expires_at_ms: int
