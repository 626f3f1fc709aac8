"""Snapshots without a fork (R9): the walk that reads a machine in slices while it goes on changing, and
the builder that makes a machine of the records again.

Copy on write: at the open every record belongs to the snapshot and none has been written. A record about
to change or to go is written out first (`Walk.write_out`, called by `Machine.touch`); `mark` says that it
has been. Records born after the open carry the walk's mark from birth and are passed over. So the walk
gives each record exactly once, as it was at the open, in an order that depends on what happened meanwhile;
the full state digest is a sum and does not.

Nothing is listed whole: queues are at most 10,000, messages, keys, effects and sweeps are read from their
`Index` a few at a time by number, and the immutable records of stored replies and settled tokens keep their chunks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from hashlib import blake2b
from typing import Any, TypeVar

import msgspec

from trivet.machine import topics
from trivet.machine.core import Machine
from trivet.machine.effects import EntryEffects
from trivet.machine.flow_record import Flow, FlowData
from trivet.machine.flows import load_flow
from trivet.machine.loading import Loader
from trivet.machine.order import Index, Storage
from trivet.machine.persistent import (
    EffectData,
    Header,
    KeyData,
    MessageData,
    QueueData,
    SettledRun,
    StoredReply,
    SweepData,
)
from trivet.machine.run_state import Run, RunData, RunEvent, RunEventData
from trivet.machine.runs import load_event, load_run, run_id_of
from trivet.machine.schedules import Schedule, ScheduleData
from trivet.machine.state import (
    EffectRecord,
    KeyRecord,
    Message,
    Queue,
    Sweep,
)
from trivet.machine.topic_records import (
    OfTopics,
    Topic,
    TopicData,
    TopicEntry,
    TopicEntryData,
    TopicKey,
    TopicKeyData,
)

Record = Message | Queue | KeyRecord | EffectRecord | Sweep | Flow | Schedule | Run | RunEvent | OfTopics

HEADER, QUEUES, MESSAGES, KEYS, EFFECTS, SWEEPS, REPLIES, SETTLED = range(8)
RUNS, RUN_EVENTS, TOPICS, TOPIC_ENTRIES, TOPIC_KEYS, SCHEDULES, FLOWS = range(8, 15)
TABLE_NAMES = (
    *("header", "queues", "messages", "keys", "effects", "sweeps", "replies", "settled"),
    *("runs", "run events", "topics", "topic entries", "topic keys", "schedules", "flows"),
)

TABLES: dict[type[Record], int] = {
    Queue: QUEUES,
    Message: MESSAGES,
    KeyRecord: KEYS,
    EffectRecord: EFFECTS,
    Flow: FLOWS,
    Topic: TOPICS,
    TopicEntry: TOPIC_ENTRIES,
    TopicKey: TOPIC_KEYS,
    Schedule: SCHEDULES,
    Sweep: SWEEPS,
    Run: RUNS,
    RunEvent: RUN_EVENTS,
}

DIGEST_MODULUS = 1 << 128
_SLICE = 64  # records taken from an index at once
_FREED_AT_ONCE = 64

NOTHING_YET = (-1, b"")
"""What `Walk.next` answers when it has only passed over records: there may be more, look at the clock."""

_R = TypeVar("_R", Message, KeyRecord, EffectRecord, Sweep, Flow, TopicKey)


_EMPTY = tuple(blake2b(digest_size=16, salt=bytes((table,))) for table in range(256))
"""Of each table; taking in the parameters is a third of the work, and a copy has it done."""


def record_digest(table: int, data: bytes) -> int:
    """One record's part of the full state digest (R11), which is their sum modulo 2^128."""
    made = _EMPTY[table].copy()
    made.update(data)
    return int.from_bytes(made.digest(), "little")


def state_digest(machine: Machine) -> bytes:
    """The full state digest in one go: for tests and tools, not for a node at work."""
    walk = Walk(machine)
    total = 0
    while (item := walk.next()) is not None:
        if item is not NOTHING_YET:
            total += record_digest(*item)
    walk.close()
    return (total % DIGEST_MODULUS).to_bytes(16, "little")


