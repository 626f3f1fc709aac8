"""The checker's quick model against the real machine, on random logs: every reply, every count.

(The machine and the dumb model of `tests/machine` are held against each other there.)
`TRIVET_LOG_SEEDS=first-last` plays other seeds.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from chaos.model import Model
from chaos.model.records import Message

from tests.long import pick
from tests.machine.harness import SECRET, START_MS, new_machine, plain, run
from tests.machine.logs import Author
from tests.machine.schedules_compared import numbers_of_schedules
from tests.tokens import as_proposed, token_of
from trivet.machine import commands as c
from trivet.machine import views
from trivet.machine.core import HANDLERS
from trivet.machine.replies import (
    Answer,
    Done,
    EffectState,
    Enqueued,
    FlowCreated,
    GroupSaved,
    Leased,
    Published,
    Reply,
    Settled,
    SettledAll,
    SlotsDecided,
    TopicSaved,
)

FIRST, LAST = map(int, os.environ.get("TRIVET_LOG_SEEDS", pick("0-19", "0-199")).split("-"))
STEPS = 200


def numbered(value: Any) -> Any:
    """A model's reply with the ids of its messages."""
    if isinstance(value, Message):
        return value.number
    if isinstance(value, tuple):
        return tuple(numbered(one) for one in value)
    if isinstance(value, dict):
        return {name: numbered(one) for name, one in value.items()}
    return [numbered(one) for one in value] if isinstance(value, list) else value


def told_by(reply: Reply) -> Any:
    """Of a flow the model does not know its id."""
    if isinstance(reply, Published):
        numbers = [list(each) for each in reply.numbers]
        duplicates = [at in reply.duplicates for at in range(len(reply.offsets))]
        return ("published", list(reply.offsets), duplicates, dict(zip(reply.groups, numbers, strict=True)))
    if isinstance(reply, TopicSaved):
        return ("topic", reply.name)
    if isinstance(reply, GroupSaved):
        return ("queue", reply.name, reply.created, reply.revision)
    if isinstance(reply, SlotsDecided):
        return ("slots", [end.status for end in reply.results])
    return ("flow", plain(reply)[3]) if isinstance(reply, FlowCreated) else plain(reply)


class Pair:
    def __init__(self) -> None:
        self.machine = new_machine()
        self.model = Model()
        self.model.begin_entry(START_MS)
        self.model.secret = SECRET
        self.numbers: list[int] = []
        self.compensations = {0}
        self.dues: dict[int, int] = {}
        self.model.name = lambda m, draft: self.model.bind(m, self.numbers.pop(0))
        self.model.due_hint = self.dues.get

    def do(self, now_ms: int, request: c.Request) -> Answer:
        last_number = self.machine.next_number - 1
        answer = run(self.machine, now_ms, request)[0]
        reply = answer.reply
        told = reply.messages if isinstance(reply, Enqueued) else ()
        if isinstance(reply, SettledAll):
            told = reply.messages or ()
            self.hint(request.command, reply.results)
        self.numbers = [] if answer.repeated else [one.message for one in told if not one.duplicate]
        if isinstance(reply, FlowCreated) and isinstance(request.command, c.CreateFlow):
            self.numbers = (
                [] if answer.repeated else [reply.steps[at].message for at in request.command.order]
            )
        if isinstance(reply, Published) and not answer.repeated:
            self.numbers = [number for numbers in reply.numbers for number in numbers]
        if not answer.repeated:
            self.numbers += numbers_of_schedules(reply, last_number) or []
        self.numbers += self.undone()
        self.model.begin_entry(now_ms)
        expected, repeated = self.model.apply(request)
        assert repeated == answer.repeated
        if not isinstance(request.command, c.Expire):
            assert numbered(expected) == told_by(reply), request
        assert not self.numbers
        self.compare()
        return answer

    def undone(self) -> list[int]:
        """Compensations that this command made: no answer tells them."""
        flows = self.machine.flow_index.after(0)
        new = {step.compensation for flow in flows for step in flow.steps} - self.compensations
        self.compensations |= new
        return sorted(new)

    def hint(self, command: c.Command, results: tuple[Settled, ...]) -> None:
        if isinstance(command, c.Nack):
            for item, one in zip(command.items, results, strict=True):
                if item.token is not None and one.deliver_at_ms is not None:
                    self.dues[item.token.fence] = one.deliver_at_ms

    def compare(self) -> None:
        machine, model = self.machine, self.model
        assert machine.clock_ms == model.clock
        assert sorted(machine.queues) == sorted(model.queues)
        for name, queue in model.queues.items():
            view = views.queue(machine, name)
            assert view is not None
            for state in ("ready", "delayed", "leased", "dead", "blocked"):
                assert view[state] == queue.counts[state], (name, state)
            assert view["bytes"] == queue.bytes
            assert view["revision"] == queue.revision
            assert queue.enqueued + queue.revived == queue.live + queue.ended + queue.vanished
        assert sorted(machine.schedules.by_name) == sorted(model.schedules)
        for name, one in model.schedules.items():
            found = machine.schedules.by_name[name]
            assert (found.fired, found.skipped, found.decided_ms) == (one.fired, one.skipped, one.decided)
            assert (found.next_slot_ms, found.paused, found.revision) == (one.next, one.paused, one.revision)
        for number in range(1, machine.next_number):
            shown, known = views.message(machine, number), model.find(number)
            assert (shown is None) == (known is None), number
            if shown is not None and known is not None:
                assert shown["state"] == known.state
                assert shown["attempt"] == known.attempt
                assert shown.get("dead_reason") == known.reason
        assert sorted(machine.effects_by_id) == sorted(model.effects)
        for effect_id, record in model.effects.items():
            view = views.effect(machine, effect_id)
            assert view is not None
            assert (view["state"], view["uncertain"]) == (record.state, record.uncertain)


