"""What clients of the real machine do: the whole queue API, on queues of two kinds.

`STEADY` queues never lose a message by configuration, so that each can be accounted for at the end; the `WILD` ones
are re-configured, purged, deleted and made again all the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.simulation.node import SimNode
from tests.simulation.options import Options
from tests.simulation.queue_runs import RUNS, RunActs
from tests.simulation.queue_schedules import ScheduleActs
from tests.simulation.queue_topics import TopicActs
from tests.simulation.world import World
from tests.tokens import SECRET, token_of
from trivet.machine import commands as c
from trivet.machine import replies as r

STEADY = ("q1", "q2")
WILD = ("w1", "w2")
GROUPS = (None, None, None, "g1", "g2", "g3")

ENDLESS = c.QueueConfig(lease_ms=2000, max_attempts=0, backoff=c.Backoff("fixed", base_ms=300, max_ms=300))
MORTAL = c.QueueConfig(
    lease_ms=2000, max_attempts=3,
    backoff=c.Backoff(base_ms=100, factor_milli=1500, max_ms=600, jitter_milli=500),
)  # fmt: skip

BURST = (1, 1, 1, 4)
"""Things done in one entry: on the average `sum(BURST) / len(BURST)`."""

WEIGHTS = {
    "enqueue": 10.0, "lease": 11.0, "ack": 8.0, "child": 2.0, "nack": 3.0, "extend": 1.5, "release": 1.0,
    "effect": 3.0, "late": 1.0, "cancel": 0.8, "patch": 0.8, "progress": 0.6, "redrive": 0.8, "pause": 0.5,
    "wild_queue": 0.7, "read": 2.0, "flow": 1.5, "schedule": 1.0, "topic": 4.0, "tell": 2.0,
    "rerun": 1.0,
}  # fmt: skip


@dataclass
class Held:
    """A lease as its worker knows it."""

    message: int
    token: c.Token


class Acts(TopicActs, ScheduleActs, RunActs):
    def __init__(self, world: World, options: Options, nodes: dict[str, SimNode]) -> None:
        super().__init__(world, options, nodes)
        self.held: list[Held] = []
        self.spent: list[c.Token] = []
        self.numbers: dict[str, list[int]] = {name: [] for name in (*STEADY, *WILD)}  # newest enqueued
        self.steps_known: set[int] = set()
        self.known: set[int] = set()  # messages whose enqueue into a steady queue was acknowledged
        self.uncertain: list[c.Token] = []  # effect tokens nobody has ended yet
        self.draining = False  # whoever gets work acks it at once and asks for more
        self._kinds = list(WEIGHTS)
        # A swarm of its own: some worlds do much of one thing.
        self._weights = [w * self.rng.choice((0.2, 1.0, 1.0, 3.0)) for w in WEIGHTS.values()]

    def act(self) -> None:
        """One thing, or a few in one entry."""
        for _ in range(self.rng.choice(BURST)):
            kind = self.rng.choices(self._kinds, self._weights)[0]
            action: Callable[[], None] = getattr(self, "_" + kind)
            action()
        self.flush()

    def _pick(self) -> Held | None:
        return self.rng.choice(self.held) if self.held else None

    def _read(self) -> None:
        believers = [node for node in self.nodes.values() if node.is_leader]
        if believers:
            self.read(self.rng.choice(believers))

    # --- producers --------------------------------------------------------------------------------------

    def _draft(self, queue: str) -> c.Draft:
        rng = self.rng
        wild = queue in WILD
        key = f"k{rng.randrange(40)}" if rng.random() < 0.2 else None
        body = b'"%s"' % (key or "x" * rng.randrange(1, self.options.op_bytes + 1)).encode()
        extras = None
        if rng.random() < 0.15:
            recent = [n for n in self.numbers[queue][-6:] if rng.random() < 0.5][:3]
            extras = c.Extras(
                run_id=rng.choice((None, *RUNS, *RUNS)), max_attempts=rng.choice((None, None, 1, 2)),
                depends_on=tuple(recent), on_dependency_failure=rng.choice(("fail", "run")),
            )  # fmt: skip
        return c.Draft(
            body, priority=rng.choice((0, 0, 5, -5)), delay_ms=rng.choice((0, 0, 0, 700)),
            ttl_ms=rng.choice((None, 400, 3000)) if wild else None, group=rng.choice(GROUPS),
            key=key, key_window_ms=rng.choice((None, 1000)) if wild else None, extras=extras,
        )  # fmt: skip

    def _enqueue(self) -> None:
        rng = self.rng
        queue = rng.choice((*STEADY, *STEADY, *WILD))
        drafts = tuple(self._draft(queue) for _ in range(rng.choice((1, 1, 3))))

        def enqueued(reply: r.Reply, _: bool) -> None:
            if isinstance(reply, r.Enqueued):
                self._born(queue, reply.messages)

        self.call(c.Enqueue(queue, drafts), enqueued)

    def _born(self, queue: str, messages: tuple[r.EnqueuedOne, ...]) -> None:
        self.world.count("messages enqueued", len(messages))
        self.numbers[queue] = [*self.numbers[queue], *(one.message for one in messages)][-30:]
        if queue in STEADY:
            self.known.update(one.message for one in messages)

    # --- workers ----------------------------------------------------------------------------------------

    def _lease(self) -> None:
        rng = self.rng
        queues = rng.choice(((*STEADY, *WILD), STEADY, STEADY, WILD, ("q1",)))
        if any(name in WILD for name in queues):
            queues = tuple(name for name in queues if name in STEADY or rng.random() < 0.7) or WILD[:1]
        self.lease_from(queues, rng.choice((1, 2, 5)), rng.choice((300, 1500, 3000)))

    def lease_from(self, queues: tuple[str, ...], most: int, lease_ms: int) -> None:
        def leased(reply: r.Reply, _: bool) -> None:
            if isinstance(reply, r.Leased):
                self.held += [Held(grant.message, token_of(grant, SECRET)) for grant in reply.grants]
                if self.draining and reply.grants:
                    self.ack_all()
                    self.lease_from(queues, most, lease_ms)
                    self.flush()

        self.call(c.Lease(queues, f"w{self.rng.randrange(5)}", most, lease_ms), leased)

    def _item(self, held: Held) -> c.AckItem:
        self.held.remove(held)
        self.spent.append(held.token)
        del self.spent[:-200]
        effects = (c.EffectDone(f"effect-{held.message}", b"1"),) if self.rng.random() < 0.4 else ()
        return c.AckItem(held.token, self.rng.choice((None, None, b"7")), effects)

    def acked(self, reply: r.Reply, _: bool) -> None:
        if isinstance(reply, r.SettledAll):
            for each in reply.results:
                self.world.count(f"ack said {each.status}")

    def _ack(self) -> None:
        if (held := self._pick()) is not None:
            self.call(c.Ack((self._item(held),)), self.acked)

    def ack_all(self) -> None:
        """In requests that tell no more dependents than a command does at once: the model tells all of them."""
        while self.held:
            self.call(c.Ack(tuple(self._item(held) for held in self.held[-30:])), self.acked)

    def _child(self) -> None:
        """A pipeline: this message is done and the next one exists, or neither (R15)."""
        held = self._pick()
        if held is None:
            return
        queue = self.rng.choice((*STEADY, *WILD))

        def acked(reply: r.Reply, _: bool) -> None:
            if isinstance(reply, r.SettledAll) and reply.messages is not None:
                self._born(queue, reply.messages)

        body = b'{"parent":%d}' % held.message
        self.call(c.Ack((self._item(held),), (c.EnqueueTo(queue, c.Draft(body)),)), acked)

    def _nack(self) -> None:
        rng = self.rng
        if (held := self._pick()) is not None:
            if rng.random() < 0.7:  # else it believes to hold it still
                self.held.remove(held)
                self.spent.append(held.token)
            item = c.NackItem(held.token, "failed", rng.choice((None, None, 0, 400)), rng.random() < 0.1)
            self.call(c.Nack((item,)))

    def _extend(self) -> None:
        if (held := self._pick()) is not None:
            self.call(c.Extend((c.ExtendItem(held.token, self.rng.choice((None, 500, 3000))),)))

    def _release(self) -> None:
        if (held := self._pick()) is not None:
            self.held.remove(held)
            self.spent.append(held.token)
            self.call(c.Release((held.token,)))

    def _progress(self) -> None:
        if (held := self._pick()) is not None:
            self.call(c.Progress(held.message, held.token, self.rng.randrange(101), "on it"))

    def _late(self) -> None:
        """A worker that comes too late, or says the same once more under a new request id (R14)."""
        if self.spent:
            token = self.rng.choice(self.spent)
            self.call(
                self.rng.choice(
                    (c.Ack((c.AckItem(token),)), c.Nack((c.NackItem(token),)), c.Release((token,)))
                )
            )

    # --- effects ----------------------------------------------------------------------------------------

    def _effect(self) -> None:
        rng = self.rng
        if self.uncertain and rng.random() < 0.2:  # long after: its lease may be over
            return self._end_effect(self.uncertain.pop(0))
        held = self._pick()
        if held is None:
            return None
        bound = rng.random() < 0.8
        effect_id = f"effect-{held.message}"

        def granted(reply: r.Reply, _: bool) -> None:
            if isinstance(reply, r.EffectState) and reply.state == "granted" and reply.fence is not None:
                token = c.Token(reply.fence, reply.mac or b"")
                if rng.random() < 0.6:
                    self._end_effect(token)
                    self.flush()
                else:
                    self.uncertain.append(token)

        self.call(
            c.EffectBegin(effect_id, "owner", held.token if bound else None, bound, None if bound else 800),
            granted,
        )
        return None

    def _end_effect(self, token: c.Token) -> None:
        self.call(c.EffectCommit(token, b"2") if self.rng.random() < 0.7 else c.EffectAbort(token))

    # --- whoever looks after the queues -----------------------------------------------------------------

    def _some_number(self) -> int | None:
        numbers = self.numbers[self.rng.choice((*STEADY, *WILD))]
        return self.rng.choice(numbers) if numbers else None

    def _cancel(self) -> None:
        if (number := self._some_number()) is not None:
            self.call(c.Cancel(number))

    def _patch(self) -> None:
        number = self._some_number()
        if number is None:
            return
        rng = self.rng
        leader = next((node for node in self.nodes.values() if node.can_propose), None)
        later = self.stamp(leader) + 500 if leader is not None and rng.random() < 0.5 else None
        self.call(c.PatchMessage(number, rng.choice((None, -5, 9)) if later is not None else 9, later))

    def _redrive(self) -> None:
        origin, to = self.rng.choice((("q2", None), ("q2", "q1"), ("q1", None), ("w1", None), ("w1", "w2")))
        self.call(c.Redrive(origin, None, None, self.rng.choice((1, 10)), to))

    def _pause(self) -> None:
        name = self.rng.choice((*STEADY, *WILD))
        self.call(c.PauseQueue(name, self.rng.choice((None, False, True)), self.rng.random() < 0.3))
        self.world.after(self.rng.uniform(0.2, 2.0), lambda: self._resume(name))

    def _resume(self, name: str) -> None:
        if not self.stopped:
            self.call(c.PauseQueue(name, False, False))
            self.flush()

    def _wild_queue(self) -> None:
        rng = self.rng
        name = rng.choice(WILD)
        kind = rng.choice(("put", "put", "change", "delete", "purge", "purge_dead"))
        if kind == "put":
            self.call(c.PutQueue(name, self._wild_config()))
        elif kind == "change":
            changes = rng.choice(
                ({"max_attempts": 1}, {"ttl_ms": 2000}, {"max_dead": 1}, {"backoff": {"base_ms": 50}})
            )
            self.call(c.PatchQueue(name, dict(changes)))
        else:
            self.call({"delete": c.DeleteQueue, "purge": c.PurgeQueue, "purge_dead": c.PurgeDead}[kind](name))

    def _wild_config(self) -> c.QueueConfig:
        rng = self.rng
        return c.QueueConfig(
            lease_ms=rng.choice((500, 2000)),
            max_attempts=rng.choice((1, 2, 5)),
            backoff=c.Backoff(rng.choice(("fixed", "exponential")), base_ms=100, max_ms=500),
            ttl_ms=rng.choice((None, None, 1500)),
            dead_retention_ms=rng.choice((500, 1_209_600_000)),
            max_dead=rng.choice((0, 2, 100_000)),
            idempotency_window_ms=rng.choice((1000, 3_600_000)),
            retention_ms=rng.choice((0, 0, 1000)),
            result_retention_ms=rng.choice((1000, 3_600_000)),
            max_messages=rng.choice((None, 5, 30)),
            on_full=rng.choice(("reject", "dead_letter_oldest")),
            max_leased=rng.choice((None, 2)),
            max_leased_per_group=rng.choice((1, 1, 2)),
        )
