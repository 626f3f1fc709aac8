"""The bulk code beside the general code on logs of every command: effects, redrive, topics, caps, open walks.

`test_bulk.py` draws what is nearly plain; here is everything else that the same tables see.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests.long import pick
from tests.unit.machine.kit import Kit, derived, dump
from tests.unit.machine.test_bulk import OUT_OF_REACH, records
from tests.unit.machine.test_random_logs import QUEUES, Maker
from trivet.machine import bulk, expiry, intake, invariants, keys
from trivet.machine import commands as c
from trivet.machine.commands import Ack, AckItem, AckLeases, AckTokens, Command, Draft, Enqueue, Extras, Lease
from trivet.machine.effects import EntryEffects
from trivet.machine.ids import join_tokens
from trivet.machine.snapshotting import NOTHING_YET, Walk
from trivet.machine.state import LEASED, READY

SEEDS = range(int(pick("40", "400")))
STEPS = 120
KIND_MESSAGE = 2
PLACE_STATE, PLACE_DUE = 3, 9  # in a message's record


class Busy(Maker):
    """More of what the bulk code takes: keys of every window, results, acks in every form."""

    named = 0

    def draft(self) -> Draft:
        rng = self.rng
        if rng.random() < 0.35:
            return super().draft()
        self.named += 1
        name = f"z{self.named if rng.random() < 0.7 else rng.randrange(12)}"
        extras = (None, None, None, Extras(lease_ms=300), Extras(run_id="run"), Extras(retention_ms=50))
        return Draft(
            b"x" * rng.randint(0, 4),
            key=None if rng.random() < 0.3 else name,
            key_window_ms=rng.choice((None, 0, 1, 50, 400, 800)),
            extras=rng.choice(extras),
        )

    def config(self) -> c.QueueConfig:
        rng, drawn = self.rng, super().config()
        if rng.random() < 0.7:
            drawn = replace(drawn, max_messages=None, max_bytes=None, ttl_ms=None)
        kept = {"retention_ms": rng.choice((0, 50, 1000)), "result_retention_ms": rng.choice((0, 50, 2000))}
        return replace(drawn, **kept) if rng.random() < 0.5 else drawn

    def command(self) -> Command:
        rng, roll = self.rng, self.rng.random()
        if roll < 0.2:
            return Enqueue(rng.choice(QUEUES), tuple(self.draft() for _ in range(rng.randint(1, 8))), True)
        if roll < 0.35:
            some = tuple(rng.sample(QUEUES, rng.randint(1, 3)))
            return Lease(some, "w", rng.randint(1, 30), rng.choice((None, 600, 50)), 1 << 20)
        if roll < 0.55 and self.tokens:
            return self.ack()
        return super().command()

    def ack(self) -> Command:
        rng = self.rng
        taken: list[c.Token | None] = [*self.tokens[-30:][: rng.randint(1, 30)]]
        if rng.random() < 0.3:
            taken.append(rng.choice(taken))
        form = rng.random()
        if form < 0.3:
            return AckTokens(join_tokens(taken))
        if form < 0.5:
            return AckLeases(tuple(token.fence for token in taken if token is not None))
        if rng.random() < 0.3:
            taken.append(None)
            rng.shuffle(taken)
        results = (None, None, b"", b"1" * rng.randint(1, 900))
        effects = ((),) * 19 + ((c.EffectDone("e1"),),)
        return Ack(tuple(AckItem(token, rng.choice(results), rng.choice(effects)) for token in taken))

    def learn(self, kit: Kit, replies: list[Any]) -> None:
        super().learn(kit, replies)
        del self.tokens[:-60]


def comparable(record: tuple[int, bytes]) -> tuple[int, bytes]:
    """Without the instant at which a message that is ready or leased was due: see `bulk.enqueue`."""
    kind, data = record
    if kind != KIND_MESSAGE:
        return record
    fields = msgspec.msgpack.decode(data)
    if fields[PLACE_STATE] in (READY, LEASED):
        fields[PLACE_DUE] = 0
    return kind, msgspec.msgpack.encode(fields)


def contents(kit: Kit) -> dict[str, list[Any]]:
    found = dump(kit.m)
    for message in found["messages"]:
        if message.state in (READY, LEASED):
            message.due_at_ms = 0
    return found


def hints(found: EntryEffects) -> tuple[Any, ...]:
    return list(found.ready), list(found.finished), found.deleted, found.flows, list(found.runs)


@pytest.mark.parametrize("seed", SEEDS)
def test_all_commands_with_and_without_it(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "RETAINED_BYTES_MAX", 6000)
    for module in (bulk, intake, keys):
        monkeypatch.setattr(module, "KEYS_PER_QUEUE_MAX", 8 if seed % 2 else 100)
    author, kits = Busy(seed), (Kit(), Kit())
    walks: list[Walk] = []
    walked: tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]] = ([], [])
    for step in range(STEPS):
        passed = author.rng.choice((0, 0, 1, 50, 50, 400, 2500))
        if not walks and step % 11 == 3:
            walks, walked = [Walk(kit.m) for kit in kits], ([], [])
        for _ in range(author.rng.randint(0, 6)):
            for walk, found in zip(walks, walked, strict=False):
                if (item := walk.next()) is not None and item is not NOTHING_YET:
                    found.append(item)
        for kit in kits:
            kit.now += passed
        requests = author.requests(kits[0].now)
        answers = []
        for kit, fewest in zip(kits, (1, OUT_OF_REACH), strict=True):
            monkeypatch.setattr(bulk, "FEWEST", fewest)
            answers.append(kit.answers(*requests))
        assert answers[0] == answers[1], step
        quick, plain = kits
        assert quick.m.digest() == plain.m.digest() and hints(quick.hints) == hints(plain.hints), step
        assert quick.m.next_deadline_ms() == plain.m.next_deadline_ms(), step
        assert quick.m.retained_bytes == plain.m.retained_bytes, step
        author.learn(quick, [answer.reply for answer in answers[0]])
        if walks and step % 11 == 8:
            rest = [sorted(map(comparable, [*f, *records(w)])) for f, w in zip(walked, walks, strict=True)]
            assert rest[0] == rest[1], step
            for walk in walks:
                walk.close()
            walks = []
        if not walks and step % 4 == 0:
            assert contents(quick) == contents(plain) and derived(quick.m) == derived(plain.m), step
            assert invariants.check(quick.m) == [], step
