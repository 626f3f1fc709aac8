"""Clients of the real machine: they enqueue, lease, settle and commit effects, and repeat under their request id what
they got no answer for, as the SDK does (R12, R35). The log itself is the witness: each entry is judged once, when
the first node applies it.

Laws: a message acked is never delivered or acked again; fences only rise; an effect commits once; a repeated request
gets the first answer; a key names one message; no acknowledged message is lost; time is not moved by a wrong clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from tests.simulation.node import SimNode
from tests.simulation.options import Options
from tests.simulation.workload import Workload
from tests.simulation.world import EPOCH_MS, World
from trivet.consensus.port import Applied, NotProposed, Outcome
from trivet.machine import commands as c
from trivet.machine import replies as r
from trivet.node.stamps import Stamper
from trivet.wire.entry import decode_entry, encode_entry

GIVE_UP_SECONDS = 20.0  # shorter than the request window of 60 s (R12)
GRACE_SECONDS = 1.0  # no expiry for so long after taking office (R1; shorter here, so that leases do end)
WRONG_CLOCK_SLACK_MS = 120_000
QUEUES = ("q1", "q2")

Then = Callable[[r.Reply, bool], None]


@dataclass
class Call:
    """One request of one client with its repeats."""

    number: int
    request: c.Request
    then: Then
    until: float
    attempts: int = 0


@dataclass
class Held:
    """A lease as its worker knows it."""

    message: int
    token: c.Token


class QueueWorkload(Workload):
    def __init__(self, world: World, options: Options, nodes: dict[str, SimNode]) -> None:
        super().__init__(world, options, nodes)
        self.stampers: dict[str, Stamper] = {}
        self.calls: dict[int, Call] = {}
        self._at: dict[int, list[int]] = {}  # proposal -> calls in it
        self._office: dict[str, tuple[int, int, float]] = {}
        self._expiring: dict[str, tuple[int, int]] = {}
        self.held: list[Held] = []
        self.spent: list[c.Token] = []
        # what the log says
        self.message_of: dict[int, int] = {}  # fence -> message
        self.last_fence = 0
        self.done: dict[int, int] = {}  # message -> index of its ack
        self.known: set[int] = set()  # messages whose enqueue was acknowledged to a client
        self.gone: set[int] = set()  # cancelled
        self.effects: dict[str, int] = {}  # effect id -> index of its commit
        self.first: dict[str, r.Reply] = {}  # request id -> its first answer
        self.keys: dict[str, int] = {}

    # --- leaders' duties --------------------------------------------------------------------------------

    def stamp(self, node: SimNode) -> int:
        assert node.machine is not None
        return self.stampers[node.name].now_ms(node.machine.machine.clock_ms)  # type: ignore[attr-defined]

    def duties(self, node: SimNode) -> None:
        """After each turn of a leader: office, genesis, expiry."""
        replica = node.replica
        if replica is None or node.machine is None or not replica.can_propose:
            return
        machine, now = node.machine.machine, self.world.now  # type: ignore[attr-defined]
        office = (node.incarnation, replica.term)
        if self._office.get(node.name, (0, 0, 0.0))[:2] != office:
            self._office[node.name] = (*office, now)
            self._expiring.pop(node.name, None)
            self.stampers[node.name].take_office(machine.clock_ms)
            if not machine.cluster_id:
                self._duty(node, c.Genesis("simulated", b"s" * 32, tuple(node.members)))
        due = machine.next_deadline_ms()
        late = due is not None and due <= self.stampers[node.name].peek_ms(machine.clock_ms)
        if (
            late
            and now >= self._office[node.name][2] + GRACE_SECONDS
            and self._expiring.get(node.name) != office
        ):
            self._expiring[node.name] = office
            self._duty(node, c.Expire(10))

    def _duty(self, node: SimNode, command: c.Command) -> None:
        def ended(_: Outcome) -> None:
            self._expiring.pop(node.name, None)

        self.next_id += 1
        data = encode_entry(c.MACHINE_VERSION, self.stamp(node), [c.Request(command)])
        self.submit(node, self.next_id, data, ended)

    def start(self) -> None:
        """Queues whose messages never die and come back soon, so that everything can be drained."""
        backoff = c.Backoff("fixed", base_ms=300, max_ms=300)
        for queue in QUEUES:
            self._call(c.PutQueue(queue, c.QueueConfig(max_attempts=0, backoff=backoff)), self._ignore)
        super().start()

    # --- clients ----------------------------------------------------------------------------------------

    def _next(self) -> None:
        if self.stopped:
            return
        self._act()
        self.world.after(self.rng.expovariate(1.0 / self.options.op_every), self._next)

    def _act(self) -> None:
        rng = self.rng
        kind = rng.choices(
            ("enqueue", "lease", "ack", "nack", "extend", "effect", "other", "read"), (6, 6, 5, 1, 1, 1, 1, 1)
        )[0]
        if kind == "enqueue":
            self._enqueue()
        elif kind == "lease":
            self._lease()
        elif kind == "read":
            believers = [node for node in self.nodes.values() if node.is_leader]
            if believers:
                self.read(rng.choice(believers))
        elif kind == "other":
            self._other()
        elif self.held:
            held = self.held[rng.randrange(len(self.held))]
            if kind == "ack":
                self._ack([held])
            elif kind == "nack":
                self._call(
                    c.Nack((c.NackItem(held.token, "failed", rng.choice((None, 0, 400))),)), self._ignore
                )
            elif kind == "extend":
                self._call(c.Extend((c.ExtendItem(held.token, rng.choice((500, 3000))),)), self._ignore)
            else:
                self._effect(held)

    def _other(self) -> None:
        rng = self.rng
        if self.spent and rng.random() < 0.5:  # a worker that comes too late
            self._call(c.Ack((c.AckItem(rng.choice(self.spent)),)), self._ignore)
        elif self.held and rng.random() < 0.5:
            self._call(c.Release((self.held[rng.randrange(len(self.held))].token,)), self._ignore)
        else:
            pause = rng.random() < 0.3
            self._call(c.PauseQueue(rng.choice(QUEUES), None, pause), self._ignore)

    def _enqueue(self) -> None:
        rng = self.rng
        drafts = []
        for _ in range(rng.choice((1, 1, 3))):
            key = f"k{rng.randrange(40)}" if rng.random() < 0.2 else None
            body = b'"%s"' % (key or "x" * rng.randrange(1, self.options.op_bytes + 1)).encode()
            drafts.append(
                c.Draft(
                    body, priority=rng.choice((0, 0, 5)), delay_ms=rng.choice((0, 0, 0, 700)),
                    group=rng.choice((None, None, "g1", "g2")), key=key,
                )
            )  # fmt: skip
        queue = "q1" if any(draft.key for draft in drafts) else rng.choice(QUEUES)

        def enqueued(reply: r.Reply, _: bool) -> None:
            if isinstance(reply, r.Enqueued):
                self.world.count("messages enqueued", len(reply.messages))
                self.known.update(one.message for one in reply.messages)

        self._call(c.Enqueue(queue, tuple(drafts)), enqueued)

    def _lease(self, most: int | None = None) -> None:
        rng = self.rng
        lease_ms = rng.choice((300, 1500, 5000)) if most is None else 10_000
        command = c.Lease(QUEUES, f"w{rng.randrange(5)}", most or rng.choice((1, 2, 5)), lease_ms)

        def leased(reply: r.Reply, _: bool) -> None:
            if isinstance(reply, r.Leased):
                self.held += [Held(grant.message, c.Token(grant.fence, grant.mac)) for grant in reply.grants]

        self._call(command, leased)

    def _ack(self, all_held: list[Held]) -> None:
        items = []
        for held in all_held:
            self.held.remove(held)
            self.spent.append(held.token)
            effects = (c.EffectDone(f"ack-{held.message}", b"1"),) if self.rng.random() < 0.5 else ()
            items.append(c.AckItem(held.token, None, effects))
        del self.spent[:-200]

        def acked(reply: r.Reply, _: bool) -> None:
            if isinstance(reply, r.SettledAll):
                for each in reply.results:
                    self.world.count(f"ack said {each.status}")

        self._call(c.Ack(tuple(items)), acked)

    def _effect(self, held: Held) -> None:
        effect_id = f"effect-{held.message}"

        def granted(reply: r.Reply, _: bool) -> None:
            if isinstance(reply, r.EffectState) and reply.state == "granted" and reply.fence is not None:
                token = c.Token(reply.fence, reply.mac or b"")
                if self.rng.random() < 0.8:
                    self._call(c.EffectCommit(token, b"2"), self._ignore)
                else:
                    self._call(c.EffectAbort(token), self._ignore)

        self._call(c.EffectBegin(effect_id, "owner", held.token, True), granted)

    def _ignore(self, reply: r.Reply, repeated: bool) -> None:
        """The log's witness has judged it already."""

    # --- calls and their repeats --------------------------------------------------------------------------

    def _call(self, command: c.Command, then: Then) -> None:
        self.next_id += 1
        number = self.next_id
        fingerprint = blake2b(msgspec.msgpack.encode(command), digest_size=16).digest()
        request = c.Request(command, f"r{number}", fingerprint)
        self.calls[number] = Call(number, request, then, self.world.now + GIVE_UP_SECONDS)
        self._attempt([number])

    def _attempt(self, numbers: list[int]) -> None:
        calls = [self.calls[number] for number in numbers if number in self.calls]
        for call in calls:
            if call.until <= self.world.now:
                del self.calls[call.number]
                self.world.count("client gave up")
        calls = [call for call in calls if call.number in self.calls]
        if not calls:
            return None
        believers = [node for node in self.nodes.values() if node.can_propose]
        if not believers:
            return self._again(calls)
        node = self.rng.choice(believers)
        self.next_id += 1
        proposal = self.next_id
        self._at[proposal] = [call.number for call in calls]
        for call in calls:
            call.attempts += 1
            self.world.count("requests" if call.attempts == 1 else "requests repeated")
        data = encode_entry(c.MACHINE_VERSION, self.stamp(node), [call.request for call in calls])
        self.submit(node, proposal, data, lambda what: self._answered(proposal, what))
        return None

    def _again(self, calls: list[Call]) -> None:
        """Full jitter; what waits together often travels together."""
        delay = self.rng.uniform(0.02, 0.6)
        numbers = [call.number for call in calls]
        self.world.after(delay, lambda: self._attempt(numbers))

    def _answered(self, proposal: int, what: Outcome) -> None:
        calls = [self.calls[number] for number in self._at.pop(proposal, ()) if number in self.calls]
        if isinstance(what, Applied):
            self.acked_to = max(self.acked_to, what.index)
            for call, answer in zip(calls, what.result, strict=False):
                self.calls.pop(call.number, None)
                self.world.count("answered" if not answer.repeated else "answered with the first answer")
                call.then(answer.reply, answer.repeated)
        elif isinstance(what, NotProposed) and what.reason == "not reached":
            self._again(calls)
        else:
            self.world.count("outcome unknown" if not isinstance(what, NotProposed) else "not proposed")
            if isinstance(what, NotProposed):
                self.refused.add(proposal)
            self._again(calls)

    def died_with(self, proposal: int) -> None:
        calls = [self.calls[number] for number in self._at.pop(proposal, ()) if number in self.calls]
        if calls:
            self._again(calls)

    # --- the witness ----------------------------------------------------------------------------------------

    def witness(self, index: int, data: bytes, answers: list[r.Answer], clock_ms: int) -> None:
        """The first node has applied this entry."""
        bound = EPOCH_MS + self.world.now * 1000 * (1 + self.options.drift) + self.options.wall_spread_ms
        if clock_ms > bound + WRONG_CLOCK_SLACK_MS:
            self.world.violate("time moved by a wrong clock", f"{clock_ms - bound:.0f} ms too far at {index}")
        if not data:
            return
        for request, answer in zip(decode_entry(data).requests, answers, strict=True):
            self._judge_repeat(index, request, answer)
            if not answer.repeated:
                self._judge_first(index, request, answer.reply)

    def _judge_repeat(self, index: int, request: c.Request, answer: r.Answer) -> None:
        if request.request_id is None or isinstance(answer.reply, r.Refusal):
            return
        first = self.first.get(request.request_id)
        if first is None:
            if answer.repeated:
                self.world.violate("repeat", f"{request.request_id} at {index} repeats nothing")
            self.first[request.request_id] = answer.reply
            return
        self.world.count("repeats in the log")
        if isinstance(first, r.Leased) and isinstance(answer.reply, r.Leased):
            if not first.grants:
                return  # R18: an empty answer is not remembered
            fences = {grant.fence for grant in first.grants}
            if not answer.repeated or not {grant.fence for grant in answer.reply.grants} <= fences:
                self.world.violate(
                    "repeat", f"lease {request.request_id} at {index} granted anew: {answer} after {first}"
                )
        elif isinstance(first, r.EffectState) and isinstance(answer.reply, r.EffectState) and first.fence:
            self._judge_effect_repeat(index, request, answer, first, answer.reply)
        elif not answer.repeated or answer.reply != first:
            self.world.violate("repeat", f"{request.request_id} at {index}: {answer}, first was {first}")

    def _judge_effect_repeat(
        self, index: int, request: c.Request, answer: r.Answer, first: r.EffectState, again: r.EffectState
    ) -> None:
        """R27: a repeated begin gives its grant while that lives, which is as long as its lease: that may have
        been extended since, so only the instant may differ. After the end the effect is begun anew."""
        if not answer.repeated:
            self.first[request.request_id or ""] = again  # `_judge_first` looks at its fence
        elif msgspec.structs.replace(again, expires_at_ms=first.expires_at_ms) != first:
            self.world.violate("repeat", f"{request.request_id} at {index}: {answer}, first was {first}")

    def _judge_first(self, index: int, request: c.Request, reply: r.Reply) -> None:
        command = request.command
        if isinstance(reply, r.Leased):
            for grant in reply.grants:
                if grant.message in self.done:
                    self.world.violate("delivered after ack", f"message {grant.message} at {index}")
                self._fence(index, grant.fence)
                self.message_of[grant.fence] = grant.message
        elif isinstance(reply, r.Enqueued) and isinstance(command, c.Enqueue):
            for draft, one in zip(command.drafts, reply.messages, strict=True):
                if draft.key is not None and self.keys.setdefault(draft.key, one.message) != one.message:
                    self.world.violate("key", f"{draft.key} names {self.keys[draft.key]} and {one.message}")
        elif isinstance(reply, r.SettledAll) and isinstance(command, c.Ack):
            for item, settled in zip(command.items, reply.results, strict=True):
                if settled.status == "acked" and not settled.repeated:
                    self._acked(index, item)
        elif isinstance(reply, r.EffectState):
            if reply.fence is not None and reply.state == "granted" and not reply.repeated:
                self._fence(index, reply.fence)
            if isinstance(command, c.EffectCommit) and reply.state == "done" and not reply.repeated:
                assert command.token is not None
                self._effect_committed(index, f"fence {command.token.fence}")

    def _fence(self, index: int, fence: int) -> None:
        if fence <= self.last_fence:
            self.world.violate("fence", f"{fence} at {index} after {self.last_fence}")
        self.last_fence = fence

    def _acked(self, index: int, item: c.AckItem) -> None:
        assert item.token is not None
        message = self.message_of[item.token.fence]
        if message in self.done:
            self.world.violate("acked twice", f"message {message} at {self.done[message]} and {index}")
        self.done[message] = index
        self.world.count("messages acked")
        for effect in item.effects:
            self._effect_committed(index, effect.effect_id)

    def _effect_committed(self, index: int, effect_id: str) -> None:
        if effect_id in self.effects:
            self.world.violate("effect twice", f"{effect_id} at {self.effects[effect_id]} and {index}")
        self.effects[effect_id] = index
        self.world.count("effects committed")

    # --- the end ----------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """After the heal: whoever works leases all there is and acks it."""
        self.world.count("drain rounds")
        for queue in QUEUES:
            self._call(c.PauseQueue(queue, False, False), self._ignore)
        if self.held:
            self._ack(self.held[-100:])
            self.held.clear()
        self._lease(100)

    @property
    def drained(self) -> bool:
        return not self.calls and not self.known - set(self.done)
