"""The clients of the real machine and the judges over them.

Clients: `queue_acts.py` over `queue_calls.py`; the leader's duties: `queue_duties.py`. Judges: `queue_laws.py` looks at
each committed entry once, when the first node applies it; `queue_model.py` plays the log of some seeds on the dumb
model; here, at the end, every acknowledged message is accounted for.
"""

from __future__ import annotations

from typing import Any

from tests.simulation.node import SimNode
from tests.simulation.options import Options
from tests.simulation.queue_acts import BURST, ENDLESS, MORTAL, STEADY, WILD, Acts
from tests.simulation.queue_laws import QueueLaws
from tests.simulation.queue_model import Referee
from tests.simulation.queue_topics import STEADY_GROUPS, WILD_GROUPS
from tests.simulation.world import EPOCH_MS, World
from trivet.machine import commands as c
from trivet.machine import replies as r
from trivet.machine.state import BLOCKED, DELAYED, LEASED, READY
from trivet.wire.entry import decode_entry

QUEUES = STEADY
WRONG_CLOCK_SLACK_MS = 120_000
REFEREED = 0.15
"""The share of seeds whose log is played on the model too."""


MOVES_ENDED = (c.Redrive, c.PurgeDead, c.PurgeQueue, c.DeleteQueue, c.DeleteTopic, c.DeleteGroup, c.Expire)


class QueueWorkload(Acts):
    def __init__(self, world: World, options: Options, nodes: dict[str, SimNode]) -> None:
        super().__init__(world, options, nodes)
        self.laws = QueueLaws(world)
        self.run_laws = self.laws.runs
        self.clocks_promised = True  # R1 holds: at most one wrong clock
        self.referee: Referee | None = None
        if self.rng.random() < REFEREED:
            self.world.count("seeds judged by the model")
            self.referee = Referee(world)
            self.expire_limit = 1000  # the model does all that is due

    def start(self) -> None:
        self.call(c.PutQueue("q1", ENDLESS))
        self.call(c.PutQueue("q2", MORTAL))
        for name in WILD:
            self.call(c.PutQueue(name, self._wild_config()))
        self.begin_schedules()
        self.flush()
        self.begin_reading()
        self.make_topics(ENDLESS, MORTAL)
        super().start()

    def _next(self) -> None:
        if self.stopped:
            return
        self.act()
        every = self.options.op_every * sum(BURST) / len(BURST)
        self.world.after(self.rng.expovariate(1.0 / every), self._next)

    # --- the witness ------------------------------------------------------------------------------------

    def witness(self, index: int, data: bytes, answers: list[r.Answer], machine: Any) -> None:
        """The first node has applied this entry."""
        clock_ms = machine.clock_ms
        self.laws.flows.look = self.laws.topics.look = machine.find
        self.laws.runs.machine = machine
        if self.clocks_promised:
            bound = EPOCH_MS + self.world.now * 1000 * (1 + self.options.drift) + self.options.wall_spread_ms
            if clock_ms > bound + WRONG_CLOCK_SLACK_MS:
                self.world.violate(
                    "time moved by a wrong clock", f"{clock_ms - bound:.0f} ms too far at {index}"
                )
        if self.referee is not None:
            self.referee.entry(index, data, answers)
        if data:
            requests = decode_entry(data).requests
            self.laws.runs.undisturbed = not any(isinstance(one.command, MOVES_ENDED) for one in requests)
            for request, answer in zip(requests, answers, strict=True):
                self.laws.judge(index, clock_ms, request, answer)

    # --- the end ----------------------------------------------------------------------------------------

    def drain(self) -> None:
        """After the heal: whoever works leases all there is and acks it."""
        self.world.count("drain rounds")
        if not self.draining:
            self.draining = True
            self.end_schedules()
            for queue in (*STEADY, *WILD):
                self.call(c.PauseQueue(queue, False, False))
        self.ack_all()
        # One by one: where a queue was never made, the whole request would be refused.
        for queue in (*STEADY, "w1", "w2", *STEADY_GROUPS, *WILD_GROUPS):
            self.lease_from((queue,), 100, 2000)
        self.flush()

    def drained(self, machine: Any) -> bool:
        """No call is open, nothing waits or runs in any queue, and no group has to catch up."""
        return (
            not self.calls
            and not machine.catching_up
            and not any(
                queue.counts[state]
                for queue in machine.queues.values()
                for state in (BLOCKED, DELAYED, READY, LEASED)
            )
        )

    def account(self, machine: Any) -> None:
        """Promise 1: an acknowledged message of a queue that forgets nothing has ended as its clients ended it, or
        is there."""
        for number in sorted(self.known):
            fact = self.laws.facts[number]
            if fact.queue in WILD or fact.ended in ("done", "cancelled") or fact.marked:
                continue
            if machine.find(number) is None:
                self.world.violate("acked lost", f"message {number} of {fact.queue}, last known: {fact}")
        self.laws.runs.close("the end", machine, self.readers)
        self.laws.flows.close()
        self.laws.schedules.close()
        self.laws.topics.close()
        if self.referee is not None:
            self.referee.close()