class Walk:
    """Reads a machine as it was at the open. One at a time; close it when done or given up.

    `index`: the entry whose state this is; `chain_digest`: R11's chain there.
    """

    def __init__(self, machine: Machine) -> None:
        if machine.walk is not None:
            raise RuntimeError("a snapshot walk is open already")
        self.index = machine.applied_index
        self.chain_digest = machine.digest()
        self._machine = machine
        self._encode = msgspec.msgpack.Encoder().encode
        self._early: deque[tuple[int, bytes]] = deque()  # written out ahead of the walk's turn
        self._queues = [*machine.queues.values(), *machine.dying.values()]
        self._schedules = list(machine.schedules.by_name.values())
        self._topics = [(topic, topic.next_offset) for topic in machine.topics_by_number.values()]
        self._upto = machine.next_number  # what has a higher number was born later
        self._fifos = ((REPLIES, machine.replies.chunks()), (SETTLED, machine.settled.frozen()))
        self._early.append((HEADER, self._encode(machine.header())))
        machine.walk_count += 1
        machine.walk_mark = self._mark = machine.walk_count
        machine.walk = self
        self._rest = self._records()

    def next(self) -> tuple[int, bytes] | None:
        """(table, msgpack of the record), or None after the last. Bounded work, whatever the sizes."""
        if self._early:
            return self._early.popleft()
        return next(self._rest, None)

    def close(self) -> None:
        """The machine is free of the walk; a second close does nothing."""
        if self._machine.walk is self:
            self._machine.walk = None
            self._machine.walk_mark = 0
        self._rest.close()
        self._early.clear()

    def write_out(self, record: Record) -> None:
        """`record` is about to change: keep it as it was at the open, unless it is written already.

        What is rebuilt into something goes after it: messages and keys after their queue, groups, entries and keys
        after their topic, messages and events after their run.
        """
        if record.mark == self._mark:
            return
        if isinstance(record, Message | KeyRecord):
            self.write_out(record.queue)
        elif isinstance(record, TopicEntry | TopicKey | Queue) and record.topic is not None:
            self.write_out(record.topic)
        if isinstance(record, Message) and (run_id := run_id_of(record)) is not None:
            self.write_out(self._machine.runs[run_id])
        elif isinstance(record, RunEvent):
            self.write_out(record.run)
        record.mark = self._mark
        self._early.append((TABLES[type(record)], self._encode(record.to_data())))

    def _records(self) -> Generator[tuple[int, bytes], None, None]:
        for topic, _ in self._topics:
            if topic.mark != self._mark:
                topic.mark = self._mark
                yield TOPICS, self._encode(topic.to_data())
        for queue in self._queues:
            if queue.mark != self._mark:
                queue.mark = self._mark
                yield QUEUES, self._encode(queue.to_data())
        yield from self._indexed(SWEEPS, self._machine.sweeps)
        yield from self._indexed(SWEEPS, self._machine.resolving)
        yield from self._runs()
        yield from self._topic_entries()
        for queue in self._queues:
            yield from self._indexed(MESSAGES, queue.index)
            yield from self._indexed(KEYS, queue.key_index)
        yield from self._indexed(EFFECTS, self._machine.effect_index)
        yield from self._indexed(FLOWS, self._machine.flow_index)
        for schedule in self._schedules:
            if schedule.mark != self._mark:
                schedule.mark = self._mark
                yield SCHEDULES, self._encode(schedule.to_data())
        for table, chunks in self._fifos:
            for chunk, start, end in chunks:
                for at in range(start, end):
                    yield table, self._encode(chunk[at])

    def _topic_entries(self) -> Generator[tuple[int, bytes], None, None]:
        """Before the messages, which come back sharing their drafts."""
        for topic, end in self._topics:
            last = -1
            while last + 1 < end and (entries := topic.entries.slice_after(last, _SLICE)):
                for entry in entries:
                    if entry.mark != self._mark:
                        entry.mark = self._mark
                        yield TOPIC_ENTRIES, self._encode(entry.to_data())
                last = entries[-1].offset
                yield NOTHING_YET
            yield from self._indexed(TOPIC_KEYS, topic.key_index)

    def _runs(self) -> Generator[tuple[int, bytes], None, None]:
        """Runs, each with its events behind it; those come back in their order."""
        last = 0
        while runs := self._machine.run_index.slice_after(last, _SLICE):
            for run in runs:
                if run.mark != self._mark:
                    run.mark = self._mark
                    yield RUNS, self._encode(run.to_data())
                done, end = 0, run.next_id - 1
                while done < end and (events := run.events_after(done, _SLICE)):
                    for event in events:
                        if event.mark != self._mark:
                            event.mark = self._mark
                            yield RUN_EVENTS, self._encode(event.to_data())
                    done = events[-1].id
                    yield NOTHING_YET
            last = runs[-1].number
            if last >= self._upto:
                return
            yield NOTHING_YET

    def _indexed(self, table: int, index: Index[_R]) -> Generator[tuple[int, bytes], None, None]:
        """The records of an index that were there at the open and are not written out.

        Whoever left the index meanwhile, or came into it from another queue's, was written out when it did.
        """
        last = 0
        while records := index.slice_after(last, _SLICE):
            for record in records:
                if record.mark != self._mark:
                    record.mark = self._mark
                    yield table, self._encode(record.to_data())
            last = records[-1].number
            if last >= self._upto:
                return
            yield NOTHING_YET


