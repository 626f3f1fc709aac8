"""Random logs: what is derived equals what a rebuild derives, a refusal changes nothing, and a machine
rebuilt anywhere in the log goes on exactly as the one it was taken from (design 2, laws 2 and 6)."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest

from tests.unit.machine.kit import Kit, derived, dump, rebuild, token
from trivet.machine import commands as c
from trivet.machine.commands import Command, Draft, Extras, Request, Token
from trivet.machine.core import Machine
from trivet.machine.replies import EffectState, Leased, Refusal
from trivet.machine.run_commands import NewRunEvent
from trivet.machine.run_state import RunEvent
from trivet.machine.state import KeyRecord, Queue
from trivet.machine.topic_records import TopicEntry

QUEUES = ("a", "b", "c")


class Maker:
    """Commands that often make sense, from a seed; it only looks at replies."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.numbers: list[int] = []
        self.tokens: list[Token] = []
        self.effect_tokens: list[Token] = []
        self.topical = 0 if seed % 3 else 0.7

    def draft(self) -> Draft:
        rng = self.rng
        extras = None
        if rng.random() < 0.3:
            known = tuple(rng.choice(self.numbers) for _ in range(rng.randint(0, 2))) if self.numbers else ()
            extras = Extras(
                run_id=rng.choice((None, None, "run")),
                step_id=rng.choice((None, "s")),
                depends_on=known,
                on_dependency_failure=rng.choice(("fail", "run")),
                max_attempts=rng.choice((None, 1)),
                retention_ms=rng.choice((None, 0, 5000)),
                lease_ms=rng.choice((None, 700)),
            )
        return Draft(
            body=rng.choice((b"1", b"22", b"333")),
            priority=rng.choice((0, 0, 0, 5, -5)),
            delay_ms=rng.choice((0, 0, 0, 300, 2000)),
            ttl_ms=rng.choice((None, None, 1500, 4000)),
            group=rng.choice((None, None, "g", "h")),
            key=rng.choice((None, None, "k1", "k2", "k3")),
            key_window_ms=rng.choice((None, 0, 800)),
            extras=extras,
        )

    def config(self) -> c.QueueConfig:
        rng = self.rng
        return c.QueueConfig(
            lease_ms=rng.choice((500, 3000)),
            max_attempts=rng.choice((0, 1, 2)),
            ttl_ms=rng.choice((None, None, 3000)),
            dead_retention_ms=rng.choice((1000, 100_000)),
            max_dead=rng.choice((0, 2, 100)),
            idempotency_window_ms=rng.choice((0, 2000)),
            retention_ms=rng.choice((0, 1000)),
            result_retention_ms=rng.choice((0, 2000)),
            max_messages=rng.choice((None, None, 4, 12)),
            max_bytes=rng.choice((None, None, 10)),
            on_full=rng.choice(("reject", "dead_letter_oldest")),
            max_leased=rng.choice((None, None, 2)),
            max_leased_per_group=rng.choice((1, 1, 2)),
        )

    def token(self) -> Token | None:
        if not self.tokens or self.rng.random() < 0.05:
            return self.rng.choice((None, Token(7, b"x" * 16)))
        return self.rng.choice(self.tokens[-12:])

    def command(self) -> Command:
        rng = self.rng
        name = rng.choice(QUEUES)
        number = rng.choice(self.numbers) if self.numbers else 1
        effect = rng.choice(("e1", "e2", "e3"))
        items = rng.randint(1, 3)
        if rng.random() < self.topical:
            return self.of_topics()
        roll = rng.random()
        if roll < 0.25:
            return c.Enqueue(name, tuple(self.draft() for _ in range(items)), rng.random() < 0.9)
        if roll < 0.45:
            queues = tuple(rng.sample(QUEUES, rng.randint(1, 2)))
            return c.Lease(queues, "w", rng.randint(1, 4), rng.choice((None, 600)), rng.choice((1 << 20, 3)))
        if roll < 0.60:
            done = (c.EffectDone(effect, b"1", rng.choice((None, *self.effect_tokens[-2:]))),)
            acks = tuple(
                c.AckItem(self.token(), rng.choice((None, b"1")), rng.choice(((), (), done)))
                for _ in range(items)
            )
            to = tuple(c.EnqueueTo(rng.choice(QUEUES), self.draft()) for _ in range(rng.choice((0, 0, 1, 2))))
            return c.Ack(acks, to, rng.random() < 0.9)
        if roll < 0.68:
            return c.Nack(
                tuple(
                    c.NackItem(self.token(), "no", rng.choice((None, 0, 500)), rng.random() < 0.2)
                    for _ in range(items)
                )
            )
        if roll < 0.80:
            return c.Expire(rng.choice((1, 3, 1000)), rng.random() < 0.8)
        rare: list[Command] = [
            c.Extend((c.ExtendItem(self.token(), rng.choice((None, 400))),)),
            c.Release((self.token(), self.token())),
            c.Progress(number, self.token(), 50, "half"),
            c.Cancel(number),
            c.PatchMessage(number, rng.choice((None, 3)), rng.choice((None, 0, self.soon()))),
            c.Redrive(name, None, None, rng.choice((1, 100)), rng.choice((None, *QUEUES))),
            c.Redrive(name, (number, number + 1), rng.choice((None, "expired")), 100),
            c.PurgeDead(name),
            c.PurgeQueue(name),
            c.DeleteQueue(name),
            c.PauseQueue(
                name, rng.choice((None, False, False, True)), rng.choice((None, False, False, True))
            ),
            c.PutQueue(name, self.config()),
            c.PutQueue(name, self.config(), rng.choice((None, 1))),
            c.PatchQueue(name, rng.choice(({"max_dead": 1}, {"max_leased_per_group": 2}, {"nope": 1}))),
            c.AppendRunEvents("run", (NewRunEvent("t", b"1"), NewRunEvent("u", b"2", f"i{number % 5}"))),
            c.ReplayRun(rng.choice(("run", "run", "x")), rng.choice((None, "s")), rng.choice((1, 100))),
            c.EffectBegin(effect, "o", self.token(), True),
            c.EffectBegin(effect, "o", None, False, rng.choice((None, 900))),
            c.EffectCommit(rng.choice((None, *self.effect_tokens[-3:])), b"2"),
            c.EffectAbort(rng.choice((None, *self.effect_tokens[-3:]))),
        ]
        return rng.choice(rare)

    def of_topics(self) -> Command:
        rng = self.rng
        topic, group = rng.choice("ttu"), rng.choice("ab")
        name = f"{topic}:{group}"
        place = (
            *rng.choice(((None, 0), (None, 0), (None, 3), (self.soon(), None))),
            2,
        )  # it catches up slowly
        choices: list[Command] = [
            *(c.Publish(topic, tuple(self.draft() for _ in range(rng.randint(1, 3)))) for _ in range(5)),
            *(c.Lease((name,), "w", rng.randint(1, 4)) for _ in range(3)),
            c.PutTopic(topic, rng.choice((0, 3000, 100_000)), rng.choice((0, 5, 100))),
            c.PutGroup(
                topic, group, self.config(), rng.choice((None, None, 1)), *rng.choice(((None, None), place))
            ),
            c.PutGroup(topic, group, self.config(), None, *place),
            c.ReplayGroup(topic, group, *place),
            c.ReplayGroup(topic, group, *place),
            c.Redrive(name, to=rng.choice((None, "a"))),
            c.PurgeQueue(name),
            c.PatchQueue(name, {"max_messages": rng.choice((None, 2))}),
            rng.choice((c.DeleteGroup(topic, group), c.DeleteQueue(name))),
            rng.choice((c.DeleteTopic(topic), c.Enqueue(name, (self.draft(),)))),
        ]
        return rng.choice(choices)

    def soon(self) -> int:
        return self.now + self.rng.choice((-100, 700))

    now = 0

    def requests(self, now: int) -> list[Request]:
        self.now = now
        made: list[Request] = []
        for _ in range(self.rng.choice((1, 1, 2, 4))):
            request_id = self.rng.choice((None, None, "r1", "r2", "r3", *(None,) * int(10 * self.topical)))
            made.append(Request(self.command(), request_id, self.rng.choice((b"f", b"f", b"g"))))
        return made

    def learn(self, kit: Kit, replies: list[Any]) -> None:
        for reply in replies:
            if isinstance(reply, Leased):
                self.tokens += [token(grant) for grant in reply.grants]
            elif isinstance(reply, EffectState) and reply.fence and reply.mac:
                self.effect_tokens.append(Token(reply.fence, reply.mac))
            elif hasattr(reply, "messages") and reply.messages:
                self.numbers += [one.message for one in reply.messages]
        del self.numbers[:-25]


