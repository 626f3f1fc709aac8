"""Runs in logs where nearly every message belongs to one: machine against model, from a seed alone.

The general test (`test_model.py`) meets runs among everything else; here they are the matter.
"""

from __future__ import annotations

from collections import Counter

from tests.long import pick
from tests.machine.harness import Pair, rebuilt, state_of
from tests.machine.logs import Author
from tests.tokens import live_tokens
from trivet.machine import commands as c
from trivet.machine.replies import Done
from trivet.machine.run_commands import NewRunEvent
from trivet.machine.state import DELAYED

SEEDS = range(pick(6, 400))
STEPS = 120
HOUR = 3_600_000


class RunAuthor(Author):
    """Writes for a pair: what it names are the pair's messages and tokens."""

    def __init__(self, seed: int, pair: Pair) -> None:
        super().__init__(seed)
        self.pair = pair
        self.look()

    def look(self) -> None:
        self.machine, self.now = self.pair.machine, self.pair.now
        self.tokens, self.effect_tokens = self.pair.tokens, self.pair.effect_tokens

    def draft(self) -> c.Draft:
        rng = self.rng
        known = [n for n in (self.number(), self.number()) if self.machine.find(n) is not None]
        extras = c.Extras(
            run_id=rng.choice(("run", "run", "run2", None)),
            step_id=rng.choice((None, "s", "t")),
            max_attempts=rng.choice((None, None, 2)),
            depends_on=tuple(known[: rng.choice((0, 0, 1, 2))]),
            on_dependency_failure=rng.choice(("fail", "run")),
            retention_ms=rng.choice((None, 0, 10_000)),
        )
        return c.Draft(
            b"1" * rng.choice((1, 5)),
            priority=rng.choice((0, 0, 5)),
            delay_ms=rng.choice((0, 0, 0, 10, 100_000)),
            ttl_ms=rng.choice((None, None, 100, 100_000)),
            group=rng.choice((None, None, "g")),
            key=rng.choice((None, None, f"k{rng.randrange(9)}")),
            extras=extras,
        )

    def command(self) -> c.Command:
        rng = self.rng
        makers = (
            *(self.enqueue,) * 4,
            *(self.lease,) * 6,
            *(self.ack,) * 3,
            *(self.nack,) * 4,
            *(self.run_events,) * 2,
            *(self.replay,) * 2,
            *(self.other,) * 2,
            self.patch,
            self.queue,
        )
        return rng.choice(makers)()

    def run_events(self) -> c.Command:
        ids = (None, None, *(f"e{n}" for n in range(6)))
        some = tuple(NewRunEvent("t", b"1", self.rng.choice(ids)) for _ in range(self.rng.choice((1, 3))))
        return c.AppendRunEvents(self.rng.choice(("run", "run2", "nope")), some)

    def token(self) -> c.Token | None:
        live = live_tokens(self.machine)
        return self.rng.choice(live) if live and self.rng.random() < 0.8 else super().token()

    def patch(self) -> c.Command:
        """A delayed message that stays delayed takes no step: no event tells of it."""
        delayed = [number for number, m in self.machine.messages.items() if m.state == DELAYED]
        number = self.rng.choice(delayed) if delayed else self.number()
        return c.PatchMessage(number, None, self.now + self.rng.choice((0, 50, 200_000)))

    def replay(self) -> c.Command:
        step = self.rng.choice((None, None, "s", "t", "u"))
        return c.ReplayRun(
            self.rng.choice(("run", "run", "run2", "nope")), step, self.rng.choice((1, 2, 1000))
        )


def play(seed: int) -> Counter[str]:
    """What the runs were told, by type and reason."""
    pair = Pair()
    author = RunAuthor(seed, pair)
    config = c.QueueConfig(lease_ms=1000, max_attempts=3, backoff=c.Backoff("fixed", 50, jitter_milli=0))
    for name in "abc":
        pair.do(c.PutQueue(name, config))
    seen: Counter[str] = Counter()
    for step in range(STEPS):
        pair.now += author.rng.choice((*(0,) * 8, *(1, 10, 50) * 4, 500, 500, 40_000, HOUR // 2))
        author.look()
        pair.do(author.command(), author.rng.choice((None, None, f"r{author.rng.randrange(9)}")))
        if step % 3 == 0:
            leases = author.rng.random() < 0.9
            while (reply := pair.do(c.Expire(1000, leases))).more:  # type: ignore[union-attr]
                assert isinstance(reply, Done)
        if step % 50 == 49:
            before = state_of(pair.machine)
            pair.machine = rebuilt(pair.machine)
            assert state_of(pair.machine) == before
    for run in pair.machine.runs.values():
        seen.update(event.type for event in run.events)
        seen.update(reason for event in run.events for reason in REASONS if reason.encode() in event.data)
    return seen


REASONS = ("nacked", "released", "replayed", "redriven", "max_attempts", "dependency_failed", "rejected")


def test_runs_against_the_model() -> None:
    """And everything is in these logs."""
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        seen += play(seed)
    wanted = {*REASONS, "t", "message.done", "message.dead", "message.cancelled", "message.blocked"}
    assert wanted <= {name for name, count in seen.items() if count > 3}, seen
