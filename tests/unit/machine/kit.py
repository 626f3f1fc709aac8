"""A machine with a clock to turn, and short ways to ask it things."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.tokens import token_of
from trivet.machine import topics
from trivet.machine.commands import (
    MACHINE_VERSION,
    Ack,
    AckItem,
    Command,
    Draft,
    Enqueue,
    Expire,
    Genesis,
    Lease,
    Nack,
    NackItem,
    PutQueue,
    QueueConfig,
    Release,
    Request,
    Token,
)
from trivet.machine.core import Machine
from trivet.machine.effects import EntryEffects
from trivet.machine.flow_record import FlowData
from trivet.machine.flows import load_flow
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
from trivet.machine.replies import Answer, Enqueued, Grant, Leased, Refusal, Reply, Settled, SettledAll
from trivet.machine.run_state import Run, RunData, RunEventData
from trivet.machine.runs import load_event, load_run
from trivet.machine.topic_records import TopicData, TopicEntryData, TopicKeyData

START_MS = 1_700_000_000_000
SECRET = b"0123456789abcdef0123456789abcdef"


class Kit:
    """One machine; each call is an entry of its own, at the kit's clock."""

    def __init__(self, machine: Machine | None = None, *, born: bool = True) -> None:
        self.m = Machine() if machine is None else machine
        self.now = START_MS
        self.hints = EntryEffects()
        if machine is None and born:
            self(Genesis("c1", SECRET, ("n1",)))

    def answers(self, *requests: Request) -> list[Answer]:
        """One entry."""
        self.m.begin_entry(self.m.applied_index + 1, self.now, MACHINE_VERSION)
        answers = [self.m.apply(request) for request in requests]
        self.hints = self.m.end_entry()
        return answers

    def ask(self, command: Command, request_id: str, fingerprint: bytes = b"f") -> Answer:
        return self.answers(Request(command, request_id, fingerprint))[0]

    def __call__(self, command: Command) -> Any:
        return self.answers(Request(command))[0].reply

    def pass_ms(self, ms: int, *, leases: bool = True) -> None:
        """Let time pass, and everything happen that is due."""
        self.now += ms
        while self(Expire(leases=leases)).more:
            pass

    def queue(self, name: str = "q", **config: Any) -> None:
        self(PutQueue(name, QueueConfig(**config)))

    def put(self, *drafts: Draft | str, queue: str = "q") -> list[int]:
        """Enqueue; a text is a JSON body. Answers the numbers."""
        made = tuple(Draft(f'"{draft}"'.encode()) if isinstance(draft, str) else draft for draft in drafts)
        reply = self(Enqueue(queue, made))
        assert isinstance(reply, Enqueued), reply
        return [one.message for one in reply.messages]

    def lease(self, most: int = 1, queue: str = "q", **more: Any) -> list[Grant]:
        reply = self(Lease((queue,), "w", most, **more))
        assert isinstance(reply, Leased), reply
        return list(reply.grants)

    def take(self, most: int = 100, queue: str = "q") -> list[int]:
        return [grant.message for grant in self.lease(most, queue)]

    def ack(self, *grants: Grant, **item: Any) -> list[Settled]:
        reply = self(Ack(tuple(AckItem(token(grant), **item) for grant in grants)))
        assert isinstance(reply, SettledAll)
        return list(reply.results)

    def nack(self, *grants: Grant, **item: Any) -> list[Settled]:
        reply = self(Nack(tuple(NackItem(token(grant), **item) for grant in grants)))
        assert isinstance(reply, SettledAll)
        return list(reply.results)

    def release(self, *grants: Grant) -> list[Settled]:
        reply = self(Release(tuple(token(grant) for grant in grants)))
        assert isinstance(reply, SettledAll)
        return list(reply.results)

    def counts(self, queue: str = "q") -> dict[str, int]:
        """The counts that are not zero."""
        from trivet.machine.state import STATE_NAMES

        counts = self.m.queues[queue].counts
        return {name: count for name, count in zip(STATE_NAMES, counts, strict=True) if count}

    def state(self, number: int) -> str | None:
        from trivet.machine.state import STATE_NAMES

        message = self.m.find(number)
        return None if message is None else STATE_NAMES[message.state]


def token(grant: Grant) -> Token:
    return token_of(grant, SECRET)


def code(reply: Reply) -> str:
    assert isinstance(reply, Refusal), reply
    return reply.code


def _again(data: Any, kind: Any) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(data), type=kind)


