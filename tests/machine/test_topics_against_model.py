"""Topics in logs that are about little else: machine against model, from a seed alone.

The general tests meet topics among everything else; here groups are full, catch up, lag behind and go.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.long import pick
from tests.machine.harness import SECRET, Pair, rebuilt, state_of
from tests.machine.logs import Author
from tests.tokens import token_of
from trivet.machine import commands as c
from trivet.machine.replies import Done, EffectState, Leased, Refusal

SEEDS = range(pick(8, 400))
STEPS = 120


class TopicAuthor(Author):
    def topic(self) -> str:
        return self.rng.choice("tttu")

    def draft(self) -> c.Draft:
        rng = self.rng
        return c.Draft(
            b"1" * rng.choice((1, 5)),
            priority=rng.choice((0, 0, 5)),
            delay_ms=rng.choice((0, 0, 0, 10, 100_000)),
            ttl_ms=rng.choice((None, None, 100, 100_000)),
            group=rng.choice((None, None, "g")),
            key=rng.choice((None, None, f"k{rng.randrange(6)}")),
            key_window_ms=rng.choice((None, 0, 1000)),
            extras=rng.choice((None, None, c.Extras(run_id="run"), c.Extras(max_attempts=1, tenant_id="x"))),
        )

    def command(self) -> c.Command:
        makers = (
            *(self.publish,) * 5,
            *(self.of_topics,) * 5,
            *(self.ack,) * 2,
            self.nack,
            self.lease,
            self.enqueue,
            *(self.expire,) * 2,
        )
        return self.rng.choice(makers)()


def play(seed: int) -> Counter[str]:
    author = TopicAuthor(seed)
    pair = Pair()
    author.machine = pair.machine
    seen: Counter[str] = Counter()
    for step in range(STEPS):
        author.now += author.rng.choice((0, 0, 1, 500, 500, 2_000, 40_000))
        pair.now = author.now
        command = author.command()
        for _ in range(20):  # an expiry goes on until nothing is due: the model knows no limit
            reply = pair.do(c.Expire(1000, command.leases) if isinstance(command, c.Expire) else command)
            if not isinstance(reply, Done) or not reply.more:
                break
        seen[type(command).__name__ + " " + getattr(reply, "code", "")] += 1
        seen["catching up"] += bool(pair.machine.catching_up)
        if isinstance(reply, Leased):
            author.tokens += [token_of(grant, SECRET) for grant in reply.grants]
        assert isinstance(reply, Refusal) or not isinstance(reply, EffectState)
        if step % 30 == 29:
            before = state_of(pair.machine)
            author.machine = pair.machine = rebuilt(pair.machine)
            assert state_of(pair.machine) == before
    return seen


@pytest.fixture(scope="module")
def seen() -> Counter[str]:
    return Counter()


@pytest.mark.parametrize("seed", SEEDS)
def test_random_log(seed: int, seen: Counter[str]) -> None:
    seen += play(seed)


def test_the_logs_were_about_topics(seen: Counter[str]) -> None:
    for what in (
        "Publish ",
        "PutGroup ",
        "ReplayGroup ",
        "DeleteGroup ",
        "Publish idempotency_conflict",
        "catching up",
    ):
        assert seen[what] >= 3, seen
