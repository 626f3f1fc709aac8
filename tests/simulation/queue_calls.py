"""Clients' requests and their repeats, as the SDK makes them: the same request id until an answer or the end of the
client's patience, full jitter between (R12, R35). What is sent together travels as one entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from tests.simulation.node import SimNode
from tests.simulation.options import Options
from tests.simulation.queue_duties import LeaderDuties
from tests.simulation.world import World
from tests.tokens import as_proposed
from trivet.consensus.port import Applied, NotProposed, Outcome
from trivet.machine import commands as c
from trivet.machine import replies as r
from trivet.wire.entry import encode_entry

GIVE_UP_SECONDS = 20.0  # shorter than the request window of 60 s (R12)

Then = Callable[[r.Reply, bool], None]
"""(reply, repeated)"""


@dataclass
class Call:
    """One request of one client with its repeats."""

    number: int
    request: c.Request
    then: Then
    until: float
    attempts: int = 0


class Callers(LeaderDuties):
    def __init__(self, world: World, options: Options, nodes: dict[str, SimNode]) -> None:
        super().__init__(world, options, nodes)
        self.calls: dict[int, Call] = {}
        self._at: dict[int, list[int]] = {}  # proposal -> calls in it
        self._fresh: list[int] = []

    def call(self, command: c.Command, then: Then | None = None) -> None:
        """A new request; it leaves with the next `flush`."""
        self.next_id += 1
        number = self.next_id
        fingerprint = blake2b(msgspec.msgpack.encode(command), digest_size=16).digest()
        request = c.Request(command, f"r{number}", fingerprint)
        self.calls[number] = Call(number, request, then or self._ignore, self.world.now + GIVE_UP_SECONDS)
        self._fresh.append(number)

    def flush(self) -> None:
        fresh, self._fresh = self._fresh, []
        if fresh:
            self._attempt(fresh)

    @staticmethod
    def _ignore(reply: r.Reply, repeated: bool) -> None:
        """The log's witness has judged it already."""

    def _attempt(self, numbers: list[int]) -> None:
        calls = []
        for number in numbers:
            call = self.calls.get(number)
            if call is not None and call.until <= self.world.now:
                del self.calls[number]
                self.world.count("client gave up")
            elif call is not None:
                calls.append(call)
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
        machine = node.machine.machine  # type: ignore[union-attr]
        requests = [as_proposed(machine, call.request) for call in calls]
        data = encode_entry(c.MACHINE_VERSION, self.stamp(node), requests)
        self.submit(node, proposal, data, lambda what: self._answered(node, proposal, what))
        return None

    def _again(self, calls: list[Call]) -> None:
        """What waits together often travels together."""
        delay = self.rng.uniform(0.02, 0.6)
        numbers = [call.number for call in calls]
        self.world.after(delay, lambda: self._attempt(numbers))

    def _answered(self, node: SimNode, proposal: int, what: Outcome) -> None:
        calls = [self.calls[number] for number in self._at.pop(proposal)]
        if isinstance(what, Applied):
            for call, answer in zip(calls, what.result, strict=True):
                del self.calls[call.number]
                self.world.count("answered" if not answer.repeated else "answered with the first answer")
                call.then(answer.reply, answer.repeated)
            self.acknowledged(node, what.index)
        elif isinstance(what, NotProposed) and what.reason == "not reached":
            self._again(calls)
        else:
            self.world.count("outcome unknown" if not isinstance(what, NotProposed) else "not proposed")
            if isinstance(what, NotProposed):
                self.refused.add(proposal)
            self._again(calls)

    def died_with(self, proposal: int) -> None:
        calls = [self.calls[number] for number in self._at.pop(proposal, ())]
        if calls:
            self._again(calls)
