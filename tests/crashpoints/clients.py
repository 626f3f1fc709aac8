"""A client that tells its story step by step, and repeats under the same request id what it got no answer for (R12, R35)."""

from __future__ import annotations

from collections.abc import Generator
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec

from tests.simulation.node import SimNode
from tests.tokens import as_proposed
from trivet.consensus.port import Applied, NotProposed, Outcome
from trivet.machine import commands as c
from trivet.machine import replies as r
from trivet.wire.entry import encode_entry

if TYPE_CHECKING:
    from tests.crashpoints.cluster import Cluster

DEADLINE_SECONDS = 2.0
POLL_SECONDS = 0.005


class StoryBroken(Exception):
    """The answers do not make the story's sense."""


class Client:
    """A story yields a command (and gets its reply), seconds to sleep, or a condition to wait for."""

    def __init__(self, cluster: Cluster, name: str, story: Generator[Any, Any, None]) -> None:
        self.cluster, self.world, self.name = cluster, cluster.world, name
        self.ended = False
        self.kind = story.__name__
        self._story = story
        self._step = 0
        self._request: c.Request | None = None
        self._attempt = 0
        self._at: str | None = None  # the node that has the request now

    def picture(self) -> str:
        return f"{self.name} step {self._step} attempt {self._attempt} at {self._at}: {self._request}"[:300]

    def begin(self) -> None:
        self._go(None)

    def _go(self, value: Any) -> None:
        self._step += 1  # whatever still waits for the step before comes too late
        try:
            wanted = self._story.send(value)
        except StopIteration:
            self.ended = True
            return
        if isinstance(wanted, float):
            self.world.after(wanted, lambda: self._go(None))
        elif callable(wanted):
            self._wait(wanted)
        else:
            self._call(wanted)

    def _wait(self, condition: Any) -> None:
        if condition():
            self.world.after(0.0, lambda: self._go(None))
        else:
            self.world.after(POLL_SECONDS, lambda: self._wait(condition))

    def _call(self, command: c.Command) -> None:
        fingerprint = blake2b(msgspec.msgpack.encode(command), digest_size=16).digest()
        self._request = c.Request(command, f"{self.name}-{self._step}", fingerprint)
        self._attempt = 0
        self._try()

    # --- attempts -------------------------------------------------------------------------------------------

    def _try(self) -> None:
        request = self._request
        assert request is not None and request.request_id is not None
        believers = [node for node in self.cluster.nodes.values() if node.can_propose]
        if not believers:
            return self._again()
        node = believers[self._attempt % len(believers)]
        self._attempt += 1
        if self.cluster.fresh_request_ids and self._attempt > 1:
            request = msgspec.structs.replace(request, request_id=f"{request.request_id}-{self._attempt}")
        self._at = node.name
        proposed = as_proposed(node.machine.machine, request)  # type: ignore[union-attr]
        data = encode_entry(c.MACHINE_VERSION, self.cluster.stamp(node), [proposed])
        attempt = (self._step, self._attempt)

        def done(outcome: Outcome) -> None:
            self._leaves(node, attempt, request, outcome)

        node.submit(data, done, DEADLINE_SECONDS)
        return None

    def _again(self) -> None:
        self._at = None
        step = self._step
        delay = self.cluster.rng.uniform(0.01, 0.06)
        self.world.after(delay, lambda: self._try() if (self._step, self._at) == (step, None) else None)

    def _leaves(self, node: SimNode, attempt: tuple[int, int], request: c.Request, outcome: Outcome) -> None:
        """The node answers: the answer takes its way, unless the node is struck just here."""
        latency = self.cluster.options.latency

        def travels() -> None:
            self.world.after(latency, lambda: self._arrived(attempt, request, outcome))

        self.cluster.nodes[node.name].reply(travels)

    def _arrived(self, attempt: tuple[int, int], request: c.Request, outcome: Outcome) -> None:
        if attempt != (self._step, self._attempt):
            return  # it has repeated the request elsewhere
        if isinstance(outcome, Applied):
            (answer,) = outcome.result
            assert request.request_id is not None
            self.cluster.judge.told(request.request_id, answer)
            self._at = None
            self._go(answer.reply)
        else:
            self.world.say(
                f"{self.name} {'refused' if isinstance(outcome, NotProposed) else 'unknown'} {outcome}"
            )
            self._again()

    def node_died(self, name: str) -> None:
        """The connection broke. An answer that had left may still come, if it comes before the repeat."""
        if self._at == name:
            self._again()


def must(holds: bool, what: object) -> None:
    """Raises `StoryBroken`: a client was told what it can never be told."""
    if not holds:
        raise StoryBroken(str(what))


def fine(reply: r.Reply) -> Any:
    """The reply; a refusal is no part of any story."""
    must(not isinstance(reply, r.Refusal), reply)
    return reply