class AsInDrills(Author):
    """Topics as drills use them: everything is kept, groups have no limits and are not replayed."""

    def of_topics(self) -> c.Command:
        group = self.rng.choice("gh")
        config = c.QueueConfig(lease_ms=1000, max_attempts=self.rng.choice((1, 3)))
        commands: tuple[c.Command, ...] = (
            c.PutTopic("t", 10**12, 10**7),
            c.PutGroup("t", group, config),
            c.PutGroup("t", group, config, self.rng.choice((None, 3))),
            c.Lease((f"t:{group}",), "w", 3),
            c.PatchQueue(f"t:{group}", {"ttl_ms": self.rng.choice((None, 20_000))}),
        )
        return self.rng.choice(commands)


NEVER_SAID = {c.DeleteTopic, c.DeleteGroup, c.ReplayGroup, c.ReplayRun}
"""No drill says these, so the model does not know them. It must know everything else that a log may hold."""


def test_the_model_knows_what_a_log_may_hold() -> None:
    known = {command for command in HANDLERS if hasattr(Model, "do_" + command.__name__)}
    assert known == set(HANDLERS) - NEVER_SAID


def play(seed: int) -> None:
    author, pair = AsInDrills(seed), Pair()
    author.machine = pair.machine
    for _ in range(STEPS):
        author.now += author.rng.choice((0, 0, 0, 1, 10, 500, 500, 40_000, 3_700_000))
        request = author.request()
        request = as_proposed(pair.machine, request)
        if type(request.command) in NEVER_SAID:
            continue
        if isinstance(request.command, c.Expire):
            for _ in range(20):  # until nothing is due: what a limit leaves over has its own test
                reply = pair.do(author.now, c.Request(c.Expire(1000, request.command.leases))).reply
                if isinstance(reply, Done) and not reply.more:
                    break
            continue
        reply = pair.do(author.now, request).reply
        if isinstance(reply, Leased):
            author.tokens += [token_of(grant, pair.machine.secret) for grant in reply.grants]
        elif isinstance(reply, EffectState) and reply.fence is not None:
            author.effect_tokens.append(c.Token(reply.fence, reply.mac or b""))


@pytest.mark.parametrize("seed", range(FIRST, LAST + 1))
def test_random_log(seed: int) -> None:
    play(seed)


def test_expiry_stops_at_the_same_message() -> None:
    """A limit that cuts through what is due (delays, leases, keys, effects) cuts at the same record."""
    pair = Pair()
    author = Author(1)
    author.machine = pair.machine
    now = START_MS
    for i in range(60):
        draft = c.Draft(b"%d" % i, delay_ms=100 + i % 7, key=f"k{i}" if i % 3 else None, key_window_ms=1)
        pair.do(now, c.Request(c.Enqueue("a", (draft,))))
        pair.do(now, c.Request(c.Enqueue("b", (c.Draft(b"%d" % i),))))
    leased = pair.do(now, c.Request(c.Lease(("b",), "w", 40, 103))).reply
    assert isinstance(leased, Leased)
    for grant in leased.grants[:9]:
        pair.do(now, c.Request(c.EffectBegin(f"e{grant.fence}", "o", None, False, 102)))
    for _ in range(60):
        now += 1
        pair.do(now, c.Request(c.Expire(3, now % 4 != 0)))
        pair.do(now, c.Request(c.Lease(("a", "b"), "x", 1, 5)))
