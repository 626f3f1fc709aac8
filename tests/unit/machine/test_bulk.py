"""The bulk code (`machine.bulk`) is the general code, only quicker: the same random logs with and without it."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from msgspec.structs import replace

from tests.long import pick
from tests.tokens import as_proposed, token_of
from tests.unit.machine.kit import Kit, derived, token
from trivet.machine import bulk, invariants, settle
from trivet.machine import commands as c
from trivet.machine.commands import Ack, AckItem, Draft, Enqueue, Extras, Lease, Request, Token
from trivet.machine.core import Machine
from trivet.machine.ids import join_tokens
from trivet.machine.replies import Leased, SettledAll
from trivet.machine.snapshotting import NOTHING_YET, Walk, state_digest
from trivet.machine.state import READY, Message
from trivet.machine.tables import NumberTable

SEEDS = range(int(pick("8", "200")))
OUT_OF_REACH = 1 << 30
QUEUES = ("a", "b")


class Author:
    """Batches, most of them plain, some with one message that is not."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.tokens: list[Token] = []
        self.named = 0

    def draft(self, odd: bool) -> Draft:
        rng = self.rng
        if not odd:
            return Draft(b"1" * rng.randint(1, 3), headers=rng.choice((None, None, {"h": "v"})))
        return Draft(
            body=b"22",
            priority=rng.choice((0, 3)),
            delay_ms=rng.choice((0, 400)),
            ttl_ms=rng.choice((None, 900)),
            group=rng.choice((None, "g")),
            key=rng.choice((None, None, f"k{rng.randrange(30)}")),
            extras=rng.choice(
                (
                    None,
                    Extras(lease_ms=rng.choice((300, 4000))),
                    Extras(run_id="run"),
                    Extras(retention_ms=5000),
                    Extras(depends_on=(rng.randrange(1, 60),)),
                )
            ),
        )

    def with_key(self, draft: Draft) -> Draft:
        """Mostly one never seen, and some that are over when their message ends."""
        self.named += 1
        named = self.named if self.rng.random() < 0.98 else max(1, self.named - self.rng.choice((1, 2, 50)))
        return replace(draft, key=f"n{named}", key_window_ms=self.rng.choice((None, None, 50, 100, 450)))

    def request(self) -> Request:
        rng = self.rng
        roll = rng.random()
        queue = rng.choice(QUEUES)
        command: c.Command
        if roll < 0.35:
            odd = rng.choice((0.0, 0.0, 0.1, 0.6))
            drafts = [self.draft(rng.random() < odd) for _ in range(rng.randint(1, 30))]
            if rng.random() < 0.4:
                drafts = [self.with_key(draft) for draft in drafts]
            command = Enqueue(queue, tuple(drafts))
        elif roll < 0.6:
            names = rng.choice(((queue,), QUEUES))
            command = Lease(
                names, "w", rng.randint(1, 40), rng.choice((None, 700)), rng.choice((8, 40, 1 << 20))
            )
        elif roll < 0.8:
            taken = [self.token() for _ in range(rng.randint(1, 40))]
            result, each = rng.choice((None, None, b"1", b"{}")), rng.choice((1, 7))
            command = Ack(
                tuple(AckItem(token, result if at % each == 0 else None) for at, token in enumerate(taken))
            )
        elif roll < 0.85:
            command = c.Release(tuple(self.token() for _ in range(rng.randint(1, 5))))
        elif roll < 0.9:
            command = c.Nack(tuple(c.NackItem(self.token()) for _ in range(rng.randint(1, 5))))
        elif roll < 0.95:
            command = c.Expire(1000)
        else:
            command = rng.choice(
                (
                    c.PutQueue(queue, c.QueueConfig(lease_ms=1000)),
                    c.PutQueue(queue, c.QueueConfig(lease_ms=1000, max_leased=25, retention_ms=500)),
                    c.PutQueue(queue, c.QueueConfig(lease_ms=1000, max_messages=40, result_retention_ms=0)),
                    c.PutQueue(queue, c.QueueConfig(lease_ms=1000, result_retention_ms=900)),
                    c.PutQueue(queue, c.QueueConfig(lease_ms=1000, ttl_ms=3000)),
                    c.PurgeQueue(queue),
                    c.DeleteQueue(queue),
                    c.PauseQueue(queue, lease=rng.random() < 0.5),
                )
            )
        return Request(command)

    def token(self) -> Token | None:
        """Mostly live ones in their order; now and then one again, or none."""
        rng = self.rng
        if not self.tokens or rng.random() < 0.03:
            return rng.choice((None, Token(3, b"x" * 16)))
        if rng.random() < 0.1:
            return rng.choice(self.tokens)
        return self.tokens.pop(0)