class Builder:
    """Makes a machine of the records of a walk, in the order the walk gave them.

    `add` and `finish` raise `ValueError` for records that make no machine.
    """

    def __init__(self) -> None:
        self._machine: Machine | None = None
        self._messages: Loader | None = None
        self._unarmed: list[Queue] | None = None  # queues whose keys are not armed yet
        self._armed = 0  # the last key armed in the last of them
        self._topics: list[Topic] = []  # whose retention is not armed yet

    def add(self, table: int, record: bytes) -> None:
        """Take one record."""
        try:
            if table == MESSAGES and self._messages is not None:
                self._messages.add(_MESSAGE.decode(record))
                return
            if table == HEADER:
                if self._machine is not None:
                    raise ValueError("a second header record")
                self._machine = Machine()
                self._machine.load_header(_DECODERS[HEADER].decode(record))
                self._messages = Loader(self._machine)
                return
            if self._machine is None or self._messages is None:
                raise ValueError("records before the header record")
            self._messages.flush()
            if table not in _LOADERS:
                raise ValueError(f"unknown table {table}")
            _LOADERS[table](self._machine, _DECODERS[table].decode(record))
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
            name = TABLE_NAMES[table] if table < len(TABLE_NAMES) else str(table)
            raise ValueError(f"a record of {name} cannot be read: {error!r}") from error

    def finish(self) -> Machine:
        """The machine, with all that is derived. Call `arm_some` until it is True before."""
        while not self.arm_some():
            pass
        machine = self._need()
        machine.hints = EntryEffects()
        return machine

    def arm_some(self) -> bool:
        """A bounded piece of what can be done only when all records are here; True when there is no more."""
        machine = self._need()
        assert self._messages is not None  # it came with the header
        self._messages.flush()
        if self._unarmed is None:
            self._unarmed = list(machine.by_uid.values())
            self._topics = list(machine.topics_by_number.values())
        for topic in self._topics[-_SLICE:]:
            topics.finish_load(machine, topic)
        del self._topics[-_SLICE:]
        if self._unarmed:
            reached = machine.load_keys(self._unarmed[-1], self._armed, _SLICE)
            self._armed = reached or 0
            if reached is None:
                self._unarmed.pop()
        return not self._unarmed and not self._topics

    def _need(self) -> Machine:
        if self._machine is None:
            raise ValueError("no header record")
        return self._machine