def dump(m: Machine) -> dict[str, list[Any]]:
    """Every persistent record as plain data."""
    queues = sorted(m.by_uid.values(), key=lambda queue: queue.uid)
    of_topics = [m.topics_by_number[number] for number in sorted(m.topics_by_number)]
    return {
        "header": [_again(m.header(), Header)],
        "queues": [_again(queue.to_data(), QueueData) for queue in queues],
        "topics": [_again(t.to_data(), TopicData) for t in of_topics],
        "topic entries": [
            _again(e.to_data(), TopicEntryData) for t in of_topics for e in t.entries.after(-1)
        ],
        "topic keys": [_again(r.to_data(), TopicKeyData) for t in of_topics for r in t.key_index.after(0)],
        "messages": [_again(m.messages[n].to_data(), MessageData) for n in sorted(m.messages)],
        "keys": [_again(r.to_data(), KeyData) for queue in queues for r in queue.key_index.after(0)],
        "effects": [_again(r.to_data(), EffectData) for r in m.effect_index.after(0)],
        "flows": [_again(r.to_data(), FlowData) for r in m.flow_index.after(0)],
        "sweeps": [
            _again(s.to_data(), SweepData) for table in (m.sweeps, m.resolving) for s in table.after(0)
        ],
        "replies": [_again(r, StoredReply) for r in m.replies],
        "settled": [
            _again(run, SettledRun) for chunk, start, end in m.settled.frozen() for run in chunk[start:end]
        ],
        "runs": [_again(run.to_data(), RunData) for run in m.run_index.after(0)],
        "run events": [_again(e.to_data(), RunEventData) for run in m.run_index.after(0) for e in run.events],
    }


def rebuild(dumped: dict[str, list[Any]]) -> Machine:
    """The same machine again."""
    m = Machine()
    m.load_header(dumped["header"][0])
    for data in dumped["topics"]:
        topics.load_topic(m, data)
    for data in reversed(dumped["topic keys"]):
        topics.load_key(m, data)
    for data in dumped["queues"]:
        m.load_queue(data)
    for data in dumped["flows"]:
        load_flow(m, data)
    for data in dumped["runs"]:
        load_run(m, data)
    for data in dumped["run events"]:
        load_event(m, data)
    for data in reversed(dumped["topic entries"]):
        topics.load_entry(m, data)
    # Keys before messages, messages backwards: the order of loading must not matter.
    for data in dumped["keys"]:
        m.load_key(data)
    for data in reversed(dumped["messages"]):
        m.load_message(data)
    for data in dumped["sweeps"]:
        m.load_sweep(data)
    for data in dumped["replies"]:
        m.load_reply(data)
    for data in dumped["settled"]:
        m.load_settled(data)
    for data in dumped["effects"]:
        m.load_effect(data)
    for queue in m.by_uid.values():
        after: int | None = 0
        while after is not None:
            after = m.load_keys(queue, after, 3)
    for topic in m.topics_by_number.values():
        topics.finish_load(m, topic)
    return m


def _numbers(run: Run) -> list[int]:
    return [message.number for message in run.messages.after(0)]


def derived(m: Machine) -> dict[str, Any]:
    """What is derived, in a form that can be compared."""

    def keys_of(heap: Any, slot: str) -> list[tuple[int, int]]:
        entries = dict.fromkeys(heap.entries())
        return sorted((key, record.number) for key, record in entries if getattr(record, slot) == key)

    def lives(heap: Any, slot: str) -> tuple[int, list[tuple[int, int]]]:
        return heap.live, keys_of(heap, slot)

    out: dict[str, Any] = {
        "deadlines": lives(m.deadlines, "wake_key"),
        "lease_deadlines": lives(m.lease_deadlines, "wake_key"),
        "retained": lives(m.retained, "end_key"),
        "retained_bytes": m.retained_bytes,
        "reply_bytes": m.reply_bytes,
        "leases": sorted((fence, message.number) for fence, message in m.leases.items()),
        "expired": sorted((fence, message.number) for fence, message in m.expired.items()),
        "dependents": {n: [x.number for x in index.after(0)] for n, index in sorted(m.dependents.items())},
        "dying": sorted(m.dying),
        "idle_runs": lives(m.idle_runs, "wake_key"),
        "run_bytes": m.run_bytes,
        "runs": {
            run.run_id: (run.bytes, run.event_ids, run.counts, run.replays, run.wake_key, list(_numbers(run)))
            for run in m.run_index.after(0)
        },
        "flows": [(f.number, f.left, f.size, f.wake_key, f.end_key) for f in m.flow_index.after(0)],
        "flow_steps": sorted((number, f.number, at) for number, (f, at) in m.flow_steps.items()),
        "topics": {
            t.number: (
                t.first_offset,
                t.bytes,
                t.wake_key,
                t.oldest_at_ms if t.entries.live and not t.deleted else 0,
                sorted(t.keys),
                [q.uid for q in t.groups],
            )
            for t in m.topics_by_number.values()
        },
        "catching_up": {uid: sweep.number for uid, sweep in sorted(m.catching_up.items())},
        "flow_work": [f.number for f in m.flow_work.after(0)],
    }
    for queue in m.by_uid.values():
        if queue.deleted:
            continue
        out[queue.name] = {
            "counts": queue.counts,
            "bytes": (queue.waiting_bytes, queue.ready_bytes, queue.leased_bytes),
            "ready": lives(queue.ready, "ready_key"),
            "ages": lives(queue.ages, "age_key"),
            "index": [x.number for x in queue.index.after(0)],
            "dead": [x.number for x in queue.dead.after(0)],
            "dead_order": lives(queue.dead_order, "end_key"),
            "busy": {name: group.leased for name, group in sorted(queue.busy.items())},
            "keys": sorted(queue.keys),
        }
    return out