class FakeWalk:
    """Takes records out as a walk does, and keeps what it was given."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        self.taken: dict[tuple[str, Any], Any] = {}
        m.walk_count += 1
        m.walk_mark = m.walk_count
        m.walk = self

    def write_out(self, record: Any) -> None:
        record.mark = self.m.walk_mark
        name = record.queue.uid if isinstance(record, KeyRecord) else 0
        if isinstance(record, TopicEntry):
            name, number = record.topic.number, record.offset
        elif isinstance(record, RunEvent):
            name, number = record.run.number, record.id
        else:
            number = record.uid if isinstance(record, Queue) else record.number
        self.taken[(type(record).__name__, name, number)] = msgspec.msgpack.encode(record.to_data())

    def records(self) -> list[Any]:
        m = self.m
        found: list[Any] = [*m.by_uid.values(), *m.messages.values()]
        found += [record for queue in m.by_uid.values() for record in queue.key_index.after(0)]
        topics = m.topics_by_number.values()
        found += [*topics, *(each for t in topics for each in (*t.entries.after(-1), *t.key_index.after(0)))]
        found += [*m.run_index.after(0), *(event for run in m.run_index.after(0) for event in run.events)]
        return [*found, *m.effect_index.after(0), *m.sweeps.after(0), *m.resolving.after(0)]

    def close(self) -> None:
        self.m.walk = None
        self.m.walk_mark = 0


def _same(one: Machine, two: Machine) -> None:
    left, right = dump(one), dump(two)
    for table in left:
        assert left[table] == right[table], table
    a, b = derived(one), derived(two)
    for part in a:
        assert a[part] == b[part], part


@pytest.mark.parametrize("seed", range(20))
def test_law6_a_machine_rebuilt_anywhere_goes_on_alike(seed: int) -> None:
    kit, maker = Kit(), Maker(seed)
    twin: Kit | None = None
    for step in range(250):
        kit.now += maker.rng.choice((0, 0, 1, 50, 400, 2500))
        requests = maker.requests(kit.now)
        answers = kit.answers(*requests)
        maker.learn(kit, [answer.reply for answer in answers])
        if twin is not None:
            twin.now = kit.now
            assert twin.answers(*requests) == answers, (step, requests)
            assert twin.m.digest() == kit.m.digest()
        if step % 25 == 0:
            fresh = rebuild(dump(kit.m))
            _same(kit.m, fresh)
            if twin is None or step % 50 == 0:
                twin = Kit(fresh)
    assert twin is not None
    _same(kit.m, twin.m)


@pytest.mark.parametrize("seed", range(100, 108))
def test_law2_a_refused_command_leaves_everything_equal(seed: int) -> None:
    kit, maker = Kit(), Maker(seed)
    refused = 0
    for _ in range(300):
        kit.now += maker.rng.choice((0, 0, 50, 1000))
        maker.now = kit.now
        command = maker.command()
        kit.answers()  # the clock moves with any entry
        before, around = dump(kit.m), derived(kit.m)
        reply = kit(command)
        maker.learn(kit, [reply])
        if isinstance(reply, Refusal):
            refused += 1
            after = dump(kit.m)
            after["header"][0].applied_index -= 1
            after["header"][0].chain = before["header"][0].chain
            assert after == before, command
            assert derived(kit.m) == around, command
    assert refused > 10


@pytest.mark.parametrize("seed", range(200, 215))
def test_r9_every_record_is_touched_before_it_changes(seed: int) -> None:
    kit, maker = Kit(), Maker(seed)
    for _ in range(12):
        for walking in (False, True):
            before: dict[int, tuple[Any, bytes]] = {}
            walk = None
            if walking:
                walk = FakeWalk(kit.m)
                before = {id(r): (r, msgspec.msgpack.encode(r.to_data())) for r in walk.records()}
            for _ in range(12):
                kit.now += maker.rng.choice((0, 1, 50, 400, 2500))
                answers = kit.answers(*maker.requests(kit.now))
                maker.learn(kit, [answer.reply for answer in answers])
            if walk is None:
                continue
            there = {id(record) for record in walk.records()}
            for record in walk.records():
                assert id(record) in before or record.mark == kit.m.walk_mark, "a new record is born unmarked"
            taken = list(walk.taken.values())
            for record, data in before.values():
                if record.mark == kit.m.walk_mark:
                    assert data in taken, "written out after its first change"
                else:
                    assert id(record) in there, "gone without a touch"
                    assert msgspec.msgpack.encode(record.to_data()) == data, "changed without a touch"
            assert len(taken) <= len(before)
            walk.close()