def dismantle(machine: Machine) -> Generator[None, None, None]:
    """Take apart a machine that nobody uses any more, a small piece at a time: freeing a million records in
    one go would hold the loop for a second. Afterwards it is empty, and free of reference cycles."""
    queues = list(machine.by_uid.values())
    for queue in queues:
        yield from _free(queue.index.take_storage())
        yield from _free(queue.dead.take_storage())
        yield from _free(queue.key_index.take_storage())
        for heap in (queue.ready, queue.ages, queue.dead_order):
            yield from _free(heap.take_storage())
        for group_shard in queue.groups.take_storage():
            for group in group_shard.values():
                group.offered = None
                yield from _free(group.waiting.take_storage())
        queue.busy.clear()
        yield from _free(queue.keys.take_storage())
        queue.topic = None
    for topic in machine.topics_by_number.values():
        topic.groups.clear()
        for parts in (topic.entries, topic.keys, topic.key_index):
            yield from _free(parts.take_storage())
    for records in (machine.topics, machine.topics_by_number, machine.catching_up):
        yield from _free([records])
    machine.queues.clear()
    machine.dying.clear()
    machine.by_uid.clear()
    for deadlines in (machine.deadlines, machine.lease_deadlines):
        yield from _free(deadlines.take_storage())
    yield from _free((machine.schedules.by_name, *machine.schedules.due.take_storage()))
    yield from _free(machine.retained.take_storage())
    yield from _free(machine.effect_index.take_storage())
    yield from _free(machine.dependents.take_storage())
    for run in machine.run_index.after(0):
        run.event_ids.clear()
        yield from _free([run.events, *run.messages.take_storage()])
    yield from _free(machine.runs.take_storage())
    yield from _free(machine.run_index.take_storage())
    yield from _free(machine.idle_runs.take_storage())
    for flows in (machine.flow_index, machine.flow_work, machine.flow_steps):
        yield from _free(flows.take_storage())
    yield from _free(machine.effects_by_id.take_storage())
    yield from _free(machine.effect_fences.take_storage())
    yield from _free(machine.leases.take_storage())
    yield from _free(machine.expired.take_storage())
    yield from _free(machine.messages.take_storage())
    yield from _free(machine.replies.take_storage())
    yield from _free(machine.settled.take_storage())


def _free(containers: Sequence[Storage | dict[Any, Any]]) -> Generator[None, None, None]:
    for container in containers:
        while container:
            if isinstance(container, dict):
                for _ in range(min(len(container), _FREED_AT_ONCE)):
                    container.popitem()
            elif isinstance(container, deque):
                for _ in range(min(len(container), _FREED_AT_ONCE)):
                    container.pop()
            else:
                del container[-_FREED_AT_ONCE:]
            yield


_MESSAGE = msgspec.msgpack.Decoder(MessageData)
_DECODERS: dict[int, msgspec.msgpack.Decoder[Any]] = {
    HEADER: msgspec.msgpack.Decoder(Header),
    QUEUES: msgspec.msgpack.Decoder(QueueData),
    KEYS: msgspec.msgpack.Decoder(KeyData),
    EFFECTS: msgspec.msgpack.Decoder(EffectData),
    FLOWS: msgspec.msgpack.Decoder(FlowData),
    TOPICS: msgspec.msgpack.Decoder(TopicData),
    TOPIC_ENTRIES: msgspec.msgpack.Decoder(TopicEntryData),
    TOPIC_KEYS: msgspec.msgpack.Decoder(TopicKeyData),
    SCHEDULES: msgspec.msgpack.Decoder(ScheduleData),
    RUNS: msgspec.msgpack.Decoder(RunData),
    RUN_EVENTS: msgspec.msgpack.Decoder(RunEventData),
    SWEEPS: msgspec.msgpack.Decoder(SweepData),
    REPLIES: msgspec.msgpack.Decoder(StoredReply),
    SETTLED: msgspec.msgpack.Decoder(SettledRun),
}

_LOADERS: dict[int, Callable[[Machine, Any], None]] = {
    QUEUES: Machine.load_queue,
    KEYS: Machine.load_key,
    EFFECTS: Machine.load_effect,
    FLOWS: load_flow,
    TOPICS: topics.load_topic,
    TOPIC_ENTRIES: topics.load_entry,
    TOPIC_KEYS: topics.load_key,
    SCHEDULES: lambda machine, data: machine.schedules.load(data),
    RUNS: load_run,
    RUN_EVENTS: load_event,
    SWEEPS: Machine.load_sweep,
    REPLIES: Machine.load_reply,
    SETTLED: Machine.load_settled,
}