def records(walk: Walk) -> list[tuple[int, bytes]]:
    found = []
    while (item := walk.next()) is not None:
        if item is not NOTHING_YET:
            found.append(item)
    return sorted(found)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_log_with_and_without_it(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    author, clock = Author(seed), Random(seed)
    quick, plain = Machine(), Machine()
    walks: list[Walk] = []
    now_ms = 1_000_000
    for index in range(1, 121):
        now_ms += clock.choice((0, 1, 50, 50, 400, 70_000))
        requests = [author.request() for _ in range(clock.choice((1, 1, 3)))]
        if index == 1:
            requests = [Request(c.Genesis("cluster", b"s" * 32, ("n1",)))]
        if index % 17 == 0:
            walks = [Walk(quick), Walk(plain)]
        answers, hints = [], []
        for machine, fewest in ((quick, 1), (plain, OUT_OF_REACH)):
            monkeypatch.setattr(bulk, "FEWEST", fewest)
            machine.begin_entry(index, now_ms, c.MACHINE_VERSION, b"entry")
            answers.append([machine.apply(as_proposed(machine, request)) for request in requests])
            effects = machine.end_entry()
            hints.append((effects.ready, list(effects.finished), effects.deleted))
        assert answers[0] == answers[1], index
        assert hints[0] == hints[1], index
        assert quick.digest() == plain.digest()
        for answer in answers[0]:
            if isinstance(answer.reply, Leased):
                author.tokens += [token_of(grant, quick.secret) for grant in answer.reply.grants]
        if index % 17 == 4 and walks:
            taken = [records(walk) for walk in walks]
            assert taken[0] == taken[1]
            for walk in walks:
                walk.close()
        if index % 10 == 0 and quick.walk is None:
            assert state_digest(quick) == state_digest(plain)
            assert invariants.check(quick) == [] and invariants.check(plain) == []
            assert derived(quick) == derived(plain)


def test_it_is_used() -> None:
    """Or the comparison above compares nothing."""
    machine = Machine()
    machine.begin_entry(1, 1000, c.MACHINE_VERSION)
    machine.apply(Request(c.PutQueue("q", c.QueueConfig())))
    queue = machine.queues["q"]
    made = bulk.enqueue(machine, queue, [Draft()] * 5)
    assert made == queue.index.slice_after(0, 1)[0].number and queue.counts[READY] == 5
    assert invariants.check(machine) == []
    leased: list[Message] = []
    assert bulk.lease(machine, queue, Lease(("q",), "w", 3), leased, 100, 3) == (0, 88)
    assert len(leased) == 3 and invariants.check(machine) == []
    assert bulk.ack(machine, leased, 1) == 2 and invariants.check(machine) == []


def test_leases_that_are_plain_by_turns_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bulk and general code take turns a thousand times: that must not look at all that is left each time (R25)."""
    kit = Kit()
    kit.put(*[Draft(key=f"k{n}" if n % 2 else None) for n in range(1000)])
    grants = kit.lease(1000)
    looked_up = 0

    def counting(table: NumberTable[Message], keys: Sequence[int]) -> list[Message | None]:
        nonlocal looked_up
        looked_up += len(keys)
        return [table.get(key) for key in keys]

    monkeypatch.setattr(NumberTable, "get_many", counting)
    reply = kit(c.AckLeases(tuple(grant.fence for grant in grants)))
    assert reply == SettledAll(acked=1000) and looked_up == 1000
    assert invariants.check(kit.m) == []


@pytest.mark.parametrize("odd", ["a lease not given yet", "a wrong mac", "an effect", "a result"])
def test_one_odd_item_leaves_the_others_in_bulk(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One apply is not cut into slices: a thousand acks must not take the long way for the sake of one (R25)."""
    kit = Kit()
    kit.put(*[Draft()] * 1000)
    given = [token(grant) for grant in kit.lease(1000)]
    slowly: list[int] = []
    one_by_one = settle._ack_one

    def counting(m: Machine, message: Message, item: AckItem) -> None:
        slowly.append(message.number)
        one_by_one(m, message, item)

    monkeypatch.setattr(settle, "_ack_one", counting)
    if odd in ("a result", "an effect"):
        effects = (c.EffectDone("e"),) if odd == "an effect" else ()
        items = [AckItem(one) for one in given]
        items[500] = AckItem(given[500], b"1", effects)
        statuses = [one.status for one in kit(Ack(tuple(items))).results]  # type: ignore[union-attr]
        assert statuses == ["acked"] * 1000 and len(slowly) == len(effects)
        assert invariants.check(kit.m) == []
        return
    spoilt = Token(given[500].fence + (10**6 if "given" in odd else 0), b"x" * 16)
    command = c.AckTokens(join_tokens([*given[:500], spoilt, *given[501:]]))
    statuses = [one.status for one in kit(command).results]  # type: ignore[union-attr]
    assert statuses == ["acked"] * 500 + ["not_found"] + ["acked"] * 499 and not slowly
    assert invariants.check(kit.m) == []
