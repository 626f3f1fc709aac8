"""Random logs from a seed alone: the same in every process, whatever its hash seed."""

from __future__ import annotations

import random
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec.structs import replace

from tests.machine.harness import SECRET, START_MS, new_machine, run
from tests.tokens import token_of
from trivet.machine import commands as c
from trivet.machine.core import Machine
from trivet.machine.replies import EffectState, Leased
from trivet.machine.run_commands import NewRunEvent
from trivet.machine.snapshotting import NOTHING_YET, Walk, state_digest

Entry = tuple[int, tuple[c.Request, ...]]


def genesis() -> tuple[c.Request, ...]:
    return (c.Request(c.Genesis("cluster", SECRET, ("n1",))),)


class Author:
    """Writes a log by playing it on a machine, so that its tokens are real ones."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.machine: Machine = new_machine()
        self.now = START_MS
        self.tokens: list[c.Token] = []
        self.effect_tokens: list[c.Token] = []

    def write(self, entries: int) -> list[Entry]:
        log: list[Entry] = []
        for _ in range(entries):
            self.now += self.rng.choice((0, 0, 1, 10, 500, 40_000, 3_700_000))
            requests = tuple(self.request() for _ in range(self.rng.choice((1, 1, 2, 5))))
            log.append((self.now, requests))
            for answer in run(self.machine, self.now, *requests):
                if isinstance(answer.reply, Leased):
                    self.tokens += [token_of(grant, SECRET) for grant in answer.reply.grants]
                elif isinstance(answer.reply, EffectState) and answer.reply.fence is not None:
                    self.effect_tokens.append(c.Token(answer.reply.fence, answer.reply.mac or b""))
        return log

    def request(self) -> c.Request:
        makers = (
            *(self.enqueue,) * 6,
            *(self.lease,) * 5,
            *(self.ack,) * 3,
            *(self.nack,) * 2,
            *(self.expire,) * 3,
            self.effect,
            self.schedule,
            self.fire,
            self.end_effect,
            self.run_events,
            self.of_topics,
            self.publish,
            self.queue,
            self.flow,
            self.other,
        )
        command = self.rng.choice(makers)()
        request_id = self.rng.choice((None, None, f"r{self.rng.randrange(20)}"))
        fingerprint = blake2b(msgspec.msgpack.encode(command), digest_size=16).digest()
        return c.Request(command, request_id, fingerprint)

    def name(self) -> str:
        return self.rng.choice("abc")

    def number(self) -> int:
        return self.rng.randrange(1, self.machine.next_number + 1)

    def token(self) -> c.Token | None:
        return self.rng.choice(self.tokens[-8:]) if self.tokens and self.rng.random() < 0.9 else None

    def draft(self) -> c.Draft:
        rng = self.rng
        extras = None
        if rng.random() < 0.3:
            known = [n for n in (self.number(), self.number()) if self.machine.find(n) is not None]
            extras = c.Extras(
                run_id=rng.choice((None, "run")),
                max_attempts=rng.choice((None, 1)),
                depends_on=tuple(known[: rng.randrange(3)]),
                on_dependency_failure=rng.choice(("fail", "run")),
                retention_ms=rng.choice((None, 0, 10_000)),
            )
        return c.Draft(
            rng.randbytes(rng.choice((1, 5, 200))),
            c.CODEC_BYTES,
            headers=rng.choice((None, {"b": "1", "a": "2"})),
            priority=rng.choice((0, 0, 5, -5)),
            delay_ms=rng.choice((0, 0, 0, 10, 100_000)),
            ttl_ms=rng.choice((None, None, 10, 100_000)),
            group=rng.choice((None, None, "g", "h", "i")),
            key=rng.choice((None, None, f"k{rng.randrange(30)}")),
            extras=extras,
        )

    def enqueue(self) -> c.Command:
        return c.Enqueue(self.name(), tuple(self.draft() for _ in range(self.rng.choice((1, 2, 8)))))

    def lease(self) -> c.Command:
        names = tuple(dict.fromkeys((self.name(), self.name())))
        return c.Lease(
            tuple(name for name in names if name in self.machine.queues) or names,
            f"c{self.rng.randrange(3)}",
            self.rng.choice((1, 3, 10)),
            self.rng.choice((None, 10, 1000)),
        )

    def ack(self) -> c.Command:
        effects: tuple[c.EffectDone, ...] = ()
        if self.rng.random() < 0.3:
            effects = (c.EffectDone(f"e{self.rng.randrange(9)}", b"1"),)
        result = self.rng.choice((None, b"2"))
        items = tuple(c.AckItem(self.token(), result, effects) for _ in range(self.rng.choice((1, 3))))
        more = (c.EnqueueTo(self.name(), self.draft()),) if self.rng.random() < 0.2 else ()
        return c.Ack(items, more)

    def nack(self) -> c.Command:
        if self.rng.random() < 0.3:
            return c.Release((self.token(),))
        dead = self.rng.random() < 0.3
        return c.Nack((c.NackItem(self.token(), "why", self.rng.choice((None, 0, 50)), dead),))

    def expire(self) -> c.Command:
        return c.Expire(self.rng.choice((1, 2, 7, 1000)), self.rng.random() < 0.9)

    def flow(self) -> c.Command:
        rng = self.rng
        steps = []
        for at in range(rng.choice((1, 3, 9))):
            after = tuple(sorted({rng.randrange(at), rng.randrange(at)})) if at and rng.random() < 0.8 else ()
            undo = c.EnqueueTo(self.name(), c.Draft(b"undo", c.CODEC_BYTES)) if rng.random() < 0.3 else None
            draft = c.Draft(b"step", c.CODEC_BYTES, group=rng.choice((None, None, "g")))
            steps.append(c.FlowStepDraft(f"s{at}", self.name(), draft, after, undo))
        return c.CreateFlow(tuple(steps), tuple(range(len(steps))))

    def effect(self) -> c.Command:
        lease = self.token()
        bound = self.rng.random() < 0.6
        return c.EffectBegin(f"e{self.rng.randrange(9)}", "o", lease if bound else None, bound, 5000)

    def run_events(self) -> c.Command:
        some = range(self.rng.choice((1, 3, 40)))
        ids = (None, None, f"e{self.rng.randrange(50)}")
        return c.AppendRunEvents("run", tuple(NewRunEvent("t", b"[1]", self.rng.choice(ids)) for _ in some))

    def schedule(self) -> c.Command:
        rng, name = self.rng, self.rng.choice("st")
        told = {"cron": "* * * * *"} if rng.random() < 0.5 else {"every_ms": 1000}
        draft = c.Draft(rng.choice((b"1", b"22")), ttl_ms=rng.choice((None, 100)))
        spec = c.ScheduleSpec(self.name(), draft, overlap=rng.choice(("allow", "skip")), **told)  # type: ignore[arg-type]
        commands: tuple[c.Command, ...] = (
            c.PutSchedule(name, spec),
            c.PutSchedule(name, spec),
            c.PauseSchedule(name, rng.random() < 0.3),
            c.RunSchedule(name),
            c.DeleteSchedule(name),
        )
        return rng.choice(commands)

    def fire(self) -> c.Command:
        known = list(self.machine.schedules.by_name.values())
        if not known:
            return self.schedule()
        some = (self.rng.choice(known) for _ in range(self.rng.choice((1, 3))))
        return c.FireSchedules(
            tuple(
                c.Fire(
                    one.name,
                    one.revision,
                    self.now,
                    self.now + 1000,
                    self.rng.random() < 0.8,
                    self.rng.choice((0, 2)),
                    after_ms=one.decided_ms,
                )
                for one in some
            )
        )

    def end_effect(self) -> c.Command:
        token = self.rng.choice(self.effect_tokens[-5:]) if self.effect_tokens else None
        return c.EffectCommit(token, b"3") if self.rng.random() < 0.5 else c.EffectAbort(token)

    def queue(self) -> c.Command:
        rng = self.rng
        config = c.QueueConfig(
            lease_ms=1000,
            max_attempts=rng.choice((1, 3)),
            max_dead=rng.choice((1, 5, 100)),
            retention_ms=rng.choice((0, 0, 60_000)),
            max_messages=rng.choice((None, None, 30)),
            on_full=rng.choice(("reject", "dead_letter_oldest")),
            max_leased_per_group=rng.choice((1, 2)),
        )
        commands: tuple[c.Command, ...] = (
            c.PutQueue(self.name(), config),
            c.PutQueue(self.name(), config),
            c.PatchQueue(self.name(), {"ttl_ms": rng.choice((None, 20_000))}),
            c.PauseQueue(self.name(), None, rng.random() < 0.3),
            c.PurgeQueue(self.name()),
            c.PurgeDead(self.name()),
            c.DeleteQueue(self.name()),
        )
        return rng.choice(commands)

    def topic(self) -> str:
        return "t"

    def publish(self) -> c.Command:
        return c.Publish(self.topic(), tuple(self.published() for _ in range(self.rng.choice((1, 2, 4)))))

    def published(self) -> c.Draft:
        draft = self.draft()
        return draft if draft.extras is None else replace(draft, extras=replace(draft.extras, depends_on=()))

    def of_topics(self) -> c.Command:
        rng = self.rng
        topic, group = self.topic(), rng.choice("gh")
        name = f"{topic}:{group}"
        at_ms = self.now - rng.choice((0, 1000, 100_000))
        place = (*rng.choice(((None, 0), (None, 0), (None, 5), (at_ms, None))), rng.choice((1, 3, 1000)))
        config = c.QueueConfig(max_messages=rng.choice((None, None, 3)), max_dead=rng.choice((1, 9)))
        commands: tuple[c.Command, ...] = (
            *(c.PutTopic(topic, rng.choice((40_000, 10**7)), rng.choice((0, 4, 9, 100))),) * 3,
            *(c.PutGroup(topic, group, config, None, *place),) * 5,
            *(c.ReplayGroup(topic, group, *place),) * 4,
            *(c.Lease((name,), "w", rng.choice((1, 3))),) * 4,
            c.PatchQueue(name, {"max_bytes": rng.choice((None, 10))}),
            c.PauseQueue(name, rng.random() < 0.3, rng.random() < 0.2),
            rng.choice((c.PurgeQueue(name), c.PurgeDead(name), c.Redrive(name), c.Redrive(name, to="a"))),
            rng.choice((c.Redrive("a", to=name), c.Enqueue(name, (c.Draft(),)), c.DeleteQueue(name))),
            rng.choice((c.DeleteGroup(topic, group), c.DeleteTopic(topic))),
        )
        return rng.choice(commands)

    def other(self) -> c.Command:
        rng = self.rng
        commands: tuple[c.Command, ...] = (
            c.Cancel(self.number()),
            c.PatchMessage(self.number(), rng.choice((None, 3)), rng.choice((None, self.now + 50))),
            c.Progress(self.number(), self.token(), 50),
            c.Extend((c.ExtendItem(self.token(), 2000),)),
            c.Redrive(self.name(), to=rng.choice((None, self.name())), limit=rng.choice((1, 1000))),
            c.ReplayRun("run", limit=rng.choice((1, 1000))),
        )
        return rng.choice(commands)


def make(seed: int, entries: int) -> list[Entry]:
    return Author(seed).write(entries)


def digests(seed: int, entries: int) -> tuple[str, str, str]:
    """Of a log made and played here: chain, full state, and the bytes of a snapshot in their order."""
    author = Author(seed)
    author.write(entries)
    walk = Walk(author.machine)
    inorder: Any = blake2b(digest_size=16)
    while (item := walk.next()) is not None:
        if item is not NOTHING_YET:
            inorder.update(bytes((item[0],)) + item[1])
    walk.close()
    return author.machine.digest().hex(), state_digest(author.machine).hex(), inorder.hexdigest()
